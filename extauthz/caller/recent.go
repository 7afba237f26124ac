package caller

import (
	"crypto/sha256"
	"sync"
	"time"
)

const (
	// maxRecentBytes bounds each of the two halves of what is recent.
	maxRecentBytes = 1 << 20
	// refusalBytes is about what a refusal takes there.
	refusalBytes = 128
)

// recent remembers for a short time what providers said about tokens, exactly
// and within a bound of memory: refusals, which are kept nowhere else, and
// active tokens until the cache has them, which may take a while and may not
// happen at all. There are two generations: when the young one is full or has
// existed for as long as anything is remembered, it becomes the old one, whose
// entries are forgotten all at once. So a flood makes the time shorter, and
// nothing else.
type recent struct {
	life time.Duration

	mu    sync.Mutex
	young map[[sha256.Size]byte]verdict
	old   map[[sha256.Size]byte]verdict
	since time.Time // when young was empty
	bytes int64     // of young
}

// verdict is what a provider said about a token: one of the two, or nothing.
type verdict struct {
	found   *verified
	refusal *InvalidError
	until   time.Time
}

// outcome returns it as a call does.
func (v verdict) outcome() (*verified, error) {
	if v.refusal != nil {
		return nil, v.refusal
	}
	return v.found, nil
}

func newRecent(life time.Duration) *recent {
	return &recent{life: life, young: map[[sha256.Size]byte]verdict{}}
}

// get returns what was said about the token with that SHA-256 a moment ago.
func (r *recent) get(sum [sha256.Size]byte, now time.Time) (said verdict, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	said, known = r.young[sum]
	if !known {
		said, known = r.old[sum]
	}
	return said, known && now.Before(said.until)
}

// add remembers an active token, or a refusal.
func (r *recent) add(sum [sha256.Size]byte, found *verified, refusal *InvalidError, now time.Time) {
	said := verdict{found: found, refusal: refusal, until: now.Add(r.life)}
	size := int64(refusalBytes)
	if found != nil {
		size += found.cost()
		if found.renew.Before(said.until) {
			said.until = found.renew
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bytes >= maxRecentBytes || now.Sub(r.since) >= r.life {
		r.old, r.young, r.since, r.bytes = r.young, map[[sha256.Size]byte]verdict{}, now, 0
	}
	r.young[sum] = said
	r.bytes += size
}
