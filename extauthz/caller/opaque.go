package caller

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/rebearer/rebearer/tokens/oauth"
	"github.com/rebearer/rebearer/tokens/oauth/strictjson"
)

const (
	defaultTTL, maxTTL                 = 30 * time.Second, time.Hour
	defaultInactiveTTL, maxInactiveTTL = 5 * time.Second, time.Minute
	defaultRate                        = 50

	// familiarFor is how long a token that was active once is told apart from
	// one that nobody ever saw.
	familiarFor = time.Hour
	// introspectTimeout bounds one call: metadata and introspection.
	introspectTimeout = 15 * time.Second
	// shortly is what a caller is told to wait where nothing better is known.
	shortly = time.Second
)

// Introspector asks a provider about a token (RFC 7662). An error says nothing
// about the token. [*oauth.Client] implements it.
type Introspector interface {
	Introspect(ctx context.Context, token string) (oauth.Introspection, error)
}

// OpaqueConfig says which tokens an [Opaque] accepts.
type OpaqueConfig struct {
	// Issuer is the provider's issuer identifier. Required. An answer may leave
	// iss out, since the endpoint that was asked is the provider's own; one with
	// another iss is refused.
	Issuer string
	// Audiences are the values of which the answer's aud must have one, compared
	// exactly. Empty means that the provider's word is enough: it judges a token
	// for the client that asks (RFC 7662 section 2.2). Many do not; say an
	// audience wherever the provider states one.
	Audiences []string
	// Required are the members that an answer must have, whatever their values;
	// null is none.
	Required []string
	// Claims are the members that an identity carries, 32 at most.
	Claims []string
	// ClockSkew is how far our clock and the provider's may be apart, 5 minutes
	// at most. Zero means not at all.
	ClockSkew time.Duration
	// TTL is how long the provider is believed that a token is active, 1 hour at
	// most: so long a token that it revoked is still accepted. Zero means 30 s.
	TTL time.Duration
	// InactiveTTL is how long a refusal is believed, 1 minute at most. Zero
	// means 5 s.
	InactiveTTL time.Duration
	// Rate is how many tokens per second the provider is asked about that were
	// not active before. As many calls again may renew what is known of those
	// that were, so that a flood of made-up tokens leaves them alone. Zero means
	// 50.
	Rate float64
	// Burst is how many calls may come at once. Zero means as many as Rate.
	Burst int
	// CacheBytes bounds the memory for active tokens. Zero means 16 MiB.
	CacheBytes int64
	// Revocations are looked at for every token. Nil means that there are none.
	Revocations *Revocations
}

// Opaque verifies tokens by asking their provider. It is safe for concurrent
// use and must be closed.
//
// What it remembers belongs to it alone, and so to one endpoint and one client:
// two of them never share an answer, or a call under way, for the same token.
type Opaque struct {
	terms

	source    Introspector
	ttl       time.Duration
	strangers *rate.Limiter      // calls about tokens that were not active before
	renewals  *rate.Limiter      // calls about those that were
	cache     *cache             // of active tokens
	recent    *recent            // what it said a moment ago
	calls     singleflight.Group // by SHA-256 of the token
	health    health
}

// NewOpaque returns a verifier for the tokens that cfg describes. It asks
// nothing yet.
func NewOpaque(source Introspector, log *slog.Logger, cfg OpaqueConfig) (*Opaque, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("opaque tokens of issuer %q: %w", cfg.Issuer, err)
	}
	active, err := newCache(cfg.CacheBytes)
	if err != nil {
		return nil, fmt.Errorf("opaque tokens of issuer %q: %w", cfg.Issuer, err)
	}
	return &Opaque{
		terms:     cfg.terms(),
		source:    source,
		health:    health{log: log},
		ttl:       cfg.TTL,
		strangers: rate.NewLimiter(rate.Limit(cfg.Rate), cfg.Burst),
		renewals:  rate.NewLimiter(rate.Limit(cfg.Rate), cfg.Burst),
		cache:     active,
		recent:    newRecent(cfg.InactiveTTL),
	}, nil
}

func (c OpaqueConfig) terms() terms {
	return terms{
		issuer: c.Issuer, audiences: slices.Clone(c.Audiences), required: slices.Clone(c.Required),
		kept: slices.Clone(c.Claims), skew: c.ClockSkew, revocations: c.Revocations,
	}
}

func (c OpaqueConfig) withDefaults() OpaqueConfig {
	if c.TTL == 0 {
		c.TTL = defaultTTL
	}
	if c.InactiveTTL == 0 {
		c.InactiveTTL = defaultInactiveTTL
	}
	if c.Rate == 0 {
		c.Rate = defaultRate
	}
	if c.Burst == 0 {
		c.Burst = int(math.Ceil(min(c.Rate, math.MaxInt32)))
	}
	return c
}

// validate reports what is unsafe or makes no sense.
func (c OpaqueConfig) validate() error {
	asked := c.terms()
	switch {
	case c.TTL < 0 || c.TTL > maxTTL:
		return fmt.Errorf("ttl %v is not within 0 and %v", c.TTL, maxTTL)
	case c.InactiveTTL < 0 || c.InactiveTTL > maxInactiveTTL:
		return fmt.Errorf("inactive ttl %v is not within 0 and %v", c.InactiveTTL, maxInactiveTTL)
	case !(c.Rate > 0) || math.IsInf(c.Rate, 0) || c.Burst < 0:
		return errors.New("rate and burst must be positive numbers")
	}
	return asked.validate()
}

// Close implements [Verifier].
func (o *Opaque) Close() { o.cache.close() }

// Issuer returns the provider's issuer identifier.
func (o *Opaque) Issuer() string { return o.issuer }

// Verify implements [Verifier]. It blocks only while the provider is asked.
func (o *Opaque) Verify(ctx context.Context, token string) (Identity, error) {
	return verify(ctx, o, token)
}

func (o *Opaque) member() member { return member{steps: o, issuer: o.issuer} }

// known returns what the provider said of the token with that SHA-256 a short
// time ago, or nil.
func (o *Opaque) known(sum [sha256.Size]byte, now time.Time) *verified {
	if hit := o.cache.get(sum); hit != nil && now.Before(hit.renew) {
		return hit
	}
	return nil
}

// recall knows a token that the provider called active a short time ago.
func (o *Opaque) recall(_ context.Context, sum [sha256.Size]byte, now time.Time) (Identity, bool, error) {
	hit := o.known(sum, now)
	if hit == nil {
		return Identity{}, false, nil
	}
	who, err := o.settle(hit, now)
	return who, true, err
}

// judge asks the provider, unless it refused the token a moment ago.
func (o *Opaque) judge(ctx context.Context, p *presented) (Identity, error) {
	found, err := o.consult(ctx, p)
	if err != nil {
		return Identity{}, err
	}
	return o.settle(found, p.now)
}

// settle is the last step for every token that the provider calls active.
func (o *Opaque) settle(found *verified, now time.Time) (Identity, error) {
	if !found.who.named() {
		return Identity{}, ErrClaims
	}
	if err := o.checkTimes(found.validity, now); err != nil {
		return Identity{}, err
	}
	return o.terms.settle(found, now)
}

// consult returns what the provider says of a token, now or a short time ago.
// All who ask about a token at once share one call, which no one's leaving ends.
func (o *Opaque) consult(ctx context.Context, p *presented) (*verified, error) {
	if known := o.known(p.sum, p.now); known != nil {
		return known, nil
	}
	if said, known := o.recent.get(p.sum, p.now); known {
		return said.outcome()
	}
	if !isB64Token(p.text) {
		return nil, ErrMalformed
	}
	limit := o.strangers
	if o.cache.get(p.sum) != nil {
		limit = o.renewals
	}
	text, sum, detached := p.text, p.sum, context.WithoutCancel(ctx)
	call := o.calls.DoChan(string(sum[:]), func() (any, error) { return o.call(detached, text, sum, limit) })
	select {
	case result := <-call:
		if result.Err != nil {
			return nil, result.Err
		}
		found, _ := result.Val.(*verified) // what call returns
		return found, nil
	case <-ctx.Done():
		return nil, &UnavailableError{Reason: ReasonIntrospection, RetryAfter: shortly, Err: fmt.Errorf("the provider is being asked: %w", ctx.Err())}
	}
}

// call asks the provider once and remembers what it says. A fault in reading
// the answer must not end the process, since it comes from outside.
func (o *Opaque) call(ctx context.Context, text string, sum [sha256.Size]byte, limit *rate.Limiter) (found *verified, err error) {
	defer func() {
		if recover() != nil {
			found, err = nil, &UnavailableError{Reason: ReasonIntrospection, RetryAfter: shortly, Err: errors.New("reading the answer failed: this is a fault in rebearer")}
		}
	}()
	now := time.Now()
	// A call may have ended since consult looked.
	if said, known := o.recent.get(sum, now); known {
		return said.outcome()
	}
	if wait := o.health.wait(now); wait > 0 {
		return nil, &UnavailableError{Reason: ReasonIntrospection, RetryAfter: wait, Err: errors.New("the provider wants to be left alone")}
	}
	if !limit.Allow() {
		return nil, &UnavailableError{Reason: ReasonLimited, RetryAfter: shortly, Err: errors.New("too many unknown tokens")}
	}
	ctx, cancel := context.WithTimeout(ctx, introspectTimeout)
	defer cancel()
	answer, err := o.source.Introspect(ctx, text)
	now = time.Now()
	if err == nil {
		found, err = o.read(answer, sum, now)
	}
	return found, o.remember(ctx, found, sum, err, now)
}

// remember stores what came of a call, and returns its error as that of Verify.
func (o *Opaque) remember(ctx context.Context, found *verified, sum [sha256.Size]byte, err error, now time.Time) error {
	var invalid *InvalidError
	if err != nil && !errors.As(err, &invalid) {
		pause := o.health.failed(ctx, err, now)
		return &UnavailableError{Reason: ReasonIntrospection, RetryAfter: max(pause, shortly), Err: err}
	}
	o.health.succeeded(ctx)
	o.recent.add(sum, found, invalid, now)
	if invalid != nil {
		return invalid
	}
	o.cache.add(found, o.keepFor(found, now))
	return nil
}

// keepFor is how long an active token is kept: beyond the time for which the
// provider is believed, so that it is known for one that was active.
func (o *Opaque) keepFor(found *verified, now time.Time) time.Duration {
	life := o.ttl + familiarFor
	if expires := found.validity.expires; !expires.IsZero() {
		life = min(life, expires.Add(o.skew).Sub(now))
	}
	return life
}

var errAnswer = errors.New("a member of the introspection answer has the wrong type (RFC 7662 section 2.2)")

// read checks an answer. Its error is an InvalidError where the token is not for
// us, and errAnswer where the provider is at fault.
func (o *Opaque) read(answer oauth.Introspection, sum [sha256.Size]byte, now time.Time) (*verified, error) {
	if !answer.Active {
		return nil, ErrInactive
	}
	// Many providers send null for what they do not state.
	members := maps.Clone(answer.Members)
	maps.DeleteFunc(members, func(name string, _ json.RawMessage) bool { return !members.HasValue(name) })
	said, ok := readClaims(members)
	if !ok {
		return nil, errAnswer
	}
	if !members.Has("iss") {
		said.issuer = o.issuer
	}
	if err := checkTokenType(members); err != nil {
		return nil, err
	}
	found, err := o.accept(said)
	if err != nil {
		return nil, err
	}
	// A token that is not valid yet is kept until it is.
	if err := o.checkTimes(found.validity, now); errors.Is(err, ErrExpired) {
		return nil, ErrExpired
	}
	found.sum, found.renew = sum, now.Add(o.ttl)
	return found, nil
}

// checkTokenType refuses tokens that are not used as bearer tokens (RFC 6749
// section 7.1). Some providers say access_token there, and many nothing.
func checkTokenType(members strictjson.Object) error {
	kind, ok := members.Text("token_type")
	switch {
	case !ok:
		return errAnswer
	case kind == "", strings.EqualFold(kind, "Bearer"), strings.EqualFold(kind, "access_token"):
		return nil
	case strings.EqualFold(kind, "DPoP"):
		return ErrBound
	}
	return ErrType
}

// isB64Token reports whether text is a b64token (RFC 6750 section 2.1): nothing
// else can have been issued as a bearer token.
func isB64Token(text string) bool {
	body := strings.TrimRight(text, "=")
	return body != "" && !strings.ContainsFunc(body, func(r rune) bool {
		return notBase64URL(r) && !strings.ContainsRune(".~+/", r)
	})
}
