package oauth

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/rebearer/rebearer/tokens"
)

// GrantType is how a token is asked for, by the name that the configuration
// has for it.
type GrantType string

// The grants that are supported.
const (
	// ClientCredentials asks in the client's own name (RFC 6749 section 4.4).
	ClientCredentials GrantType = "client_credentials"
	// TokenExchange asks on behalf of the caller, whose token is the subject
	// token (RFC 8693).
	TokenExchange GrantType = "token_exchange"
	// JWTBearer asks with an assertion: the caller's own token, or one that we
	// sign (RFC 7523 section 2.1).
	JWTBearer GrantType = "jwt_bearer"
	// RefreshToken asks with a refresh token that somebody gave us, and that is
	// kept in a [RefreshStore] (RFC 6749 section 6).
	RefreshToken GrantType = "refresh_token"
)

// The types of grants and tokens on the wire (RFC 8693 sections 2.1 and 3, RFC
// 7523 section 2.1).
const (
	grantPrefix    = "urn:ietf:params:oauth:grant-type:"
	exchangeGrant  = grantPrefix + "token-exchange"
	jwtBearerGrant = grantPrefix + "jwt-bearer"
	typePrefix     = "urn:ietf:params:oauth:token-type:"
	refreshType    = typePrefix + "refresh_token"
)

// ExchangeConfig says what a token exchange is about (RFC 8693 section 2.1).
// Token types are URIs, or the last part of those that RFC 8693 section 3
// registers: access_token, id_token, jwt, saml1, saml2.
type ExchangeConfig struct {
	// SubjectTokenType is the type of the caller's token. Empty means
	// access_token.
	SubjectTokenType string
	// RequestedTokenType is the type of token that is wanted. Empty leaves it to
	// the provider.
	RequestedTokenType string
}

const (
	defaultAssertionLife = 5 * time.Minute
	// maxAssertionLife is what the strictest of the large providers takes.
	maxAssertionLife = time.Hour
)

// AssertionConfig says which assertion we sign to ask for a token (RFC 7523
// section 3), as service accounts do.
type AssertionConfig struct {
	// Issuer is the iss claim. Empty means the client identifier.
	Issuer string
	// Subject is the sub claim: whose token it is to be. Empty means Issuer.
	Subject string
	// Audience is the aud claim. Empty means the provider's issuer identifier,
	// or else its token endpoint.
	Audience string
	// KeyFile, KeyID and Algorithm are as in [ClientConfig] with PrivateKeyJWT.
	KeyFile   string
	KeyID     string
	Algorithm string
	// Claims are further claims. They cannot name one that is set here.
	Claims map[string]any
	// Lifetime is how long the assertion is good. Zero means 5 minutes; more
	// than an hour is an error.
	Lifetime time.Duration
}

// validateGrant reports what would make every request of the grant fail.
func (c TokenConfig) validateGrant(client *Client) error {
	switch c.Grant {
	case ClientCredentials:
		if client.cfg.AuthMethod == None {
			return errors.New("grant client_credentials: without authentication anybody could use it (RFC 6749 section 4.4)")
		}
	case TokenExchange:
		return c.Exchange.validate()
	case JWTBearer:
		if c.Assertion != nil {
			return c.Assertion.validate(client)
		}
	case RefreshToken:
		if c.Store == nil {
			return errors.New("grant refresh_token: no store of the refresh token")
		}
	case "password":
		return errors.New("grant password: it would need a user's password, which no service should have " +
			"(RFC 9700 section 2.4): use client_credentials, or token_exchange on behalf of the caller")
	case "implicit":
		return errors.New("grant implicit: it hands tokens to a browser (RFC 9700 section 2.1.2): " +
			"use client_credentials, or token_exchange on behalf of the caller")
	case "authorization_code":
		return errors.New("grant authorization_code: it needs a user at a browser: " +
			"use token_exchange on behalf of the caller, or refresh_token with one that the user gave")
	default:
		return fmt.Errorf("unknown grant %q", c.Grant)
	}
	return nil
}

func (c ExchangeConfig) validate() error {
	for _, name := range []string{c.SubjectTokenType, c.RequestedTokenType} {
		if uri := tokenType(name); name != "" && (!strings.Contains(uri, ":") || uri == refreshType) {
			return fmt.Errorf("token type %q is neither a URI nor one of %v", name, shortTokenTypes())
		}
	}
	return nil
}

// shortTokenTypes returns the token types that need not be written as URIs. A
// refresh token is not among them: it is none that could be sent to a backend.
func shortTokenTypes() []string { return []string{"access_token", "id_token", "jwt", "saml1", "saml2"} }

// tokenType returns the URI of a token type.
func tokenType(name string) string {
	if slices.Contains(shortTokenTypes(), name) {
		return typePrefix + name
	}
	return name
}

func (c AssertionConfig) validate(client *Client) error {
	for _, name := range []string{"iss", "sub", "aud", "exp", "iat", "nbf", "jti"} {
		if _, ok := c.Claims[name]; ok {
			return fmt.Errorf("assertion: claim %q cannot be set this way", name)
		}
	}
	switch {
	case c.KeyFile == "":
		return errors.New("assertion: no key file")
	case c.Issuer == "" && client.cfg.ID == "":
		return errors.New("assertion: no issuer, and no client id to take for it")
	case c.Lifetime < 0 || c.Lifetime > maxAssertionLife:
		return fmt.Errorf("assertion: lifetime %v is not within %v", c.Lifetime, maxAssertionLife)
	}
	if err := checkAlgorithm(c.Algorithm, keyAlgorithms()); err != nil {
		return fmt.Errorf("assertion: %w", err)
	}
	return nil
}

// OnBehalf reports whether tokens are asked for on behalf of the caller, so that
// every request needs a subject.
func (s *TokenSource) OnBehalf() bool {
	return s.cfg.Grant == TokenExchange || s.cfg.Grant == JWTBearer && s.cfg.Assertion == nil
}

var errNoSubject = errors.New("there is no caller's token to ask on behalf of")

// form returns the parameters of the request for a new token.
func (s *TokenSource) form(subject tokens.Secret) (url.Values, error) {
	if s.OnBehalf() && subject == "" {
		return nil, &callerError{&tokens.PermanentError{Err: errNoSubject}}
	}
	form := maps.Clone(s.params)
	s.addScopes(form)
	switch s.cfg.Grant {
	case TokenExchange:
		form.Set("grant_type", exchangeGrant)
		form.Set("subject_token", subject.Reveal())
		form.Set("subject_token_type", s.cfg.Exchange.SubjectTokenType)
		if s.cfg.Exchange.RequestedTokenType != "" {
			form.Set("requested_token_type", s.cfg.Exchange.RequestedTokenType)
		}
	case JWTBearer:
		assertion, err := s.assertion(subject)
		if err != nil {
			return nil, err
		}
		form.Set("grant_type", jwtBearerGrant)
		form.Set("assertion", assertion)
	default:
		form.Set("grant_type", string(ClientCredentials))
	}
	return form, nil
}

func (s *TokenSource) addScopes(form url.Values) {
	if len(s.cfg.Scopes) > 0 {
		form.Set("scope", strings.Join(s.cfg.Scopes, " "))
	}
}

// refreshForm returns the parameters of a request with a refresh token. It names
// no scope: what the refresh token was granted for is meant, which may be less
// than we asked for then, and more must not be asked (RFC 6749 section 6).
func (s *TokenSource) refreshForm(refresh tokens.Secret) url.Values {
	form := maps.Clone(s.params)
	form.Set("grant_type", string(RefreshToken))
	form.Set("refresh_token", refresh.Reveal())
	return form
}

// assertion returns the caller's token, or a new assertion that we sign.
func (s *TokenSource) assertion(subject tokens.Secret) (string, error) {
	cfg, provider := s.cfg.Assertion, s.client.provider
	if cfg == nil {
		return subject.Reveal(), nil
	}
	signer, err := s.key.get()
	if err != nil {
		return "", fmt.Errorf("assertion: %w", err)
	}
	issuer := cmp.Or(cfg.Issuer, s.client.cfg.ID)
	return sign(signer, provider.clock.now(), claims{
		Issuer: issuer, Subject: cmp.Or(cfg.Subject, issuer), Audience: cmp.Or(cfg.Audience, provider.audience()),
		Lifetime: cmp.Or(cfg.Lifetime, defaultAssertionLife), Extra: cfg.Claims,
	})
}
