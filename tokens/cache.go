package tokens

import (
	"fmt"

	"github.com/dgraph-io/ristretto/v2"
)

// Cache maps keys to entries and bounds how many there are. One Cache serves
// all credentials. It is safe for concurrent use.
type Cache struct {
	entries *ristretto.Cache[string, *entry]
}

// ristretto advises ten counters for every item that is expected, and the
// default buffer.
const (
	countersPerEntry = 10
	bufferItems      = 64
)

// NewCache makes a cache for at most maxEntries entries. It runs a goroutine
// until Close.
func NewCache(maxEntries int64) (*Cache, error) {
	if maxEntries <= 0 {
		return nil, fmt.Errorf("tokens: a cache for %d entries", maxEntries)
	}
	entries, err := ristretto.NewCache(&ristretto.Config[string, *entry]{
		NumCounters: maxEntries * countersPerEntry,
		MaxCost:     maxEntries,
		BufferItems: bufferItems,
		// Every entry costs 1. Without this, ristretto adds its own overhead
		// in bytes to that.
		IgnoreInternalCost: true,
		Metrics:            true,
	})
	if err != nil {
		return nil, fmt.Errorf("tokens: making the cache: %w", err)
	}
	return &Cache{entries: entries}, nil
}

// Close stops the cache's goroutine. The cache must not be used afterwards.
func (c *Cache) Close() { c.entries.Close() }

// CacheStats are counts since the cache was made.
type CacheStats struct {
	// Hits and Misses count look-ups.
	Hits, Misses uint64
	// Entries is how many are held now.
	Entries uint64
}

// Stats returns the cache's counts.
func (c *Cache) Stats() CacheStats {
	m := c.entries.Metrics
	return CacheStats{
		Hits:    m.Hits(),
		Misses:  m.Misses(),
		Entries: m.KeysAdded() - m.KeysEvicted(),
	}
}

// get returns the entry of a key. Where the cache has none (ristretto keeps and
// drops as it likes) it puts the given one back.
func (c *Cache) get(key string, held *entry) *entry {
	if e, ok := c.entries.Get(key); ok {
		return e
	}
	c.entries.Set(key, held, 1)
	return held
}

// drop forgets a key whose credential is gone.
func (c *Cache) drop(key string) { c.entries.Del(key) }
