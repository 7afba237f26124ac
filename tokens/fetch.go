package tokens

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
)

// fetch is one token request, with its tries, that any number may wait for.
type fetch struct {
	done   chan struct{} // closed when the fields below are set
	token  Token
	err    error // an *UnavailableError or a *SubjectError
	reason Reason
	// The rest is guarded by the entry's lock.
	paid bool        // it took a trial from the budget
	dead Fingerprint // of the token that was said to be dead, if one was
}

// over reports whether the fetch has ended.
func (f *fetch) over() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// How token requests that failed are tried again. Within one fetch the tries
// come soon, since callers wait. Once a fetch has failed, and so the provider is
// known to be down, there is one try a fetch, after a pause that is short enough
// that whoever waits for it still gets an answer, and that a provider that is back
// is noticed at once. What one caller's fetch found out holds for the next one's.
const (
	firstRetry     = 50 * time.Millisecond
	maxRetry       = time.Second
	retryJitter    = 0.3
	permanentPause = 10 * time.Second
	maxRenewalWait = 30 * time.Second
	maxRefusedWait = 5 * time.Minute // a provider that refuses us does not change its mind by itself
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
			e.publish()
		}
	}
	return e.start(now, reason)
}

// failed returns a fetch that is over.
func (e *entry) failed(err error, retryAfter time.Duration) *fetch {
	f := &fetch{done: make(chan struct{}), err: e.c().failure(err, retryAfter)}
	close(f.done)
	return f
}

// start starts a fetch, or returns a failed one where that is of no use: the
// credential is paused or closed, or the provider just refused for good. None
// may be in flight.
func (e *entry) start(now time.Time, reason Reason) *fetch {
	if !e.pinned && !e.lone && e.failures == 0 {
		e.outage = e.of.health()
	}
	wait := e.notUntil.Sub(now)
	switch {
	case e.of.life.Err() != nil:
		return e.failed(errClosed, 0)
	case e.c().isPaused():
		return e.failed(errPaused, pausedWait)
	case wait > e.c().cfg.Timeout, wait > 0 && isRefusal(e.lastErr):
		return e.failed(e.lastErr, wait)
	}
	f := &fetch{done: make(chan struct{}), reason: reason}
	e.fetching = f
	if !e.pinned && !e.lone {
		e.of.cache.keep(e)
	}
	go e.run(f)
	return f
}

// isRefusal reports whether asking again soon gives the same answer.
func isRefusal(err error) bool {
	var permanent *PermanentError
	return errors.As(err, &permanent) || isSubject(err)
}

// isSubject reports whether the provider refused the caller's own token.
func isSubject(err error) bool {
	var subject *SubjectError
	return errors.As(err, &subject)
}

// run makes the token request and ends the fetch.
func (e *entry) run(f *fetch) {
	e.pause()
	ctx, cancel := context.WithTimeoutCause(e.of.life, e.c().cfg.Timeout, errSlow)
	defer cancel()
	for !e.attempt(ctx, f) {
	}
	if !e.pinned {
		e.of.noteHealth(e)
	}
	switch {
	case e.lone:
		e.of.endAlone(e)
	case !e.pinned:
		e.of.cache.settle(e)
	case e.of.life.Err() != nil:
		e.close() // the answer came at the last moment
	}
}

// attempt makes a token request, and reports whether that was the last one of
// the fetch.
func (e *entry) attempt(ctx context.Context, f *fetch) bool {
	grant, requested, err := e.request(ctx)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err == nil {
		e.keepRefresh(grant, time.Now())
		if e.overtaken(requested) || e.comesBack(f, grant) && e.revokeDead(ctx, grant) {
			return false
		}
	}
	e.finish(f, grant, requested, err)
	return true
}

// overtaken reports whether a token that was requested at the given time may be
// one that is not wanted any more: as dead as its predecessor, whose rejection
// was seen only later, or one that an operator wanted to be rid of.
func (e *entry) overtaken(requested time.Time) bool {
	return requested.Before(e.recovery.refused) || requested.Before(e.of.flushedAt())
}

// comesBack reports whether the provider answers with the very token that was
// said to be dead, and whether something may be done about it: once a token, and
// within the budget.
func (e *entry) comesBack(f *fetch, grant Grant) bool {
	if f.dead == "" || FingerprintOf(grant.AccessToken.Reveal()) != f.dead || e.barren == f.dead {
		return false
	}
	if !e.c().spend(time.Now(), 0) {
		return false
	}
	e.barren = f.dead
	return true
}

// revokeDead revokes a token that its provider takes for a living one, and
// reports whether it did. It lets go of the lock meanwhile.
func (e *entry) revokeDead(ctx context.Context, grant Grant) bool {
	c := e.c()
	e.mu.Unlock()
	defer e.mu.Lock()
	err := c.cfg.Source.Revoke(ctx, grant.Client, grant.AccessToken)
	c.revoked(FingerprintOf(grant.AccessToken.Reveal()), ReasonDead, err)
	return err == nil
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
	case <-e.of.life.Done():
	}
}

// request asks the source, and asks again soon while the failure is transient,
// ctx lasts, and the provider was not known to be down before.
// It returns when the last try began.
func (e *entry) request(ctx context.Context) (Grant, time.Time, error) {
	e.mu.Lock()
	down := e.failures > 0
	wanted := GrantRequest{Subject: e.subject.Token}
	e.refresh.spent = e.refresh.aliveAt(time.Now())
	if e.refresh.spent {
		wanted.Refresh, wanted.Client = e.refresh.value, e.refresh.client
	}
	c := e.c()
	e.mu.Unlock()
	var (
		grant     Grant
		requested time.Time
		err       error
	)
	waiting, giveUp := context.WithCancel(ctx)
	defer giveUp()
	again := retrypolicy.NewBuilder[any]().
		WithMaxRetries(-1).
		WithBackoff(firstRetry, maxRetry).
		WithJitterFactor(retryJitter).
		AbortIf(func(_ any, err error) bool {
			return down || isRefusal(err) || AskedToWait(err) > 0 || errors.Is(err, errPaused)
		}).
		OnRetryScheduled(func(next failsafe.ExecutionScheduledEvent[any]) {
			if end, ok := ctx.Deadline(); ok && time.Until(end) < next.Delay {
				giveUp() // callers need not wait for what comes too late
			}
		}).
		Build()
	// What the last try brought counts, even where ctx has ended since.
	_ = failsafe.With(again).WithContext(waiting).Run(func() error {
		if c.isPaused() {
			err = errPaused
			return err
		}
		requested = time.Now()
		grant, err = c.cfg.Source.Grant(ctx, wanted)
		return err
	})
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		err = context.Cause(ctx)
	}
	return grant, requested, err
}

// AskedToWait returns for how long the provider asked not to be asked again
// (Retry-After), by an error with a method RetryAfter() time.Duration; zero if it
// did not say. A Source caps it.
func AskedToWait(err error) time.Duration {
	var asked interface{ RetryAfter() time.Duration }
	if errors.As(err, &asked) {
		return asked.RetryAfter()
	}
	return 0
}

// finish stores the result of a fetch and wakes who waits for it.
func (e *entry) finish(f *fetch, grant Grant, requested time.Time, err error) {
	e.fetching = nil
	now := time.Now()
	if err == nil && !now.Before(requested.Add(e.c().cfg.Expiry.lifetime(grant.ExpiresIn))) {
		err = errOutlived
	}
	if err != nil {
		e.fail(f, now, err)
	} else {
		e.install(f, grant, requested, now)
	}
	close(f.done)
}

// fail notes a failed fetch. The token that is held lives on until its end, unless
// it was said to be dead and the caller can help it: he has to hear of that.
func (e *entry) fail(f *fetch, now time.Time, err error) {
	e.failures++
	e.lastErr = err
	wait := min(firstRetry<<min(e.failures, 10), maxRetry)
	if isRefusal(err) {
		wait = permanentPause
	}
	wait = max(wait, AskedToWait(err))
	e.notUntil = now.Add(wait)
	f.err = e.c().failure(err, wait)
	e.emit(Event{Kind: EventFailed, Reason: f.reason, Err: err})
	if isSubject(err) && f.dead != "" && f.dead == e.current.Fingerprint {
		e.evict(ReasonDead)
	}
	if f.paid { // the pause after a failure bounds these
		e.c().giveBack()
	}
	again := min(time.Second<<min(e.failures, 5), maxRenewalWait)
	if isRefusal(err) {
		again = min(permanentPause<<min(e.failures-1, 5), maxRefusedWait)
	}
	retry := now.Add(max(wait, again))
	switch {
	case e.current.aliveAt(now) && e.current.Expires.Before(retry):
		e.schedule(e.current.Expires)
	case e.current.aliveAt(now), e.c().cfg.Publish != nil: // who holds copies does not ask
		e.schedule(retry)
	}
}

// install makes a grant the current token.
func (e *entry) install(f *fetch, grant Grant, requested, now time.Time) {
	e.outage, e.asked = outage{}, requested
	old, expiry := e.current, e.c().cfg.Expiry
	fresh := Token{
		Value:       grant.AccessToken,
		Fingerprint: FingerprintOf(grant.AccessToken.Reveal()),
		Generation:  old.Generation + 1,
		Requested:   requested,
		Issued:      now,
		// The provider counts from somewhere between request and answer.
		Expires:  requested.Add(expiry.lifetime(grant.ExpiresIn)),
		Provider: cmp.Or(grant.Provider, e.c().cfg.Provider),
		Subject:  e.name,
	}
	if e.lone {
		fresh.Generation = 0 // nobody else is given it, so there is none
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
		e.publish()
		e.final = fresh.Expires.Sub(old.Expires) <= expiry.least(fresh)
		if e.final {
			e.schedule(fresh.Expires) // before that it would come back once more
		} else {
			e.schedule(expiry.renewal(now, fresh.Expires, rand.Float64()))
		}
		if f.dead == fresh.Fingerprint {
			e.emit(Event{Kind: EventFailed, Reason: ReasonSameToken, Err: errSameToken})
		}
		return
	}
	if old.Value != "" && f.reason != ReasonRenewal {
		e.emit(Event{Kind: EventEvicted, Reason: f.reason})
	}
	e.past.add(old.Fingerprint)
	e.current, e.final = fresh, false
	if e.pinned { // a caller's new token says nothing of the others'
		e.of.share.newToken()
	}
	e.publish()
	kind := EventIssued
	if f.reason == ReasonRenewal {
		kind = EventRenewed
	}
	e.emit(Event{Kind: kind, Reason: f.reason, Latency: now.Sub(requested)})
	e.schedule(expiry.renewal(now, fresh.Expires, rand.Float64()))
}

// keepRefresh keeps the refresh token that came with a grant. The one before it
// was used up for it, or is refused by the provider, unless another client got
// the grant, or it was past its end.
func (e *entry) keepRefresh(grant Grant, now time.Time) {
	if e.refresh.client != grant.Client || !e.refresh.spent {
		e.dropRefresh()
	}
	e.refresh = refreshToken{value: grant.RefreshToken, client: grant.Client}
	if grant.RefreshToken != "" {
		e.refresh.expires = now.Add(e.c().cfg.Expiry.refreshLifetime(grant.RefreshExpiresIn))
	}
	if e.lone {
		e.dropRefresh()
	}
}

// publish tells who holds copies of our own token that it changed.
func (e *entry) publish() {
	if publish := e.c().cfg.Publish; publish != nil && e.pinned {
		publish(e.current)
	}
}
