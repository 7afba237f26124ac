package tokens

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// entry is the truth about the token of one key.
type entry struct {
	c *Credential

	mu       sync.Mutex // guards what follows
	current  Token      // may have expired; zero if there never was one
	past     pastTokens
	fetching *fetch // nil if none is in flight
	renewal  time.Time
	timer    *time.Timer // renews at renewal
	failures int         // since the last success
	lastErr  error
	notUntil time.Time // after a failure, no token request before this
	recovery recovery
}

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

// fetch is one token request, with its tries, that any number may wait for.
type fetch struct {
	done   chan struct{} // closed when the fields below are set
	token  Token
	err    error // an *UnavailableError
	reason Reason
	paid   bool // it took a trial from the budget
}

// How token requests that failed are tried again. Within one fetch the tries
// come soon, since callers wait. Once a provider is known to be down there is
// one try a fetch, after a pause that is short enough that whoever waits for it
// still gets an answer, and that a provider that is back is noticed at once.
const (
	firstRetry     = 50 * time.Millisecond
	maxRetry       = time.Second
	permanentPause = 10 * time.Second
	maxRenewalWait = 30 * time.Second
)

// fetchMissing starts or joins the fetch of a token where none is alive. It
// returns a fetch that has failed already if none may be started.
func (e *entry) fetchMissing(now time.Time) *fetch {
	if e.fetching != nil {
		return e.fetching
	}
	reason := ReasonFirst
	if e.current.Generation > 0 {
		reason = ReasonExpired
		if e.current.Value != "" {
			e.emit(Event{Kind: EventExpired, Reason: reason})
			e.past.add(e.current.Fingerprint)
			e.current.Value = ""
		}
	}
	return e.start(now, reason)
}

// failed returns a fetch that is over.
func (e *entry) failed(err error, retryAfter time.Duration) *fetch {
	f := &fetch{done: make(chan struct{}), err: e.c.unavailable(err, retryAfter)}
	close(f.done)
	return f
}

// start starts a fetch, or returns a failed one where that is of no use: the
// credential is paused or closed, or the provider just refused for good. None
// may be in flight.
func (e *entry) start(now time.Time, reason Reason) *fetch {
	var permanent *PermanentError
	wait := e.notUntil.Sub(now)
	switch {
	case e.c.life.Err() != nil:
		return e.failed(errClosed, 0)
	case e.c.isPaused():
		return e.failed(errPaused, time.Second)
	case wait > e.c.cfg.Timeout, wait > 0 && errors.As(e.lastErr, &permanent):
		return e.failed(e.lastErr, wait)
	}
	f := &fetch{done: make(chan struct{}), reason: reason}
	e.fetching = f
	go e.run(f)
	return f
}

// run makes the token request and ends the fetch.
func (e *entry) run(f *fetch) {
	e.pause()
	ctx, cancel := context.WithTimeoutCause(e.c.life, e.c.cfg.Timeout, errSlow)
	defer cancel()
	for {
		grant, requested, err := e.request(ctx)
		e.mu.Lock()
		// A token that was requested before the rejection of its predecessor
		// was seen may be as dead as that: the rejection wins.
		if err == nil && requested.Before(e.recovery.refused) {
			e.mu.Unlock()
			continue
		}
		e.finish(f, grant, requested, err)
		e.mu.Unlock()
		return
	}
}

// pause waits until a provider that just failed may be asked again.
func (e *entry) pause() {
	e.mu.Lock()
	wait := time.Until(e.notUntil)
	e.mu.Unlock()
	if wait <= 0 {
		return
	}
	select {
	case <-time.After(wait):
	case <-e.c.life.Done():
	}
}

// request asks the source, and asks again soon while the failure is transient,
// ctx lasts, and the provider was not known to be down before.
// It returns when the last try began.
func (e *entry) request(ctx context.Context) (Grant, time.Time, error) {
	e.mu.Lock()
	down := e.failures > 0
	e.mu.Unlock()
	var requested time.Time
	ask := func() (Grant, error) {
		if e.c.isPaused() {
			return Grant{}, stopRetrying(errPaused)
		}
		requested = time.Now()
		grant, err := e.c.cfg.Source.Grant(ctx, GrantRequest{})
		var permanent *PermanentError
		if down || errors.As(err, &permanent) || askedToWait(err) > 0 {
			err = stopRetrying(err)
		}
		return grant, err
	}
	grant, err := backoff.Retry(ctx, ask,
		backoff.WithBackOff(&backoff.ExponentialBackOff{
			InitialInterval: firstRetry, MaxInterval: maxRetry, Multiplier: 2, RandomizationFactor: 0.3,
		}),
		backoff.WithMaxElapsedTime(e.c.cfg.Timeout))
	var stopped *backoff.PermanentError
	if errors.As(err, &stopped) {
		err = stopped.Unwrap()
	}
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		err = context.Cause(ctx)
	}
	return grant, requested, err
}

// askedToWait returns how long the provider asked not to be asked again
// (Retry-After), if it did. A Source caps it.
func askedToWait(err error) time.Duration {
	var asked interface{ RetryAfter() time.Duration }
	if errors.As(err, &asked) {
		return asked.RetryAfter()
	}
	return 0
}

func stopRetrying(err error) error {
	if err == nil {
		return nil
	}
	return backoff.Permanent(err)
}

// finish stores the result of a fetch and wakes who waits for it.
func (e *entry) finish(f *fetch, grant Grant, requested time.Time, err error) {
	e.fetching = nil
	now := time.Now()
	if err == nil && !now.Before(requested.Add(e.c.cfg.Expiry.lifetime(grant.ExpiresIn))) {
		err = errOutlived
	}
	if err != nil {
		e.fail(f, now, err)
	} else {
		e.install(f, grant, requested, now)
	}
	close(f.done)
}

// fail notes a failed fetch. The token that is held lives on until its end.
func (e *entry) fail(f *fetch, now time.Time, err error) {
	e.failures++
	e.lastErr = err
	var permanent *PermanentError
	wait := min(firstRetry<<min(e.failures, 10), maxRetry)
	if errors.As(err, &permanent) {
		wait = permanentPause
	}
	wait = max(wait, askedToWait(err))
	e.notUntil = now.Add(wait)
	f.err = e.c.unavailable(err, wait)
	e.emit(Event{Kind: EventFailed, Reason: f.reason, Err: err})
	if f.paid { // the pause after a failure bounds these
		e.c.giveBack()
	}
	if e.current.aliveAt(now) {
		e.schedule(now.Add(max(wait, min(time.Second<<min(e.failures, 5), maxRenewalWait))))
	}
}

// install makes a grant the current token.
func (e *entry) install(f *fetch, grant Grant, requested, now time.Time) {
	e.failures, e.lastErr, e.notUntil = 0, nil, time.Time{}
	old := e.current
	fresh := Token{
		Value:       grant.AccessToken,
		Fingerprint: FingerprintOf(grant.AccessToken.Reveal()),
		Generation:  old.Generation + 1,
		Requested:   requested,
		Issued:      now,
		// The provider counts from somewhere between request and answer.
		Expires: requested.Add(e.c.cfg.Expiry.lifetime(grant.ExpiresIn)),
	}
	f.token = fresh
	if fresh.Fingerprint == old.Fingerprint {
		// The same token with a new end is no new generation, and proves
		// nothing about its life.
		fresh.Generation, fresh.Issued, fresh.Requested = old.Generation, old.Issued, old.Requested
		if grant.ExpiresIn == 0 && old.Value != "" {
			fresh.Expires = old.Expires // nothing new is said of its end
		}
		f.token = fresh
		e.current = fresh
		e.schedule(fresh.Expires) // before that it would come back once more
		return
	}
	if old.Value != "" && f.reason != ReasonRenewal {
		e.emit(Event{Kind: EventEvicted, Reason: f.reason})
	}
	e.past.add(old.Fingerprint)
	e.current = fresh
	e.recovery.newToken()
	kind := EventIssued
	if f.reason == ReasonRenewal {
		kind = EventRenewed
	}
	e.emit(Event{Kind: kind, Reason: f.reason, Latency: now.Sub(requested)})
	e.schedule(e.c.cfg.Expiry.renewal(now, fresh.Expires, rand.Float64()))
}

// emit tells the observer of something about the current token.
func (e *entry) emit(ev Event) {
	ev.Generation, ev.Fingerprint, ev.Expires = e.current.Generation, e.current.Fingerprint, e.current.Expires
	e.c.emit(ev)
}

// schedule renews the token at the given time.
func (e *entry) schedule(at time.Time) {
	e.renewal = at
	if e.timer != nil {
		e.timer.Stop()
	}
	if e.c.life.Err() == nil {
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
	if e.c.isPaused() {
		e.renewal = time.Time{}
		return
	}
	if e.current.aliveAt(now) {
		e.start(now, ReasonRenewal)
		return
	}
	e.fetchMissing(now)
}

func (e *entry) stopRenewal() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timer != nil {
		e.timer.Stop()
	}
	e.renewal = time.Time{}
}

// flush drops the current token and fetches another.
func (e *entry) flush(now time.Time) {
	if e.current.Value != "" {
		e.emit(Event{Kind: EventEvicted, Reason: ReasonFlush})
		e.past.add(e.current.Fingerprint)
		e.current.Value = ""
	}
	// A fetch in flight may bring what the operator wants to be rid of.
	e.recovery.refused = now
	e.notUntil = time.Time{}
	if e.fetching == nil {
		e.start(now, ReasonFlush)
	}
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
