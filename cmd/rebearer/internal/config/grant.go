package config

import (
	"net/url"
	"slices"
	"time"
)

// maxAssertionLifetime bounds assertions that we sign: who steals one can use
// it for that long.
const maxAssertionLifetime = time.Hour

// Grant is how a backend token is got.
type Grant string

// The grants.
const (
	// GrantClientCredentials is RFC 6749 section 4.4: a token in our own name.
	GrantClientCredentials Grant = "client_credentials"
	// GrantTokenExchange is RFC 8693: the caller's token for another, on
	// behalf of the caller.
	GrantTokenExchange Grant = "token_exchange"
	// GrantJWTBearer is RFC 7523 section 2.1: a signed assertion for a token.
	// The assertion is ours, or the caller's own token.
	GrantJWTBearer Grant = "jwt_bearer"
	// GrantRefreshToken is RFC 6749 section 6: a refresh token that somebody
	// got once, for tokens from then on.
	GrantRefreshToken Grant = "refresh_token"
)

// TokenExchange are the parameters of a token exchange (RFC 8693 section 2.1).
// The subject token is the caller's.
type TokenExchange struct {
	// SubjectTokenType says what the caller's token is: access_token, id_token,
	// jwt, saml1, saml2 or the URI of another type. Default access_token.
	SubjectTokenType string `yaml:"subject_token_type"`
	// RequestedTokenType says what is asked for, in the same words. Default
	// none: the provider decides.
	RequestedTokenType string `yaml:"requested_token_type"`
}

// JWTBearer is the assertion that we sign (RFC 7523 section 3).
type JWTBearer struct {
	// Issuer is the "iss". Default the client's id.
	Issuer string `yaml:"issuer"`
	// Subject is the "sub". Default the issuer.
	Subject string `yaml:"subject"`
	// Audience is the "aud". Default the provider's issuer, or its token URL
	// if it has none.
	Audience string `yaml:"audience"`
	// KeyFile is the file of the private key, PEM or a JWK. It is read anew
	// for each assertion. Required.
	KeyFile string `yaml:"key_file" file:"key"`
	// KeyID is the "kid". Default that of the JWK, and without one none.
	KeyID string `yaml:"key_id"`
	// Algorithm signs it (RFC 7518, RFC 8037). Default what suits the key.
	Algorithm string `yaml:"algorithm"`
	// Claims are further claims, as text. Default none.
	Claims map[string]string `yaml:"claims"`
	// Lifetime is how long it is good. From 1s to 1h. Default 5m.
	Lifetime time.Duration `yaml:"lifetime"`
}

// RefreshToken says where the refresh token is that tokens are got with.
type RefreshToken struct {
	// File holds the first refresh token: one line; see [ReadSecret].
	// Required.
	File string `yaml:"file" file:"secret"`
	// StateFile is where rebearer keeps the refresh token that a provider gave
	// it in exchange; what it holds is used before File, unless File was
	// changed since. It need not exist, but its folder must be writable.
	// Default File itself.
	StateFile string `yaml:"state_file" file:"state"`
}

// OnBehalfOf says that the token is got with the caller's own, one for each
// caller.
func (c Credential) OnBehalfOf() bool {
	return c.TokenFile == "" && (c.Grant == GrantTokenExchange || c.Grant == GrantJWTBearer && c.JWTBearer == nil)
}

// checkGrant reports a grant that cannot be had here, and what does not go with
// one that can.
func (c Credential) checkGrant(r *report, at string) {
	grant := join(at, "grant")
	switch c.Grant {
	case "password":
		r.fail(grant, "password is refused: it needs a person's password, which no program should be told, "+
			"and OAuth 2.1 no longer has it; use %s, or %s for a person's own rights", GrantClientCredentials, GrantTokenExchange)
	case "implicit", "authorization_code":
		r.fail(grant, "%s is refused: it needs a person in front of a browser; "+
			"use %s, or %s with a token that somebody got that way", c.Grant, GrantClientCredentials, GrantRefreshToken)
	case GrantClientCredentials, GrantTokenExchange, GrantJWTBearer, GrantRefreshToken:
		c.checkBlocks(r, at)
	default:
		oneOf(r, grant, c.Grant, GrantClientCredentials, GrantTokenExchange, GrantJWTBearer, GrantRefreshToken)
	}
}

// checkBlocks reports what does not go with the grant. Only what the credential
// itself says counts: the defaults may hold what others need.
func (c Credential) checkBlocks(r *report, at string) {
	for _, block := range []Grant{GrantTokenExchange, GrantJWTBearer, GrantRefreshToken} {
		if here := join(at, string(block)); c.Grant != block && r.has(here) {
			r.fail(here, "is not possible with grant: %s: it belongs to grant: %s", c.Grant, block)
		}
	}
	switch {
	case c.Grant == GrantTokenExchange && c.TokenExchange != nil:
		c.TokenExchange.check(r, join(at, "token_exchange"))
	case c.Grant == GrantJWTBearer && c.JWTBearer != nil:
		c.JWTBearer.check(r, join(at, "jwt_bearer"))
	case c.Grant == GrantRefreshToken && c.RefreshToken != nil:
		c.RefreshToken.check(r, join(at, "refresh_token"))
	case c.Grant == GrantRefreshToken:
		r.fail(join(at, "refresh_token"), "is required with grant: %s: name its file", GrantRefreshToken)
	}
	for i, client := range c.Clients {
		if client.AuthMethod == NoClientAuth && c.Grant == GrantClientCredentials {
			r.fail(join(item(at+".clients", i), "auth_method"), "none is not possible with grant: %s: anybody could get the token", c.Grant)
		}
	}
	if c.Grant == GrantRefreshToken && len(c.Clients) > 1 {
		r.fail(join(at, "clients"), "must be one with grant: %s: a refresh token is good for the client that got it", GrantRefreshToken)
	}
}

func (x TokenExchange) check(r *report, at string) {
	tokenType(r, join(at, "subject_token_type"), x.SubjectTokenType)
	if x.RequestedTokenType != "" {
		tokenType(r, join(at, "requested_token_type"), x.RequestedTokenType)
	}
}

// tokenType reports what is no token type (RFC 8693 section 3).
func tokenType(r *report, at, value string) {
	names := []string{"access_token", "id_token", "jwt", "saml1", "saml2"}
	if u, err := url.Parse(value); err == nil && u.IsAbs() || slices.Contains(names, value) {
		return
	}
	r.fail(at, "%s is not a token type: it must be %s, or a URI%s", quote(value), words(names, "or"), didYouMean(value, names))
}

func (b JWTBearer) check(r *report, at string) {
	required(r, join(at, "key_file"), b.KeyFile)
	for key, value := range sorted(map[string]string{
		"issuer": b.Issuer, "subject": b.Subject, "audience": b.Audience, "key_id": b.KeyID,
	}) {
		text(r, join(at, key), value)
	}
	if b.Algorithm != "" {
		oneOf(r, join(at, "algorithm"), b.Algorithm, asymmetricAlgorithms()...)
	}
	within(r, join(at, "lifetime"), b.Lifetime, time.Second, maxAssertionLifetime)
	for name := range sorted(b.Claims) {
		claim := join(join(at, "claims"), printable(name))
		switch name {
		case "":
			r.fail(claim, "a claim needs a name")
		case "iss", "sub", "aud":
			r.fail(claim, "is not possible here: use %s", map[string]string{"iss": "issuer", "sub": "subject", "aud": "audience"}[name])
		case "exp", "iat", "nbf", "jti":
			r.fail(claim, "is not possible: rebearer sets it itself")
		}
	}
}

func (t RefreshToken) check(r *report, at string) { required(r, join(at, "file"), t.File) }
