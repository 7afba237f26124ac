package caller

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/ristretto/v2"
)

// verified is a token that was found good. All but cleared stays as it is.
type verified struct {
	sum      [sha256.Size]byte // of the whole token
	who      Identity
	validity validity
	marks    marks

	signedBy [32]byte  // the thumbprint of the key, for a JWT
	renew    time.Time // when the provider must be asked again, otherwise

	claimBytes int           // the length of the claims in who, as they were sent
	cleared    atomic.Uint64 // the generation of the revocations that do not cover it
}

const (
	// entryBytes is about what an entry takes beside its texts: itself, and
	// what ristretto and the allocator add.
	entryBytes = 768
	// claimFactor is about how much larger a claim gets when it is decoded: the
	// worst are lists of short values.
	claimFactor = 16
)

// cost is about how many bytes an entry takes.
func (v *verified) cost() int64 {
	size := entryBytes + len(v.who.Subject) + len(v.who.ClientID) + len(v.who.JTI) + claimFactor*v.claimBytes
	for _, scope := range v.who.Scopes {
		size += 16 + len(scope) // and the string that points to it
	}
	return int64(size)
}

// cache remembers verified tokens within a bound of memory. It may forget any
// of them at any time. After close it is empty for good.
type cache struct {
	// mu lets close wait for those who are inside: ristretto itself panics when
	// it is used while it closes. Everyone else shares it.
	mu      sync.RWMutex
	entries *ristretto.Cache[uint64, *verified]
}

// newCache returns a cache of that many bytes. Zero means 16 MiB.
func newCache(size int64) (*cache, error) {
	if size < 0 {
		return nil, errors.New("cache size is negative")
	}
	if size == 0 {
		size = defaultCacheBytes
	}
	entries, err := ristretto.NewCache(&ristretto.Config[uint64, *verified]{
		MaxCost: size,
		// Ten times the number of entries, as ristretto advises.
		NumCounters: max(10*size/entryBytes, 100),
		BufferItems: 64,
		// Costs are bytes already.
		IgnoreInternalCost: true,
	})
	if err != nil {
		return nil, fmt.Errorf("cache of verified tokens: %w", err)
	}
	return &cache{entries: entries}, nil
}

// slot is where a token is kept. A part of its hash is enough to find it, since
// get compares the whole.
func slot(sum [sha256.Size]byte) uint64 { return binary.LittleEndian.Uint64(sum[:]) }

// get returns the entry of the token with that SHA-256, or nil.
func (c *cache) get(sum [sha256.Size]byte) *verified {
	c.mu.RLock()
	entry, ok := c.entries.Get(slot(sum))
	c.mu.RUnlock()
	if !ok || entry.sum != sum {
		return nil
	}
	return entry
}

// add remembers an entry for a time. A time that is not positive would mean
// for ever to ristretto.
func (c *cache) add(entry *verified, life time.Duration) {
	if life <= 0 {
		return
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	c.entries.SetWithTTL(slot(entry.sum), entry, entry.cost(), life)
}

func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries.Close()
}
