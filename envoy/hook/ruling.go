package hook

import (
	"context"
	"sync"
	"time"

	"github.com/rebearer/rebearer/tokens"
)

const (
	// rulingWait is how long inject waits until watch was told of the rejection
	// before. That was sent first, but may have gone to another replica.
	rulingWait = 50 * time.Millisecond
	// rulingLife is how long a ruling is kept that nobody asks for, and maxRulings
	// bounds them.
	rulingLife = 10 * time.Second
	maxRulings = 16 << 10
)

// rulings carry what was decided on rejections that nobody holds from watch, which
// is told of them, to inject, which is asked for the token of the next try. The zero
// value is ready, and safe for concurrent use.
type rulings struct {
	mu        sync.Mutex
	byRequest map[requestKey]*ruling
	oldest    []*ruling // those that were ever added, and may be kept still
}

// requestKey is what tells the requests in flight apart, as far as that can be told: a
// caller may choose ids.
type requestKey struct {
	id    tokens.Fingerprint // of the request's id; empty if it has none
	use   tokens.Use
	route string
}

// newRequestKey makes what a request is told by. It is the same on every stream.
func newRequestKey(id string, use tokens.Use, route string) requestKey {
	k := requestKey{use: use, route: route}
	if id != "" {
		k.id = tokens.FingerprintOf(id)
	}
	return k
}

// ruling is what was decided on the rejection of one request's first try.
type ruling struct {
	request requestKey
	added   time.Time
	begun   chan struct{} // closed when watch was told
	isBegun bool          // guarded by the mu of rulings

	given   chan struct{} // closed when the fields below are set
	refused tokens.Rejection
	outcome tokens.Outcome
}

// begin is called for a rejection that is to be decided on. It takes the place of an
// earlier one that nobody asked for. It returns nil where the request has no id, and
// what is decided cannot be told to inject.
func (s *rulings) begin(request requestKey) *ruling {
	if request.id == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.of(request)
	if r.isBegun {
		s.forget(r)
		r = s.of(request)
	}
	r.isBegun = true
	close(r.begun)
	return r
}

// give ends the wait for r, if there is one.
func (r *ruling) give(refused tokens.Rejection, outcome tokens.Outcome) {
	if r == nil {
		return
	}
	r.refused, r.outcome = refused, outcome
	close(r.given)
}

// await waits for the ruling on a request, which it returns once. It returns nil if
// nobody is told of a rejection for a moment, or ctx ends.
func (s *rulings) await(ctx context.Context, request requestKey) *ruling {
	if request.id == "" {
		return nil
	}
	s.mu.Lock()
	r := s.of(request)
	s.mu.Unlock()
	defer s.drop(r)
	timer := time.NewTimer(rulingWait)
	defer timer.Stop()
	select {
	case <-r.begun:
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return nil
	}
	select {
	case <-r.given:
		return r
	case <-ctx.Done():
		return nil
	}
}

// of returns the ruling on a request, and adds one if there is none.
func (s *rulings) of(request requestKey) *ruling {
	now := time.Now()
	for len(s.oldest) > 0 && (len(s.oldest) > maxRulings || now.Sub(s.oldest[0].added) > rulingLife) {
		s.forget(s.oldest[0])
		s.oldest = s.oldest[1:]
	}
	r, ok := s.byRequest[request]
	if !ok {
		r = &ruling{request: request, added: now, begun: make(chan struct{}), given: make(chan struct{})}
		if s.byRequest == nil {
			s.byRequest = map[requestKey]*ruling{}
		}
		s.byRequest[request] = r
		s.oldest = append(s.oldest, r)
	}
	return r
}

func (s *rulings) drop(r *ruling) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(r)
}

func (s *rulings) forget(r *ruling) {
	if s.byRequest[r.request] == r {
		delete(s.byRequest, r.request)
	}
}
