package config

import (
	"slices"
	"strings"
	"time"
)

// maxClockSkew bounds how long an expired token is still accepted.
const maxClockSkew = time.Minute

// Tokens is the form of the callers' tokens.
type Tokens string

// The forms of tokens. Only JWTs are supported yet.
const (
	// TokensJWT are checked with the provider's keys.
	TokensJWT Tokens = "jwt"

	opaque            Tokens = "opaque"
	jwtThenIntrospect Tokens = "jwt_then_introspect"
)

// Caller says whose tokens are accepted.
type Caller struct {
	// Provider is the name of the provider that issues the tokens. Required;
	// it must have an issuer.
	Provider string `yaml:"provider"`
	// Audiences are the values of which a token's "aud" must hold one.
	// Required: without it every token of the provider would pass, whatever
	// it was issued for.
	Audiences []string `yaml:"audiences"`
	// Tokens is the form of the tokens. Default jwt, the only one yet.
	Tokens Tokens `yaml:"tokens"`
	// ClockSkew is how far the provider's clock may be off when "exp", "nbf"
	// and "iat" are judged. At most 60s; zero means not at all. Default 30s.
	ClockSkew time.Duration `yaml:"clock_skew"`
	// Algorithms are the signature algorithms that are accepted (RFC 7518,
	// RFC 8037), asymmetric ones only. Default: RS, PS and ES with 256, 384
	// and 512 bits, and EdDSA.
	Algorithms []string `yaml:"algorithms"`
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
	if len(c.Audiences) == 0 {
		r.fail(join(at, "audiences"), "is required: without it a token that was issued for any other service would pass")
	}
	r.list(join(at, "audiences"), c.Audiences)
	switch c.Tokens {
	case opaque, jwtThenIntrospect:
		r.fail(join(at, "tokens"), "%s is not supported yet: only %s is", c.Tokens, TokensJWT)
	default:
		oneOf(r, join(at, "tokens"), c.Tokens, TokensJWT)
	}
	within(r, join(at, "clock_skew"), c.ClockSkew, 0, maxClockSkew)
	c.checkAlgorithms(r, join(at, "algorithms"))
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
