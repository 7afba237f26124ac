package caller

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	maxClockSkew      = 5 * time.Minute
	defaultCacheBytes = 16 << 20
)

// JWTConfig says which tokens a [JWT] accepts.
type JWTConfig struct {
	// Issuer is the iss claim of every accepted token, compared exactly.
	Issuer string
	// Audiences are the values of which the aud claim must have one, compared
	// exactly. There must be at least one.
	Audiences []string
	// Algorithms are the accepted values of alg. Empty means all asymmetric
	// ones that are supported: RS, PS and ES with 256, 384 and 512, and EdDSA.
	Algorithms []string
	// ClockSkew is how far our clock and the issuer's may be apart, 5 minutes
	// at most. Zero means not at all.
	ClockSkew time.Duration
	// CacheBytes bounds the memory for verified tokens. Zero means 16 MiB.
	CacheBytes int64
}

// JWT verifies the tokens of one issuer. It is safe for concurrent use and must
// be closed.
type JWT struct {
	keys       *KeySet
	issuer     string
	audiences  []string
	algorithms []jose.SignatureAlgorithm
	skew       time.Duration
	cache      *cache
}

// NewJWT returns a verifier for the tokens that cfg describes, signed by one of
// keys.
func NewJWT(keys *KeySet, cfg JWTConfig) (*JWT, error) {
	algorithms, err := cfg.validate()
	if err != nil {
		return nil, fmt.Errorf("tokens of issuer %q: %w", cfg.Issuer, err)
	}
	size := cfg.CacheBytes
	if size == 0 {
		size = defaultCacheBytes
	}
	verified, err := newCache(size)
	if err != nil {
		return nil, err
	}
	return &JWT{
		keys: keys, issuer: cfg.Issuer, audiences: slices.Clone(cfg.Audiences),
		algorithms: algorithms, skew: cfg.ClockSkew, cache: verified,
	}, nil
}

// validate returns the algorithms, or what makes the configuration unsafe.
func (c JWTConfig) validate() ([]jose.SignatureAlgorithm, error) {
	if c.Issuer == "" {
		return nil, errors.New("no issuer")
	}
	if len(c.Audiences) == 0 || slices.Contains(c.Audiences, "") {
		return nil, errors.New("no audience, or an empty one")
	}
	if c.ClockSkew < 0 || c.ClockSkew > maxClockSkew {
		return nil, fmt.Errorf("clock skew %v is not within 0 and %v", c.ClockSkew, maxClockSkew)
	}
	if c.CacheBytes < 0 {
		return nil, errors.New("cache size is negative")
	}
	supported := []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
		jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
	}
	if len(c.Algorithms) == 0 {
		return supported, nil
	}
	var allowed []jose.SignatureAlgorithm
	for _, name := range c.Algorithms {
		algorithm := jose.SignatureAlgorithm(name)
		if !slices.Contains(supported, algorithm) {
			return nil, fmt.Errorf("algorithm %q is not one of %v", name, supported)
		}
		allowed = append(allowed, algorithm)
	}
	return allowed, nil
}

// Close forgets the verified tokens and ends the cache that held them. A Verify
// that runs meanwhile or follows is merely slower.
func (v *JWT) Close() { v.cache.close() }

// Issuer returns the issuer whose tokens are verified.
func (v *JWT) Issuer() string { return v.issuer }

// Verify returns who sent a token. It blocks only while keys are being fetched,
// until ctx ends at most. Its error is an [*InvalidError] or an
// [*UnavailableError].
func (v *JWT) Verify(ctx context.Context, token string) (Identity, error) {
	if len(token) > maxTokenBytes {
		return Identity{}, ErrMalformed
	}
	now, sum := time.Now(), sha256.Sum256([]byte(token))
	if who, ok := v.remembered(ctx, sum, now); ok {
		return who, nil
	}
	parsed, err := parseCompact(token)
	if err != nil {
		return Identity{}, err
	}
	return v.verify(ctx, parsed, sum, now)
}

// remembered returns who sent a token that was verified before and still is
// good.
func (v *JWT) remembered(ctx context.Context, sum [sha256.Size]byte, now time.Time) (Identity, bool) {
	hit := v.cache.get(sum)
	if hit == nil {
		return Identity{}, false
	}
	if current := v.keys.usable(ctx); current == nil || !current.has(hit.signedBy) {
		return Identity{}, false
	}
	if v.checkTimes(hit.validity, now) != nil {
		return Identity{}, false
	}
	return hit.who, true
}

// verify does the checks that need a key, and remembers the outcome if it is
// good.
func (v *JWT) verify(ctx context.Context, parsed compact, sum [sha256.Size]byte, now time.Time) (Identity, error) {
	if !slices.Contains(v.algorithms, parsed.algorithm) {
		return Identity{}, ErrAlgorithm
	}
	signer, err := v.signer(ctx, parsed)
	if err != nil {
		return Identity{}, err
	}
	members, err := parsed.claims()
	if err != nil {
		return Identity{}, err
	}
	times, err := readValidity(members)
	if err != nil {
		return Identity{}, err
	}
	who, err := v.accept(members, times, now)
	if err != nil {
		return Identity{}, err
	}
	v.cache.add(&verified{sum: sum, who: who, validity: times, signedBy: signer.thumbprint}, times.expires.Add(v.skew).Sub(now))
	return who, nil
}

// signer returns the key that signed the token.
func (v *JWT) signer(ctx context.Context, parsed compact) (*key, error) {
	candidates, err := v.keys.find(ctx, parsed.keyID, parsed.algorithm)
	if err != nil {
		return nil, err
	}
	if signer := parsed.signedBy(candidates); signer != nil {
		return signer, nil
	}
	if replaced := v.keys.findReplaced(ctx, parsed, candidates); len(replaced) > 0 {
		if signer := parsed.signedBy(replaced); signer != nil {
			return signer, nil
		}
	}
	return nil, ErrSignature
}

// validity is when a token is good.
type validity struct {
	expires   time.Time
	notBefore time.Time // the later of nbf and iat; zero if it has neither
}

// readValidity reads exp, which must be there, nbf and iat.
func readValidity(members object) (validity, error) {
	expires, okExpires := members.date("exp")
	notBefore, okNotBefore := members.date("nbf")
	issued, okIssued := members.date("iat")
	if !okExpires || !okNotBefore || !okIssued || expires.IsZero() {
		return validity{}, ErrClaims
	}
	if issued.After(notBefore) {
		notBefore = issued
	}
	return validity{expires: expires, notBefore: notBefore}, nil
}

// checkTimes reports whether a token is good now.
func (v *JWT) checkTimes(times validity, now time.Time) error {
	if !now.Before(times.expires.Add(v.skew)) {
		return ErrExpired
	}
	if now.Before(times.notBefore.Add(-v.skew)) {
		return ErrNotYetValid
	}
	return nil
}

// accept checks the claims of a token that the issuer signed.
func (v *JWT) accept(members object, times validity, now time.Time) (Identity, error) {
	if issuer, ok := members.text("iss"); !ok || issuer != v.issuer {
		return Identity{}, ErrIssuer
	}
	if err := v.checkTimes(times, now); err != nil {
		return Identity{}, err
	}
	audiences, ok := members.texts("aud")
	if !ok {
		return Identity{}, ErrClaims
	}
	if !slices.ContainsFunc(audiences, func(a string) bool { return slices.Contains(v.audiences, a) }) {
		return Identity{}, ErrAudience
	}
	if members.has("cnf") { // RFC 7800: the caller would have to prove a key
		return Identity{}, ErrBound
	}
	return v.identity(members, times)
}

// identity reads who the caller is.
func (v *JWT) identity(members object, times validity) (Identity, error) {
	subject, okSubject := members.text("sub")
	clientID, okClientID := members.text("client_id")
	if !members.has("client_id") {
		clientID, okClientID = members.text("azp")
	}
	scopes, okScopes := members.texts("scope")
	if !members.has("scope") {
		scopes, okScopes = members.texts("scp")
	}
	if !okSubject || !okClientID || !okScopes || subject == "" && clientID == "" || !isName(subject) || !isName(clientID) {
		return Identity{}, ErrClaims
	}
	return Identity{
		Issuer: v.issuer, Subject: subject, ClientID: clientID,
		Scopes:  strings.Fields(strings.Join(scopes, " ")),
		Expires: times.expires, fingerprint: identify(v.issuer, subject, clientID),
	}, nil
}
