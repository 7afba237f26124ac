package tokens

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/ristretto/v2"
)

// Cache maps keys to entries and bounds what they take in memory. One Cache
// serves all credentials. It is safe for concurrent use.
type Cache struct {
	entries  *ristretto.Cache[string, *entry]
	bypassed atomic.Uint64
	suspicions

	closing sync.RWMutex // guards closed; taken first
	closed  bool

	mu sync.Mutex // guards what follows; taken last
	// busy are the entries on behalf of callers with a token request in flight,
	// which ristretto may not have yet, or no more.
	busy    map[string]*entry
	holders map[*holder]struct{}
}

const (
	// entryBytes is what an entry takes beside its texts: itself, its key, and
	// what ristretto keeps of it. Measured: see TestEntryBytes.
	entryBytes = 1280
	// ristretto advises ten counters for every item that is expected, and the
	// default buffer.
	countersPerEntry = 10
	bufferItems      = 64
	// MinCacheBytes is the smallest cache: its counters alone need some.
	MinCacheBytes = 64 << 10
)

// NewCache makes a cache that holds at most maxBytes of tokens, counted with
// everything that is kept beside them. Tokens of our own are never pushed out,
// whatever the bound. It runs a goroutine until Close.
func NewCache(maxBytes int64) (*Cache, error) {
	if maxBytes < MinCacheBytes {
		return nil, fmt.Errorf("tokens: a cache of %d bytes is too small: %d at least", maxBytes, MinCacheBytes)
	}
	c := &Cache{busy: map[string]*entry{}, holders: map[*holder]struct{}{}}
	var err error
	c.entries, err = ristretto.NewCache(&ristretto.Config[string, *entry]{
		NumCounters: maxBytes / entryBytes * countersPerEntry,
		MaxCost:     maxBytes,
		BufferItems: bufferItems,
		// The cost of an entry has this in it.
		IgnoreInternalCost: true,
		OnExit:             (*entry).leave,
		Metrics:            true,
	})
	if err != nil {
		return nil, fmt.Errorf("tokens: making the cache: %w", err)
	}
	return c, nil
}

// Close stops the cache's goroutine. The cache must not be used afterwards; a
// fetch may still be in flight.
func (c *Cache) Close() {
	c.closing.Lock()
	defer c.closing.Unlock()
	c.closed = true
	c.entries.Close()
}

// CacheStats are counts since the cache was made.
type CacheStats struct {
	// Hits and Misses count look-ups, and Bypasses the requests that were given
	// a token of their own.
	Hits, Misses, Bypasses uint64
	// Entries is how many are held now, and Bytes what they take.
	Entries, Bytes uint64
}

// Stats returns the cache's counts.
func (c *Cache) Stats() CacheStats {
	m := c.entries.Metrics
	return CacheStats{
		Hits:     m.Hits(),
		Misses:   m.Misses(),
		Bypasses: c.bypassed.Load(),
		Entries:  m.KeysAdded() - m.KeysEvicted(),
		Bytes:    m.CostAdded() - m.CostEvicted(),
	}
}

// own returns the entry of a credential's own token. Where ristretto has it not
// (it keeps and drops as it likes) it puts the given one back.
func (c *Cache) own(key string, held *entry) *entry {
	if e, ok := c.entries.Get(key); ok {
		return e
	}
	if held.of.life.Err() != nil { // nothing would take it out again
		return held
	}
	held.enter()
	if !c.entries.Set(key, held, entryBytes) {
		held.leave()
	}
	return held
}

// open returns the entry of a key, or makes one where there is none. One that
// was made is to be settled.
func (c *Cache) open(key string, create func() *entry) *entry {
	if e, ok := c.entries.Get(key); ok {
		return e
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.missed(key)
	if e == nil {
		e = create()
		c.busy[key] = e
	}
	return e
}

// missed returns the entry of a key that ristretto did not have, or nil. It has a
// fetch in flight, or has been settled since. The lock is held.
func (c *Cache) missed(key string) *entry {
	if e := c.busy[key]; e != nil {
		return e
	}
	if _, ok := c.entries.GetTTL(key); !ok { // which counts no second miss
		return nil
	}
	e, _ := c.entries.Get(key)
	return e
}

// keep has an entry found until it is settled. The entry's lock is held.
func (c *Cache) keep(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy[e.key] == nil {
		c.busy[e.key] = e
	}
}

// find returns the entry of a key, or nil.
func (c *Cache) find(key string) *entry {
	if e, ok := c.entries.Get(key); ok {
		return e
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.missed(key)
}

// settle puts an entry into ristretto once its answer is in, for as long as that
// is of use. It may block for a moment, and is not called with a lock held.
func (c *Cache) settle(e *entry) {
	c.closing.RLock()
	defer c.closing.RUnlock()
	if c.closed {
		e.close()
		return
	}
	if e.of.life.Err() == nil {
		cost, life := e.worth(time.Now())
		e.enter()
		if !c.entries.SetWithTTL(e.key, e, cost, life) {
			e.leave()
		}
		// Set is asynchronous: until it is done, others must still find the entry.
		c.entries.Wait()
	}
	if e.of.life.Err() != nil { // nobody asks for it any more
		c.entries.Del(e.key)
		e.close()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.fetching == nil && c.busy[e.key] == e {
		delete(c.busy, e.key)
	}
}

// drop forgets the entries of a holder whose credential is gone.
func (c *Cache) drop(h *holder) {
	keys := []string{h.key}
	if h.entries.Load() > 0 {
		c.entries.IterValues(func(e *entry) bool {
			if e.of == h && !e.pinned {
				keys = append(keys, e.key)
			}
			return false
		})
	}
	for _, key := range keys {
		c.entries.Del(key)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.holders, h)
}
