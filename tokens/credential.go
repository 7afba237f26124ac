package tokens

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Config describes a Credential.
type Config struct {
	// Name is the credential's name in the configuration. Required.
	Name string
	// Provider is the name of its provider, for events.
	Provider string
	// Key is the identity of its token: everything that makes two tokens
	// different, hashed. Required.
	Key string
	// Source gets its tokens. Required.
	Source Source
	// Timeout bounds a fetch, and how long a request waits for one. Zero means
	// 5 seconds.
	Timeout time.Duration
	// Expiry says how long its tokens live.
	Expiry Expiry
	// Action is what it does about rejections. The zero value retries.
	Action Action
	// CoolDown is the time in which one more trial is allowed, and for which a
	// caller and route fall silent after a trial that did not help. Zero means
	// 10 seconds.
	CoolDown time.Duration
	// OnBehalf asks for every token on behalf of a caller: there is one for
	// every caller's token, and none without ([Request.Subject]).
	OnBehalf bool
	// Bypass fetches a token for every request, and keeps none. Requests that
	// come at the same instant share one.
	Bypass bool
	// Observer is told of its tokens' life. Nil means nobody.
	Observer Observer
	// Publish is told of every token of its own that becomes current, in order,
	// and of one without a Value when that ended and none took its place yet.
	// It must not block and must not call back into the package. Nil means
	// nobody.
	Publish func(Token)
}

const (
	defaultTimeout  = 5 * time.Second
	defaultCoolDown = 10 * time.Second
)

func (c Config) validate() error {
	switch {
	case c.Name == "":
		return errors.New("tokens: a credential without a name")
	case c.Key == "":
		return fmt.Errorf("tokens: credential %q without a key", c.Name)
	case c.Source == nil:
		return fmt.Errorf("tokens: credential %q without a source", c.Name)
	case c.Timeout < 0 || c.CoolDown < 0:
		return fmt.Errorf("tokens: credential %q with a negative duration", c.Name)
	}
	return nil
}

// Credential is an OAuth client of ours and the backend tokens that it gets. It
// is safe for concurrent use.
type Credential struct {
	cfg Config
	h   *holder

	mu      sync.Mutex // guards what follows; taken after an entry's
	prior   *Credential
	closed  bool
	paused  bool
	trials  budget  // bounds the token requests that rejections cause
	returns budget  // bounds how many successful trials are given back
	quiet   silence // callers and routes whose last trial did not help
}

// NewCredential makes a credential whose entries live in cache. It fetches
// nothing until it is asked to, by Token or Warm. Close it when it is done.
func NewCredential(cache *Cache, cfg Config) (*Credential, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.CoolDown == 0 {
		cfg.CoolDown = defaultCoolDown
	}
	if cfg.Observer == nil {
		cfg.Observer = func(Event) {}
	}
	now := time.Now()
	c := &Credential{
		cfg:     cfg,
		trials:  newBudget(trialBurst, cfg.CoolDown, now),
		returns: newBudget(returnBurst, cfg.CoolDown, now),
		quiet:   silence{},
	}
	c.h = newHolder(cache, cfg.Key, c)
	return c, nil
}

// Adopt takes over what old holds, if it is for the same key: its tokens, what is
// known of its provider, its budget, and whether it is paused. A change of the
// other settings so costs no token request. Call it before c is used; old may be
// used until it is closed. Should c be closed first, old has everything back.
func (c *Credential) Adopt(old *Credential) {
	if old == nil || old.cfg.Key != c.cfg.Key {
		return
	}
	c.h.end()
	c.h = old.h
	old.mu.Lock()
	c.mu.Lock()
	c.prior = old
	c.paused, c.trials.level, c.trials.at = old.paused, old.trials.level, old.trials.at
	c.mu.Unlock()
	old.mu.Unlock()
	c.h.owner.Store(c)
	c.h.own.reown()
}

// Close stops renewals and ends fetches in flight, unless another credential has
// adopted what it holds. Tokens that were handed out stay valid for a while;
// refresh tokens are revoked then, in the background.
func (c *Credential) Close() {
	c.mu.Lock()
	c.closed = true
	prior := c.prior
	c.prior = nil
	c.mu.Unlock()
	if prior.isOpen() {
		if c.h.owner.CompareAndSwap(c, prior) {
			c.h.own.reown()
			return
		}
	}
	if owner := c.h.owner.Load(); owner != c {
		owner.forget(c, prior)
		return
	}
	c.h.end()
}

// isOpen reports whether c is there and not closed.
func (c *Credential) isOpen() bool {
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.closed
}

// forget takes a credential that was adopted and is closed now out of the chain
// of those that may have everything back.
func (c *Credential) forget(closed, prior *Credential) {
	for c != nil {
		c.mu.Lock()
		if c.prior == closed {
			c.prior = prior
		}
		next := c.prior
		c.mu.Unlock()
		c = next
	}
}

// Name returns the credential's name in the configuration.
func (c *Credential) Name() string { return c.cfg.Name }

// Token returns the living backend token for a request. Without one it waits for
// the fetch in flight, starting it if needed, until ctx ends or the credential's
// timeout is over; the error then is an *[UnavailableError], or a
// *[SubjectError] where the provider refused the caller's own token.
func (c *Credential) Token(ctx context.Context, r Request) (Token, error) {
	if c.cfg.OnBehalf && r.Subject.Token == "" {
		return Token{}, c.unavailable(ErrNoSubject, 0)
	}
	if c.cfg.Bypass || r.Bypass {
		return c.tokenAlone(ctx, r.Subject)
	}
	e := c.h.entry(c.behalf(r.Subject))
	e.mu.Lock()
	token, f := e.demand(time.Now(), r.Attempt)
	e.mu.Unlock()
	return c.obtain(ctx, e, token, f)
}

// behalf returns the subject whose token a request gets: nobody, for a
// credential that asks in its own name.
func (c *Credential) behalf(s Subject) Subject {
	if !c.cfg.OnBehalf {
		return Subject{}
	}
	return s
}

// entryOf returns the entry of the token that a check gave out, or nil if
// it is not at hand: the credential may ask on behalf of callers only since then.
func (c *Credential) entryOf(u Use) *entry {
	if c.cfg.OnBehalf && u.Subject == "" {
		return nil
	}
	return c.h.find(u.Subject)
}

// obtain waits for a fetch, if there is one, and falls back on the token that is
// held while that lives.
func (c *Credential) obtain(ctx context.Context, e *entry, held Token, f *fetch) (Token, error) {
	if f == nil && held.aliveAt(time.Now()) {
		c.h.uses.Add(1)
		return held, nil
	}
	if f != nil && f.over() && !e.pinned { // it could not be started
		c.h.cache.settle(e)
	}
	fresh, err := c.wait(ctx, f)
	switch {
	case err == nil:
		c.h.uses.Add(1)
		return fresh, nil
	case held.aliveAt(time.Now()): // the wait may have outlasted it
		c.h.uses.Add(1)
		return held, nil
	}
	return Token{}, err
}

// Retried is a request that Envoy sends again, as a rule because its token was
// refused.
type Retried struct {
	// Use is what the check gave the request.
	Use Use
	// Refused is the fingerprint of the token that was refused, and Verdict
	// what the rejection said about it. Empty where it was not refused, but
	// Envoy sends the request again for a reason of its own.
	Refused Fingerprint
	Verdict Verdict
	// Attempt counts the tries of the request from 1, the coming one included.
	Attempt int
	// Unasked is whether nobody can say if the token was refused: then it is
	// as suspect as after a rejection without evidence on that Route, unless it
	// was just issued.
	Unasked bool
	Route   string
}

// knownDead reports whether a token is the one that was said to be dead.
func (r Retried) knownDead(t Token) bool { return t.Fingerprint == r.Refused && r.Verdict == Dead }

// Again returns the token for a request that is sent again without passing the
// check again: a fresh one, and where the budget allows none another than the
// one that was refused. That one is sent again only where it may be alive and
// there is no other: the backend's own answer then is the answer. It blocks and
// fails as Token does, and fails where the caller's token that it takes is no
// longer at hand.
func (c *Credential) Again(ctx context.Context, r Retried) (Token, error) {
	if r.Use.Bypass && !c.cfg.OnBehalf {
		token, err := c.tokenAlone(ctx, Subject{})
		if err != nil || r.knownDead(token) {
			return Token{}, cmp.Or(err, c.unavailable(errSameToken, c.cfg.CoolDown))
		}
		return token, nil
	}
	e := c.entryOf(r.Use)
	if e == nil {
		return Token{}, c.unavailable(ErrNoSubject, 0)
	}
	now := time.Now()
	e.mu.Lock()
	e.heedFlush()
	var f *fetch
	token := e.current
	switch {
	case !token.aliveAt(now):
		f = e.fetchMissing(now)
	case e.suits(r, now):
		e.mu.Unlock()
		c.h.uses.Add(1)
		return token, nil
	case r.Unasked && e.fetching == nil:
		f = e.try(now, Rejection{Use: r.Use, Route: r.Route}, false)
	default:
		f = e.suspect(now)
	}
	e.mu.Unlock()
	fresh, err := c.wait(ctx, f)
	if err != nil && token.aliveAt(time.Now()) && !e.isDead(token) {
		fresh, err = token, nil
	}
	switch {
	case err != nil:
		return Token{}, err
	case r.knownDead(fresh):
		return Token{}, c.unavailable(errSameToken, c.cfg.CoolDown)
	}
	c.h.uses.Add(1)
	return fresh, nil
}

// suits reports whether the token that is held may be sent with a retried request:
// it is not the one that was refused, nor as old.
func (e *entry) suits(r Retried, now time.Time) bool {
	fresh := e.current.freshOn(r.Attempt, now)
	if r.Refused == "" {
		return !r.Unasked || fresh
	}
	return e.current.Fingerprint != r.Refused && (fresh || e.past.has(r.Refused))
}

// isDead reports whether a backend said that the token is dead.
func (e *entry) isDead(t Token) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.dead == t.Fingerprint
}

// wait waits for a fetch until ctx ends or the timeout is over. A nil fetch is
// one that could not be started.
func (c *Credential) wait(ctx context.Context, f *fetch) (Token, error) {
	if f == nil {
		return Token{}, c.unavailable(errNotStarted, 0)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Timeout, errSlow)
	defer cancel()
	select {
	case <-f.done:
		return f.token, f.err
	case <-ctx.Done():
		return Token{}, c.unavailable(context.Cause(ctx), time.Second)
	}
}

// ErrNoSubject is the cause where a token is to be had on behalf of a caller only,
// whose own token is not at hand.
var ErrNoSubject = errors.New("it is got on behalf of a caller, and the caller's own token is not at hand")

var (
	errNotStarted       = errors.New("no token request may be made now")
	errSlow       error = slowError{}
	errOutlived         = errors.New("the token expired before it arrived")
	errPaused           = errors.New("the credential is paused")
	errClosed           = errors.New("the credential is closed")
	errSameToken        = errors.New("the provider gives the refused token again")
)

// slowError says that the timeout is over, in the form that package net uses for
// it.
type slowError struct{}

func (slowError) Error() string   { return "the provider has not answered yet" }
func (slowError) Timeout() bool   { return true }
func (slowError) Temporary() bool { return true }

// failure is what becomes of a failed fetch's error.
func (c *Credential) failure(err error, retryAfter time.Duration) error {
	var subject *SubjectError
	if errors.As(err, &subject) {
		return err
	}
	return c.unavailable(err, retryAfter)
}

func (c *Credential) unavailable(err error, retryAfter time.Duration) error {
	return &UnavailableError{Credential: c.cfg.Name, RetryAfter: retryAfter, Err: err}
}

// keeps reports whether there is a token of its own to keep.
func (c *Credential) keeps() bool { return !c.cfg.OnBehalf && !c.cfg.Bypass }

// Warm starts fetching a token if none is held, without waiting for it. It does
// nothing where tokens are fetched for requests only.
func (c *Credential) Warm() {
	if !c.keeps() {
		return
	}
	e := c.h.own
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.current.aliveAt(now) {
		e.fetchMissing(now)
	}
}

// Flush drops the tokens that are held, and fetches another of its own without
// waiting for it. It reports whether one was held; ErrPaused if the credential
// is paused, for then nothing would take its place.
func (c *Credential) Flush() (bool, error) {
	if c.isPaused() {
		return false, ErrPaused
	}
	now := time.Now()
	c.h.flushed.Store(&now)
	if !c.keeps() {
		return c.h.entries.Load() > 0, nil
	}
	e := c.h.own
	e.mu.Lock()
	defer e.mu.Unlock()
	had := e.current.aliveAt(now)
	e.flush(now)
	return had, nil
}

// ErrNothingHeld is returned where there is no token to simulate with.
var ErrNothingHeld = errors.New("tokens: the credential holds no token of its own now")

// Void puts a token in place of the one that is held which no backend accepts,
// as if its provider had voided it: the next request meets a dead token. It is
// for simulations; ErrNothingHeld if there is no token to replace.
func (c *Credential) Void() error {
	e := c.h.own
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.current.aliveAt(time.Now()) {
		return ErrNothingHeld
	}
	e.void()
	return nil
}

// ErrPaused is returned where an operator's request makes no sense while the
// credential is paused.
var ErrPaused = errors.New("tokens: the credential is paused")

// Pause stops every token request of the credential, renewals too, until
// Resume. The token that is held is handed out until it expires. It reports
// whether that changed anything.
func (c *Credential) Pause() bool { return c.setPaused(true, EventPaused) }

// Resume undoes Pause. A token that is missing or due is fetched at once.
func (c *Credential) Resume() bool {
	changed := c.setPaused(false, EventResumed)
	if changed && c.keeps() {
		e := c.h.own
		e.mu.Lock()
		e.resume(time.Now())
		e.mu.Unlock()
	}
	return changed
}

func (c *Credential) setPaused(paused bool, kind Kind) bool {
	c.mu.Lock()
	changed := c.paused != paused
	c.paused = paused
	c.mu.Unlock()
	if changed {
		c.emit(Event{Kind: kind, Reason: ReasonPaused})
	}
	return changed
}

func (c *Credential) isPaused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paused
}

// emit completes an event and tells the observer.
func (c *Credential) emit(ev Event) {
	ev.Time, ev.Credential = time.Now(), c.cfg.Name
	ev.Provider = cmp.Or(ev.Provider, c.cfg.Provider)
	c.cfg.Observer(ev)
}

// Status is a credential's state at one moment. It holds no token.
type Status struct {
	// Name is the credential's, and Provider that of the provider that issued
	// its token, or else of its first.
	Name, Provider string
	// Token is what is held; its Value is left out. Its Generation is 0 if
	// there never was one.
	Token Token
	// Alive is whether that token may be handed out.
	Alive bool
	// Renewal is when it is to be renewed; zero if it is not.
	Renewal time.Time
	// Fetching is whether a token request is in flight.
	Fetching bool
	// Paused is whether an operator paused it.
	Paused bool
	// OnRequest is whether tokens are fetched for requests only: on behalf of
	// callers, or by a bypass. Then Token and what goes with it stay empty.
	OnRequest bool
	// Subjects is how many tokens are held on behalf of callers.
	Subjects int
	// Uses counts the tokens that were handed out, and Bypassed those of them
	// that were fetched for a single request.
	Uses, Bypassed uint64
	// Trials is how many token requests rejections may cause at once now.
	Trials int
	// Failures counts the token requests that failed since the last success.
	Failures int
	// Err is the last failure; nil after a success.
	Err error
}

// Status returns the credential's state.
func (c *Credential) Status() Status {
	e := c.h.own
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	held := e.current
	if !c.keeps() { // what a credential held that this one took the place of
		held = Token{}
	}
	s := Status{
		Name: c.cfg.Name, Provider: cmp.Or(held.Provider, c.cfg.Provider),
		Token: held, Alive: held.aliveAt(now), Renewal: e.renewal,
		Fetching: e.fetching != nil, OnRequest: !c.keeps(), Subjects: int(c.h.entries.Load()),
		Uses: c.h.uses.Load(), Bypassed: c.h.bypassed.Load(),
		Failures: e.failures, Err: e.lastErr,
	}
	s.Token.Value = ""
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trials.refill(now)
	s.Paused, s.Trials = c.paused, int(c.trials.level)
	return s
}
