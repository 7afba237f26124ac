package oauth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/rebearer/rebearer/tokens"
)

// maxTokenBytes bounds a backend token: it must fit into a request header
// beside the others.
const maxTokenBytes = 8 << 10

// ClientConfig says who asks for a token, and for which.
type ClientConfig struct {
	// ID is the client identifier.
	ID string
	// Secret returns the client secret. It is called for every token request,
	// so that a rotated secret is used at once.
	Secret func() (tokens.Secret, error)
	// AuthMethod is how the secret is shown. Empty means ClientSecretBasic.
	AuthMethod AuthMethod
	// Scopes are asked for in the given order. Empty means the provider's
	// default.
	Scopes []string
	// Audience is the audience parameter that some providers want. Empty means
	// none.
	Audience string
	// Resources are resource indicators (RFC 8707): absolute URIs without a
	// fragment.
	Resources []string
	// Params are further parameters of the token request. They cannot name one
	// that has its own field.
	Params map[string]string
}

// ClientCredentials is the client credentials grant (RFC 6749 section 4.4). It
// implements [tokens.Source] and is safe for concurrent use.
type ClientCredentials struct {
	provider *Provider
	cfg      ClientConfig
	style    oauth2.AuthStyle
	params   url.Values
}

// Key tells token requests apart: requests with equal keys get tokens that are
// good for the same.
type Key [sha256.Size]byte

// NewClientCredentials checks cfg. It asks the provider nothing.
func NewClientCredentials(provider *Provider, cfg ClientConfig) (*ClientCredentials, error) {
	client, err := cfg.client().validate()
	if err == nil {
		err = cfg.validate()
	}
	if err != nil {
		return nil, fmt.Errorf("client %q: %w", cfg.ID, err)
	}
	cfg.AuthMethod = client.AuthMethod
	c := &ClientCredentials{provider: provider, cfg: cfg, style: oauth2.AuthStyleInHeader, params: url.Values{}}
	if cfg.AuthMethod == ClientSecretPost {
		c.style = oauth2.AuthStyleInParams
	}
	for name, value := range cfg.Params {
		c.params.Set(name, value)
	}
	if cfg.Audience != "" {
		c.params.Set("audience", cfg.Audience)
	}
	if len(cfg.Resources) > 0 {
		c.params["resource"] = slices.Clone(cfg.Resources)
	}
	return c, nil
}

// client returns who asks.
func (c ClientConfig) client() Client {
	return Client{ID: c.ID, Secret: c.Secret, AuthMethod: c.AuthMethod}
}

// validate reports what would make every token request of a good client fail,
// or go astray.
func (c ClientConfig) validate() error {
	for _, scope := range c.Scopes {
		if !isScope(scope) {
			return fmt.Errorf("scope %q is not one scope (RFC 6749 section 3.3)", scope)
		}
	}
	for _, resource := range c.Resources {
		if u, err := url.Parse(resource); err != nil || !u.IsAbs() || strings.Contains(resource, "#") {
			return fmt.Errorf("resource %q is not an absolute URI without fragment (RFC 8707 section 2)", resource)
		}
	}
	reserved := []string{
		"", "grant_type", "scope", "client_id", "client_secret", "audience", "resource",
		"client_assertion", "client_assertion_type",
	}
	for name := range c.Params {
		if slices.Contains(reserved, name) {
			return fmt.Errorf("parameter %q cannot be set this way", name)
		}
	}
	return nil
}

// Key returns the key of this token request. The secret is not part of it: a
// rotated secret leaves the token as good as it was.
func (c *ClientCredentials) Key() Key {
	digest := sha256.New()
	write(digest, "client_credentials")
	write(digest, c.provider.issuer, c.provider.configured[TokenEndpoint])
	write(digest, c.cfg.ID, string(c.cfg.AuthMethod))
	write(digest, slices.Sorted(slices.Values(c.cfg.Scopes))...)
	for _, name := range slices.Sorted(maps.Keys(c.params)) {
		write(digest, name)
		write(digest, slices.Sorted(slices.Values(c.params[name]))...)
	}
	return Key(digest.Sum(nil))
}

// write adds a list of texts so that no other lists give the same bytes: each
// list begins with its length, and so does each text.
func write(digest hash.Hash, texts ...string) {
	_, _ = fmt.Fprintf(digest, "%d;", len(texts))
	for _, text := range texts {
		_, _ = fmt.Fprintf(digest, "%d:%s;", len(text), text)
	}
}

// Grant asks the provider for one token. It blocks until ctx ends or the
// provider's timeout at most. An error that wraps [tokens.PermanentError] means
// that the provider refused; every other failure is transient.
func (c *ClientCredentials) Grant(ctx context.Context, _ tokens.GrantRequest) (tokens.Grant, error) {
	address, err := c.provider.Endpoint(ctx, TokenEndpoint)
	if err != nil {
		return tokens.Grant{}, err
	}
	secret, err := c.cfg.client().secret()
	if err != nil {
		return tokens.Grant{}, err
	}
	request := clientcredentials.Config{
		ClientID:       c.cfg.ID,
		ClientSecret:   secret.Reveal(),
		TokenURL:       address,
		Scopes:         c.cfg.Scopes,
		EndpointParams: c.params,
		AuthStyle:      c.style,
	}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, c.provider.answers)
	token, err := request.Token(ctx)
	if err == nil {
		var grant tokens.Grant
		if grant, err = readToken(token); err == nil {
			return grant, nil
		}
	}
	return tokens.Grant{}, fmt.Errorf("provider %q: token from %s: %w", c.provider.name, address, tokenError(err))
}

// Revoke implements [tokens.Source].
func (c *ClientCredentials) Revoke(context.Context, int, tokens.Secret) error {
	return errors.ErrUnsupported
}

// readToken checks a token answer (RFC 6749 section 5.1). A missing token_type
// is taken for Bearer: the member is required, but a few providers leave it out
// and mean nothing else.
func readToken(token *oauth2.Token) (tokens.Grant, error) {
	if token.TokenType != "" && !strings.EqualFold(token.TokenType, "Bearer") {
		return tokens.Grant{}, &tokens.PermanentError{Err: errTokenType}
	}
	if len(token.AccessToken) > maxTokenBytes || !isB64Token(token.AccessToken) {
		return tokens.Grant{}, &tokens.PermanentError{Err: errTokenText}
	}
	life, err := expiresIn(token.Extra("expires_in"))
	if err != nil {
		return tokens.Grant{}, err
	}
	return tokens.Grant{AccessToken: tokens.Secret(token.AccessToken), ExpiresIn: life}, nil
}

// expiresIn reads the member of that name as it was sent, because the Expiry
// that x/oauth2 computes from it does not tell 0 from a missing member. Both
// give 0 here: the provider states no lifetime that could be used.
func expiresIn(member any) (time.Duration, error) {
	var seconds float64
	switch value := member.(type) {
	case nil:
	case float64: // JSON number
		seconds = value
	case int64: // number in a form-encoded answer
		seconds = float64(value)
	case string: // JSON string
		number, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		if err != nil && value != "" {
			return 0, errExpiresIn
		}
		seconds = number
	default:
		return 0, errExpiresIn
	}
	if math.IsNaN(seconds) || seconds < 0 {
		return 0, errExpiresIn
	}
	// The same bound as that of x/oauth2: 68 years.
	return time.Duration(min(seconds, math.MaxInt32) * float64(time.Second)), nil
}

// isB64Token reports whether text is a b64token (RFC 6750 section 2.1): the
// only characters that may stand in an Authorization header after "Bearer".
func isB64Token(text string) bool {
	body := strings.TrimRight(text, "=")
	if body == "" {
		return false
	}
	for _, c := range []byte(body) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("-._~+/", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// isScope reports whether text is a scope-token (RFC 6749 section 3.3).
func isScope(text string) bool {
	for _, c := range []byte(text) {
		if c < '!' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return text != ""
}
