package caller

import (
	"sync"

	"github.com/rebearer/rebearer/tokens"
)

// maxRegulars bounds each half of a set of regulars: some 100 bytes each.
const maxRegulars = 4096

// regulars are callers whose tokens were good lately. That a token names one of
// them proves nothing, but those who make up tokens mostly do not know one. It is
// safe for concurrent use.
type regulars struct {
	mu sync.Mutex
	// Callers are added to recent, which becomes older when it is full.
	recent, older map[tokens.Fingerprint]struct{}
}

func (r *regulars) add(who tokens.Fingerprint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.recent == nil || len(r.recent) >= maxRegulars {
		r.recent, r.older = map[tokens.Fingerprint]struct{}{}, r.recent
	}
	r.recent[who] = struct{}{}
}

func (r *regulars) has(who tokens.Fingerprint) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, recent := r.recent[who]
	_, older := r.older[who]
	return recent || older
}
