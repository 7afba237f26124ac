package caller

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
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
	// Required are the claims that a token must have besides iss, aud and exp,
	// whatever their values; null is none.
	Required []string
	// Claims are those that an identity carries, 32 at most.
	Claims []string
	// ClockSkew is how far our clock and the issuer's may be apart, 5 minutes
	// at most. Zero means not at all.
	ClockSkew time.Duration
	// CacheBytes bounds the memory for verified tokens. Zero means 16 MiB.
	CacheBytes int64
	// Revocations are looked at for every token. Nil means that there are none.
	Revocations *Revocations
}

// JWT verifies the tokens of one issuer. It is safe for concurrent use and must
// be closed.
type JWT struct {
	terms

	keys       *KeySet
	algorithms []jose.SignatureAlgorithm
	cache      *cache
	regulars   regulars
}

// NewJWT returns a verifier for the tokens that cfg describes, signed by one of
// keys.
func NewJWT(keys *KeySet, cfg JWTConfig) (*JWT, error) {
	algorithms, err := cfg.validate()
	if err != nil {
		return nil, fmt.Errorf("tokens of issuer %q: %w", cfg.Issuer, err)
	}
	verified, err := newCache(cfg.CacheBytes)
	if err != nil {
		return nil, fmt.Errorf("tokens of issuer %q: %w", cfg.Issuer, err)
	}
	return &JWT{terms: cfg.terms(), keys: keys, algorithms: algorithms, cache: verified}, nil
}

func (c JWTConfig) terms() terms {
	return terms{
		issuer: c.Issuer, audiences: slices.Clone(c.Audiences), required: slices.Clone(c.Required),
		kept: slices.Clone(c.Claims), skew: c.ClockSkew, revocations: c.Revocations,
	}
}

// validate returns the algorithms, or what makes the configuration unsafe.
func (c JWTConfig) validate() ([]jose.SignatureAlgorithm, error) {
	asked := c.terms()
	if err := asked.validate(); err != nil {
		return nil, err
	}
	if len(c.Audiences) == 0 {
		return nil, errors.New("no audience")
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

// Close implements [Verifier].
func (v *JWT) Close() { v.cache.close() }

// Issuer returns the issuer whose tokens are verified.
func (v *JWT) Issuer() string { return v.issuer }

// Verify implements [Verifier]. It blocks only while keys are being fetched.
func (v *JWT) Verify(ctx context.Context, token string) (Identity, error) {
	return verify(ctx, v, token)
}

func (v *JWT) member() member { return member{steps: v, issuer: v.issuer, signed: true} }

// known returns the token with that SHA-256 if it was verified before and still
// is good, and nil otherwise.
func (v *JWT) known(ctx context.Context, sum [sha256.Size]byte, now time.Time) *verified {
	hit := v.cache.get(sum)
	if hit == nil {
		return nil
	}
	if current := v.keys.usable(ctx); current == nil || !current.has(hit.signedBy) {
		return nil
	}
	if v.checkTimes(hit.validity, now) != nil {
		return nil
	}
	return hit
}

// recall knows a token that was verified before and still is good, or has been
// revoked.
func (v *JWT) recall(ctx context.Context, sum [sha256.Size]byte, now time.Time) (Identity, bool, error) {
	hit := v.known(ctx, sum, now)
	if hit == nil {
		return Identity{}, false, nil
	}
	who, err := v.settle(hit, now)
	return who, true, err
}

// judge verifies the token.
func (v *JWT) judge(ctx context.Context, p *presented) (Identity, error) {
	found, err := v.check(ctx, p)
	if err != nil {
		return Identity{}, err
	}
	return v.settle(found, p.now)
}

// check does all that needs no revocations, and remembers a token that is good.
func (v *JWT) check(ctx context.Context, p *presented) (*verified, error) {
	parsed, err := p.compact()
	if err != nil {
		return nil, err
	}
	if !slices.Contains(v.algorithms, parsed.algorithm) {
		return nil, ErrAlgorithm
	}
	signer, err := v.signer(ctx, parsed)
	if err != nil {
		return nil, err
	}
	found, err := v.read(parsed, p.now)
	if err != nil {
		return nil, err
	}
	found.sum, found.signedBy = p.sum, signer.thumbprint
	v.regulars.add(found.who.fingerprint)
	v.cache.add(found, found.validity.expires.Add(v.skew).Sub(p.now))
	return found, nil
}

// signer returns the key that signed the token.
func (v *JWT) signer(ctx context.Context, parsed compact) (*key, error) {
	namesRegular := func() bool { return v.namesRegular(parsed) }
	candidates, err := v.keys.find(ctx, parsed.keyID, parsed.algorithm, namesRegular)
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

// namesRegular reports whether a token, of which nothing is verified, names a
// caller that is known.
func (v *JWT) namesRegular(parsed compact) bool {
	members, err := parsed.claims()
	if err != nil {
		return false
	}
	said, ok := readClaims(members)
	return ok && v.regulars.has(identify(said.issuer, said.subject, said.clientID))
}

// read checks the claims of a token that the issuer signed.
func (v *JWT) read(parsed compact, now time.Time) (*verified, error) {
	members, err := parsed.claims()
	if err != nil {
		return nil, err
	}
	said, ok := readClaims(members)
	if !ok || said.validity.expires.IsZero() {
		return nil, ErrClaims
	}
	found, err := v.accept(said)
	if err != nil {
		return nil, err
	}
	if !found.who.named() {
		return nil, ErrClaims
	}
	return found, v.checkTimes(found.validity, now)
}
