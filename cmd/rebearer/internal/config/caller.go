package config

import (
	"slices"
	"strings"
	"time"
)

// maxClockSkew bounds how long an expired token is still accepted.
const maxClockSkew = time.Minute

// Bounds of introspection. An answer that is believed for longer lets a revoked
// token live for longer.
const (
	minIntrospectionTTL = time.Second
	maxIntrospectionTTL = time.Hour
	maxInactiveTTL      = time.Minute
	maxIntrospections   = 10_000 // a second
)

// Tokens is the form of the callers' tokens.
type Tokens string

// The forms of tokens.
const (
	// TokensJWT are checked with the provider's keys.
	TokensJWT Tokens = "jwt"
	// TokensOpaque are shown to the provider (RFC 7662).
	TokensOpaque Tokens = "opaque"
	// TokensJWTThenIntrospect are checked with the provider's keys, and shown
	// to the provider if they are good: for providers that revoke them.
	TokensJWTThenIntrospect Tokens = "jwt_then_introspect" //nolint:gosec // a word of the file, and no secret
)

// Caller says whose tokens are accepted.
type Caller struct {
	// Provider is the name of the provider that issues the tokens. Required;
	// it must have an issuer.
	Provider string `yaml:"provider"`
	// Audiences are the values of which a token's "aud" must hold one.
	// Required for JWTs: without it every token of the provider would pass,
	// whatever it was issued for. For opaque tokens the provider's word is
	// enough where none are named (RFC 7662 section 2.2).
	Audiences []string `yaml:"audiences"`
	// Tokens is the form of the tokens: jwt, opaque or jwt_then_introspect.
	// Default jwt.
	Tokens Tokens `yaml:"tokens"`
	// ClockSkew is how far the provider's clock may be off when "exp", "nbf"
	// and "iat" are judged. At most 60s; zero means not at all. Default 30s.
	ClockSkew time.Duration `yaml:"clock_skew"`
	// Algorithms are the signature algorithms that are accepted (RFC 7518,
	// RFC 8037), asymmetric ones only; not for opaque tokens. Default: RS, PS
	// and ES with 256, 384 and 512 bits, and EdDSA.
	Algorithms []string `yaml:"algorithms"`
	// RequiredClaims are claims that every token must have, whatever their
	// values. Default none but iss, aud and exp.
	RequiredClaims []string `yaml:"required_claims"`
	// Client is our client at the provider, which introspects. Required where
	// tokens are introspected, and only there.
	Client *ClientIdentity `yaml:"client"`
	// Introspection says how often the provider is asked.
	Introspection Introspection `yaml:"introspection"`
}

// Introspection says how often a provider is asked about tokens.
type Introspection struct {
	// TTL is how long a good answer is believed, which is how long a revoked
	// token may live on. From 1s to 1h. Default 30s.
	TTL time.Duration `yaml:"ttl"`
	// InactiveTTL is how long a refusal is believed. From 1s to 1m. Default
	// 5s.
	InactiveTTL time.Duration `yaml:"inactive_ttl"`
	// Rate is how many tokens that were not seen before the provider is asked
	// about in a second, from 1 to 10000. Requests beyond that get a 503.
	// Default 50.
	Rate int64 `yaml:"rate"`
}

// asymmetricAlgorithms are the algorithms that a caller's token may have.
func asymmetricAlgorithms() []string {
	return []string{
		"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
	}
}

func (c Caller) check(r *report, at string, providers map[string]Provider) {
	if provider, ok := lookUp(r, join(at, "provider"), "provider", c.Provider, providers); ok && provider.Issuer == "" {
		r.fail(join(at, "provider"), "the provider %s has no issuer, so it cannot be told whose tokens these are", quote(c.Provider))
	}
	oneOf(r, join(at, "tokens"), c.Tokens, TokensJWT, TokensOpaque, TokensJWTThenIntrospect)
	if len(c.Audiences) == 0 && c.Tokens != TokensOpaque {
		r.fail(join(at, "audiences"), "is required: without it a token that was issued for any other service would pass")
	}
	r.list(join(at, "audiences"), c.Audiences)
	within(r, join(at, "clock_skew"), c.ClockSkew, 0, maxClockSkew)
	if c.Tokens == TokensOpaque && r.has(join(at, "algorithms")) {
		r.fail(join(at, "algorithms"), "is not possible: opaque tokens are not signed")
	}
	c.checkAlgorithms(r, join(at, "algorithms"))
	r.list(join(at, "required_claims"), c.RequiredClaims)
	c.checkIntrospection(r, at)
}

func (c Caller) checkIntrospection(r *report, at string) {
	client, introspection := join(at, "client"), join(at, "introspection")
	introspects := c.Tokens == TokensOpaque || c.Tokens == TokensJWTThenIntrospect
	for _, key := range []string{client, introspection} {
		if c.Tokens == TokensJWT && r.has(key) {
			r.fail(key, "is not possible: JWTs are not introspected, unless tokens is %s", TokensJWTThenIntrospect)
		}
	}
	switch {
	case c.Client != nil && c.Client.AuthMethod == NoClientAuth:
		r.fail(join(client, "auth_method"), "none is not possible: a provider answers only clients that prove who they are (RFC 7662 section 2.1)")
	case c.Client != nil:
		c.Client.check(r, client)
	case introspects:
		r.fail(client, "is required: a provider answers only clients that it knows")
	}
	within(r, join(introspection, "ttl"), c.Introspection.TTL, minIntrospectionTTL, maxIntrospectionTTL)
	within(r, join(introspection, "inactive_ttl"), c.Introspection.InactiveTTL, minIntrospectionTTL, maxInactiveTTL)
	within(r, join(introspection, "rate"), c.Introspection.Rate, 1, maxIntrospections)
}

func (c Caller) checkAlgorithms(r *report, at string) {
	if len(c.Algorithms) == 0 {
		r.fail(at, "is empty: no token could pass")
	}
	r.list(at, c.Algorithms)
	for i, name := range c.Algorithms {
		switch {
		case slices.Contains(asymmetricAlgorithms(), name):
		case strings.EqualFold(name, "none"):
			r.fail(item(at, i), "%s is not possible: everybody can write an unsigned token", quote(name))
		case strings.HasPrefix(strings.ToUpper(name), "HS"):
			r.fail(item(at, i), "%s is not possible: a symmetric key that checks tokens can also make them, "+
				"and a public key could be taken for one", quote(name))
		default:
			oneOf(r, item(at, i), name, asymmetricAlgorithms()...)
		}
	}
}
