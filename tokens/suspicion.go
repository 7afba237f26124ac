package tokens

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// spreadEvery bounds how often the tokens of one provider fall under suspicion:
// a backend that refuses and accepts at random would otherwise have everything
// renewed all the time.
const spreadEvery = 30 * time.Second

// confirmedWithin is the time in which two callers' tokens must have been found
// dead before the tokens of all others fall under suspicion.
const confirmedWithin = time.Minute

// suspicions remember which providers have voided tokens: a restart that killed
// one token killed the others too. The zero value is ready and safe for
// concurrent use.
type suspicions struct {
	guard sync.Mutex // of writers
	known atomic.Pointer[map[string]time.Time]
}

// suspected reports whether a provider has lost its tokens since it gave one at
// the given time.
func (s *suspicions) suspected(provider string, given time.Time) bool {
	known := s.known.Load()
	return known != nil && given.Before((*known)[provider])
}

// add notes that a provider voided what it issued before the given time. It
// reports false where that was said a moment ago.
func (s *suspicions) add(provider string, before time.Time) bool {
	s.guard.Lock()
	defer s.guard.Unlock()
	next := map[string]time.Time{}
	if known := s.known.Load(); known != nil {
		maps.Copy(next, *known)
	}
	if before.Sub(next[provider]) < spreadEvery {
		return false
	}
	next[provider] = before
	s.known.Store(&next)
	return true
}

// confirmation is the last caller whose token was found dead.
type confirmation struct {
	caller Fingerprint
	at     time.Time
}

// confirmed reports whether a retried request that passed shows that the
// provider voided more than the one token. For a token of our own it does. One
// caller must not be able to have the tokens of all others renewed: it takes a
// second.
func (e *entry) confirmed(now time.Time, caller Fingerprint) bool {
	if e.pinned {
		return true
	}
	e.of.mu.Lock()
	defer e.of.mu.Unlock()
	last := e.of.firm
	e.of.firm = confirmation{caller, now}
	return last.caller != caller && now.Sub(last.at) <= confirmedWithin
}

// spread puts the other tokens of a provider under suspicion, which issued none
// that lives from before the given time. Tokens of our own are renewed at once,
// one after the other, as far as their budgets allow; a caller's is renewed
// before it is handed out again.
func (c *Cache) spread(provider string, before time.Time, source *entry) {
	if !c.add(provider, before) {
		return
	}
	go func() {
		for _, h := range c.held() {
			if h.own == source {
				continue
			}
			if f := h.own.renewSuspected(); f != nil {
				<-f.done
			}
		}
	}()
}

// held returns the holders of the credentials that are in use.
func (c *Cache) held() []*holder {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]*holder, 0, len(c.holders))
	for h := range c.holders {
		list = append(list, h)
	}
	return list
}

// renewSuspected renews a token of our own that is under suspicion, and returns
// the fetch, or nil.
func (e *entry) renewSuspected() *fetch {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if e.fetching != nil || !e.current.aliveAt(now) || !e.suspected() || !e.c().spend(now, reserveUnclear) {
		return nil
	}
	f := e.start(now, ReasonSpread)
	if e.fetching == nil { // it could not be started
		e.c().giveBack()
		return nil
	}
	f.paid = true
	return f
}

// suspected reports whether the current token is under suspicion.
func (e *entry) suspected() bool { return e.of.cache.suspected(e.current.Provider, e.asked) }
