package tokens

import (
	"crypto/rand"
	"sync"
	"time"
)

// entry is the truth about the token of one key.
type entry struct {
	of      *holder
	key     string  // in the cache
	subject Subject // on whose behalf; the zero value for our own
	name    string  // of the subject: its key in [Use.Subject]
	pinned  bool    // the holder keeps it: it is renewed by a timer
	lone    bool    // a bypass: it is for one request and not kept

	mu       sync.Mutex // guards what follows
	stored   int        // times that ristretto has it
	current  Token      // may have expired; zero if there never was one
	past     pastTokens
	asked    time.Time // for the current token, last: the same one may come again
	final    bool      // the provider gives the current one again until its end
	fetching *fetch    // nil if none is in flight
	renewal  time.Time
	timer    *time.Timer // renews at renewal; only where pinned
	outage
	refresh  refreshToken
	barren   Fingerprint // the provider gives this one again though it was revoked
	dead     Fingerprint // a backend said so of this one
	recovery recovery
}

// outage is what is known of a provider that does not answer. The zero value is
// that of one that does.
type outage struct {
	failures int // since the last success
	lastErr  error
	notUntil time.Time // no token request before this
}

// refreshToken is what came with the current token.
type refreshToken struct {
	value   Secret
	client  int
	expires time.Time
	spent   bool // it went out with the last token request
}

// aliveAt reports whether it may be used.
func (r refreshToken) aliveAt(now time.Time) bool { return r.value != "" && now.Before(r.expires) }

// c returns the credential that the entry works for now.
func (e *entry) c() *Credential { return e.of.owner.Load() }

// pastTokens are the fingerprints of the tokens before the current one, newest
// last. It is how a late rejection is told from a strange one.
type pastTokens []Fingerprint

const maxPast = 16

func (p *pastTokens) add(f Fingerprint) {
	if f == "" {
		return
	}
	*p = append(*p, f)
	if len(*p) > maxPast {
		*p = append(pastTokens(nil), (*p)[1:]...)
	}
}

func (p pastTokens) has(f Fingerprint) bool {
	for _, known := range p {
		if known == f {
			return true
		}
	}
	return false
}

// demand returns the token to hand out, or the fetch to wait for. The token then
// is what to hand out if that fails; it may have expired.
func (e *entry) demand(now time.Time, attempt int) (Token, *fetch) {
	e.heedFlush()
	switch token := e.current; {
	case !token.aliveAt(now):
		return token, e.fetchMissing(now)
	case !token.freshOn(attempt, now):
		return token, e.suspect(now)
	case e.failures == 0 && token.Expires.Sub(now) < e.c().cfg.Expiry.least(token) && !e.final:
		return token, e.join(now, ReasonRenewal)
	case !e.pinned && e.failures == 0 && e.suspected():
		return token, e.join(now, ReasonSpread)
	}
	if !e.pinned && !e.renewal.IsZero() && !now.Before(e.renewal) && e.fetching == nil {
		e.start(now, ReasonRenewal)
	}
	e.handedOut(attempt)
	return e.current, nil
}

// heedFlush drops a token that an operator flushed.
func (e *entry) heedFlush() {
	if e.asked.Before(e.of.flushedAt()) {
		e.evict(ReasonFlush)
	}
}

// join returns the fetch in flight, or starts one.
func (e *entry) join(now time.Time, reason Reason) *fetch {
	if e.fetching != nil {
		return e.fetching
	}
	return e.start(now, reason)
}

// evict drops the current token before its end.
func (e *entry) evict(reason Reason) {
	if e.current.Value == "" {
		return
	}
	e.emit(Event{Kind: EventEvicted, Reason: reason})
	e.past.add(e.current.Fingerprint)
	e.current.Value = ""
	e.publish()
}

// emit tells the observer of something about the current token.
func (e *entry) emit(ev Event) {
	ev.Generation, ev.Fingerprint, ev.Expires = e.current.Generation, e.current.Fingerprint, e.current.Expires
	if ev.Provider == "" {
		ev.Provider = e.current.Provider
	}
	e.c().emit(ev)
}

// schedule has the token renewed at the given time: one of our own then, and a
// caller's when he next asks for it, since he may never come back.
func (e *entry) schedule(at time.Time) {
	e.renewal = at
	if e.timer != nil {
		e.timer.Stop()
	}
	if e.pinned && e.of.life.Err() == nil {
		e.timer = time.AfterFunc(time.Until(at), e.renew)
	}
}

// renew is what the timer calls.
func (e *entry) renew() {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if e.fetching != nil || now.Before(e.renewal) {
		return
	}
	if e.c().isPaused() {
		e.renewal = time.Time{}
		return
	}
	if e.current.aliveAt(now) {
		e.start(now, ReasonRenewal)
		return
	}
	e.fetchMissing(now)
}

// close ends renewals and drops what may be revoked.
func (e *entry) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unschedule()
	e.dropRefresh()
}

// unschedule ends renewals.
func (e *entry) unschedule() {
	if e.timer != nil {
		e.timer.Stop()
	}
	e.renewal = time.Time{}
}

// dropRefresh has the refresh token revoked, which is not used any more.
func (e *entry) dropRefresh() {
	e.of.dropped.add(e.c(), e.refresh.client, e.refresh.value)
	e.refresh = refreshToken{}
}

// flush drops the current token and fetches another.
func (e *entry) flush(now time.Time) {
	e.evict(ReasonFlush)
	e.notUntil = time.Time{}
	if e.fetching == nil {
		e.start(now, ReasonFlush)
	}
}

// void makes the current token one that no backend accepts.
func (e *entry) void() {
	e.evict(ReasonSimulated)
	e.current.Value = Secret("simulated-" + rand.Text())
	e.current.Fingerprint = FingerprintOf(e.current.Value.Reveal())
	e.current.Generation++
	e.publish()
}

// resume fetches what Pause kept from being fetched.
func (e *entry) resume(now time.Time) {
	switch {
	case e.fetching != nil:
	case !e.current.aliveAt(now):
		e.fetchMissing(now)
	case e.renewal.IsZero():
		e.start(now, ReasonRenewal)
	}
}

// worth returns what the entry takes in memory and how long it is of use.
func (e *entry) worth(now time.Time) (bytes int64, life time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	texts := len(e.current.Value) + len(e.subject.Token) + len(e.refresh.value)
	until := e.current.Expires
	if e.refresh.expires.After(until) {
		until = e.refresh.expires
	}
	if !e.subject.Expires.IsZero() && e.subject.Expires.Before(until) {
		until = e.subject.Expires
	}
	if e.notUntil.After(until) { // what failed is not to be tried again before
		until = e.notUntil
	}
	return int64(entryBytes + texts), max(until.Sub(now), time.Second)
}

// enter and leave count how often ristretto has the entry: it may say that an
// entry left which it has just been given again.
func (e *entry) enter() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stored++
	if e.stored == 1 && !e.pinned {
		e.of.entries.Add(1)
	}
}

// leave is what ristretto calls; e may be nil. A caller's entry that left for
// good has its refresh token revoked. It must not block.
func (e *entry) leave() {
	if e == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stored--
	if e.stored > 0 || e.pinned {
		return
	}
	e.of.entries.Add(-1)
	if e.fetching == nil { // or else it is about to enter again
		e.dropRefresh()
	}
}
