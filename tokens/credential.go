package tokens

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
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
	// Observer is told of its tokens' life. Nil means nobody.
	Observer Observer
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

// Credential is an OAuth client of ours and the backend token that it gets. It
// is safe for concurrent use.
type Credential struct {
	cfg   Config
	cache *Cache
	key   string // of its entry in cache: no two credentials ever share one
	held  *entry // so that pressure on the cache never costs a fetch

	uses atomic.Uint64

	// life ends with Close. Fetches run on it, never on a caller's context.
	life context.Context //nolint:containedctx // the one lifetime context
	stop context.CancelFunc

	mu      sync.Mutex // guards what follows; taken after an entry's
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
		cache:   cache,
		trials:  newBudget(trialBurst, cfg.CoolDown, now),
		returns: newBudget(returnBurst, cfg.CoolDown, now),
		quiet:   silence{},
	}
	c.life, c.stop = context.WithCancel(context.Background())
	c.held = &entry{c: c}
	c.key = fmt.Sprintf("%s\x00%p", cfg.Key, c.held)
	return c, nil
}

// Adopt takes over what old holds, if it is for the same key: its token, what is
// known of its provider, its budget, and whether it is paused. A change of the
// other settings so costs no token request. Call it before c is used; old goes
// on as it was until it is closed.
func (c *Credential) Adopt(old *Credential) {
	if old == nil || old.cfg.Key != c.cfg.Key {
		return
	}
	from, to := old.held, c.held
	from.mu.Lock()
	defer from.mu.Unlock()
	to.mu.Lock()
	defer to.mu.Unlock()
	to.current, to.past = from.current, append(pastTokens(nil), from.past...)
	to.failures, to.lastErr, to.notUntil = from.failures, from.lastErr, from.notUntil
	old.mu.Lock()
	defer old.mu.Unlock()
	c.mu.Lock()
	c.paused, c.trials.level, c.trials.at = old.paused, old.trials.level, old.trials.at
	c.mu.Unlock()
	c.uses.Store(old.uses.Load())
	if to.current.aliveAt(time.Now()) {
		to.schedule(c.cfg.Expiry.renewal(to.current.Issued, to.current.Expires, rand.Float64()))
	}
}

// Close stops renewals and ends fetches in flight. Tokens that were handed out
// stay valid.
func (c *Credential) Close() {
	c.stop()
	c.held.stopRenewal()
	c.cache.drop(c.key)
}

// Name returns the credential's name in the configuration.
func (c *Credential) Name() string { return c.cfg.Name }

// entry returns the entry of the credential's own token.
func (c *Credential) entry() *entry { return c.cache.get(c.key, c.held) }

// Token returns the living backend token. Without one it waits for the fetch in
// flight, starting it if needed, until ctx ends or the credential's timeout is
// over; the error then is an *[UnavailableError].
func (c *Credential) Token(ctx context.Context, r Request) (Token, error) {
	e, attempt := c.entry(), r.Attempt
	now := time.Now()
	e.mu.Lock()
	token := e.current
	alive := token.aliveAt(now)
	if alive && token.freshOn(attempt, now) {
		e.handedOut(attempt)
		e.mu.Unlock()
		c.uses.Add(1)
		return token, nil
	}
	var f *fetch
	if alive {
		f = e.suspect(now)
	} else {
		f = e.fetchMissing(now)
	}
	e.mu.Unlock()

	fresh, err := c.wait(ctx, f)
	switch {
	case err == nil:
		c.uses.Add(1)
		return fresh, nil
	case token.aliveAt(time.Now()): // the wait may have outlasted it
		c.uses.Add(1)
		return token, nil
	}
	return Token{}, err
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

var (
	errNotStarted = errors.New("no token request may be made now")
	errSlow       = errors.New("the provider has not answered yet")
	errOutlived   = errors.New("the token expired before it arrived")
	errPaused     = errors.New("the credential is paused")
	errClosed     = errors.New("the credential is closed")
)

func (c *Credential) unavailable(err error, retryAfter time.Duration) error {
	return &UnavailableError{Credential: c.cfg.Name, RetryAfter: retryAfter, Err: err}
}

// Warm starts fetching a token if none is held, without waiting for it.
func (c *Credential) Warm() {
	e := c.entry()
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.current.aliveAt(now) {
		e.fetchMissing(now)
	}
}

// Flush drops the token that is held and fetches another, without waiting for
// it. It reports whether a token was held; ErrPaused if the credential is
// paused, for then nothing would take its place.
func (c *Credential) Flush() (bool, error) {
	if c.isPaused() {
		return false, ErrPaused
	}
	e := c.entry()
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	had := e.current.aliveAt(now)
	e.flush(now)
	return had, nil
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
	if changed {
		e := c.entry()
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
	ev.Time, ev.Credential, ev.Provider = time.Now(), c.cfg.Name, c.cfg.Provider
	c.cfg.Observer(ev)
}

// Status is a credential's state at one moment. It holds no token.
type Status struct {
	// Name and Provider are the credential's and its provider's.
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
	// Uses counts the tokens that were handed out.
	Uses uint64
	// Trials is how many token requests rejections may cause at once now.
	Trials int
	// Failures counts the token requests that failed since the last success.
	Failures int
	// Err is the last failure; nil after a success.
	Err error
}

// Status returns the credential's state.
func (c *Credential) Status() Status {
	e := c.held
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	s := Status{
		Name: c.cfg.Name, Provider: c.cfg.Provider,
		Token: e.current, Alive: e.current.aliveAt(now), Renewal: e.renewal,
		Fetching: e.fetching != nil, Uses: c.uses.Load(),
		Failures: e.failures, Err: e.lastErr,
	}
	s.Token.Value = ""
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trials.refill(now)
	s.Paused, s.Trials = c.paused, int(c.trials.level)
	return s
}
