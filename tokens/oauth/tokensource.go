package oauth

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/rebearer/rebearer/tokens"
)

// TokenConfig says which token is asked for, and how.
type TokenConfig struct {
	// Grant is how it is asked for. Empty means ClientCredentials.
	Grant GrantType
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
	// Exchange is for TokenExchange.
	Exchange ExchangeConfig
	// Assertion is for JWTBearer. Nil means that the caller's own token is the
	// assertion.
	Assertion *AssertionConfig
	// Store is for RefreshToken.
	Store RefreshStore
}

// TokenSource gets tokens as one client by one grant. It implements
// [tokens.Source] and is safe for concurrent use.
type TokenSource struct {
	client *Client
	cfg    TokenConfig
	params url.Values                 // of every request
	key    *watchedFiles[jose.Signer] // of the assertion that we sign; nil for none
	scopes *scopeLog
}

// Key tells token requests apart: requests with equal keys, for the same
// subject, get tokens that are good for the same.
type Key [sha256.Size]byte

// NewTokenSource checks cfg. It asks the provider nothing and reads no file. The
// logger hears of what a token in hand does not show: fewer scopes than were
// asked for.
func NewTokenSource(client *Client, logger *slog.Logger, cfg TokenConfig) (*TokenSource, error) {
	if cfg.Grant == "" {
		cfg.Grant = ClientCredentials
	}
	err := cfg.validate()
	if err == nil {
		err = cfg.validateGrant(client)
	}
	if err != nil {
		return nil, fmt.Errorf("client %q: %w", client.cfg.ID, err)
	}
	cfg.Exchange.SubjectTokenType = tokenType(cmp.Or(cfg.Exchange.SubjectTokenType, "access_token"))
	cfg.Exchange.RequestedTokenType = tokenType(cfg.Exchange.RequestedTokenType)
	logger = logger.With(slog.String("provider", client.provider.name), slog.String("client", client.cfg.ID))
	s := &TokenSource{
		client: client, cfg: cfg, params: cfg.params(),
		scopes: &scopeLog{logger: logger, level: slog.LevelWarn},
	}
	if s.OnBehalf() {
		// What one caller may not have says nothing about the configuration.
		s.scopes.level = slog.LevelDebug
	}
	if cfg.Grant == JWTBearer && cfg.Assertion != nil {
		s.key = watchKey(cfg.Assertion.KeyFile, cfg.Assertion.Algorithm, cfg.Assertion.KeyID)
	}
	return s, nil
}

// validate reports what would make every token request fail, or go astray.
func (c TokenConfig) validate() error {
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
		"", "grant_type", "scope", "audience", "resource",
		"client_id", "client_secret", "client_assertion", "client_assertion_type",
		"assertion", "subject_token", "subject_token_type", "requested_token_type", "refresh_token",
	}
	for name := range c.Params {
		if slices.Contains(reserved, name) {
			return fmt.Errorf("parameter %q cannot be set this way", name)
		}
	}
	return nil
}

// params returns the parameters of every request.
func (c TokenConfig) params() url.Values {
	params := url.Values{}
	for name, value := range c.Params {
		params.Set(name, value)
	}
	if c.Audience != "" {
		params.Set("audience", c.Audience)
	}
	if len(c.Resources) > 0 {
		params["resource"] = slices.Clone(c.Resources)
	}
	return params
}

// Key returns the key of these token requests. Secrets and keys are not part of
// it: a rotated one leaves the token as good as it was. Nor is the store of the
// refresh token, which has no name here.
func (s *TokenSource) Key() Key {
	digest := sha256.New()
	client, provider := s.client.cfg, s.client.provider
	write(digest, string(s.cfg.Grant))
	write(digest, provider.issuer, provider.configured[TokenEndpoint])
	write(digest, client.ID, string(client.AuthMethod))
	write(digest, slices.Sorted(slices.Values(s.cfg.Scopes))...)
	if s.cfg.Grant == TokenExchange {
		write(digest, s.cfg.Exchange.SubjectTokenType, s.cfg.Exchange.RequestedTokenType)
	}
	if a := s.cfg.Assertion; s.key != nil {
		extra, _ := json.Marshal(a.Claims) // sorted; they come from a text
		write(digest, a.Issuer, a.Subject, a.Audience, string(extra))
	}
	for _, name := range slices.Sorted(maps.Keys(s.params)) {
		write(digest, name)
		write(digest, slices.Sorted(slices.Values(s.params[name]))...)
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

// Grant asks the provider for one token, with the refresh token of the request
// first, if it has one. Each of the two exchanges blocks until ctx ends or the
// provider's timeout at most. The error is a [*tokens.SubjectError] where the
// provider refused the caller's token, a [*tokens.PermanentError] where it
// refused otherwise, and transient in all other cases.
func (s *TokenSource) Grant(ctx context.Context, request tokens.GrantRequest) (tokens.Grant, error) {
	if s.cfg.Grant == RefreshToken {
		return s.cfg.Store.Use(ctx, s.renew)
	}
	if request.Refresh != "" {
		grant, err := s.ask(ctx, s.refreshForm(request.Refresh))
		if !refreshRefused(err) {
			return grant, err
		}
	}
	form, err := s.form(request.Subject)
	if err != nil {
		return tokens.Grant{}, err
	}
	return s.ask(ctx, form)
}

// renew asks with the refresh token that somebody gave us, for the scopes that
// are configured.
func (s *TokenSource) renew(ctx context.Context, refresh tokens.Secret) (tokens.Grant, error) {
	form := s.refreshForm(refresh)
	s.addScopes(form)
	return s.ask(ctx, form)
}

// refreshRefused reports whether a new grant may succeed where a refresh token
// did not: the provider refused that, and not us.
func refreshRefused(err error) bool {
	var refused *ResponseError
	var permanent *tokens.PermanentError
	return errors.As(err, &permanent) && errors.As(err, &refused) &&
		refused.Code != "" && refused.Code != "invalid_client"
}

// Revoke implements [tokens.Source]; see [Client.Revoke]. Tokens of the grant
// RefreshToken are not revoked: the provider may void with them the refresh token
// (RFC 7009 section 2.1), and nobody but a person can get another.
func (s *TokenSource) Revoke(ctx context.Context, _ int, token tokens.Secret) error {
	if s.cfg.Grant == RefreshToken {
		return errors.ErrUnsupported
	}
	return s.client.Revoke(ctx, token)
}

// ask sends a token request and reads the answer.
func (s *TokenSource) ask(ctx context.Context, form url.Values) (tokens.Grant, error) {
	address, err := s.client.endpoint(ctx, TokenEndpoint)
	if err != nil {
		return tokens.Grant{}, err
	}
	exchanger, err := s.client.exchanger()
	if err != nil {
		return tokens.Grant{}, err
	}
	header := http.Header{}
	if err := s.client.authenticate(address, header, form); err != nil {
		return tokens.Grant{}, err
	}
	withHeader := *exchanger
	withHeader.Transport = headerTransport{next: exchanger.Transport, header: header}
	// The form holds everything, the grant type and the client included.
	request := clientcredentials.Config{TokenURL: address, EndpointParams: form, AuthStyle: oauth2.AuthStyleInParams}
	token, err := request.Token(context.WithValue(ctx, oauth2.HTTPClient, &withHeader))
	var grant tokens.Grant
	if err != nil {
		err = tokenError(err, s.subjectCodes(form))
	} else if grant, err = s.readToken(token); err != nil && s.OnBehalf() {
		err = &callerError{err}
	}
	if err != nil {
		return tokens.Grant{}, fmt.Errorf("provider %q: token from %s: %w", s.client.provider.name, address, err)
	}
	s.scopes.note(ctx, s.cfg.Scopes, token)
	return grant, nil
}

// subjectCodes returns the error codes with which the provider refuses the
// caller's token, if the form holds it: RFC 7523 section 3.1 has invalid_grant
// and RFC 8693 section 2.2.2 invalid_request; some providers take the invalid_token
// of RFC 6750 for both.
func (s *TokenSource) subjectCodes(form url.Values) []string {
	switch form.Get("grant_type") {
	case exchangeGrant:
		return []string{"invalid_grant", "invalid_token", "invalid_request"}
	case jwtBearerGrant:
		if s.key == nil {
			return []string{"invalid_grant", "invalid_token"}
		}
	}
	return nil
}
