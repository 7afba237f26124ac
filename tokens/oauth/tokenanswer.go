package oauth

import (
	"context"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"github.com/rebearer/rebearer/tokens"
)

// maxTokenBytes bounds a backend token: it must fit into a request header
// beside the others.
const maxTokenBytes = 8 << 10

// readToken checks a token answer (RFC 6749 section 5.1). A refresh token that
// is none (appendix A.17) is left out.
func (s *TokenSource) readToken(token *oauth2.Token) (tokens.Grant, error) {
	if !s.usable(token) {
		return tokens.Grant{}, &tokens.PermanentError{Err: errTokenType}
	}
	if len(token.AccessToken) > maxTokenBytes || !isB64Token(token.AccessToken) {
		return tokens.Grant{}, &tokens.PermanentError{Err: errTokenText}
	}
	life, err := expiresIn(token.Extra("expires_in"))
	if err != nil {
		return tokens.Grant{}, err
	}
	grant := tokens.Grant{AccessToken: tokens.Secret(token.AccessToken), ExpiresIn: life}
	// Where the answer has none, x/oauth2 gives the one that was asked with.
	if isVisible(token.RefreshToken) {
		grant.RefreshToken = tokens.Secret(token.RefreshToken)
		grant.RefreshExpiresIn = refreshExpiresIn(token)
	}
	return grant, nil
}

// usable reports whether a token of this type may be sent after "Bearer". A
// missing token_type is taken for Bearer: the member is required, but a few
// providers leave it out and mean nothing else. N_A says that the token is no
// access token (RFC 8693 section 2.2.1); that is well where another type was
// asked for, and it is that one.
func (s *TokenSource) usable(token *oauth2.Token) bool {
	wanted := s.cfg.Exchange.RequestedTokenType
	return token.TokenType == "" || strings.EqualFold(token.TokenType, "Bearer") ||
		strings.EqualFold(token.TokenType, "N_A") && wanted != "" && token.Extra("issued_token_type") == wanted
}

// refreshExpiresIn returns the lifetime that the answer states for its refresh
// token. There is no standard for it, so what cannot be read states none.
func refreshExpiresIn(token *oauth2.Token) time.Duration {
	for _, name := range []string{"refresh_expires_in", "refresh_token_expires_in"} {
		if life, err := expiresIn(token.Extra(name)); err == nil && life > 0 {
			return life
		}
	}
	return 0
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

// isVisible reports whether text is one or more visible characters or spaces,
// the VSCHAR of RFC 6749 appendix A.
func isVisible(text string) bool {
	for _, c := range []byte(text) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return text != ""
}

// scopeLog tells of scopes that were asked for and not granted (RFC 6749 section
// 3.3): the token is good, but a backend may say no to it. It tells of the same
// scopes once, and never what the provider wrote.
type scopeLog struct {
	logger *slog.Logger
	level  slog.Level

	mu   sync.Mutex
	last []string
}

// note compares what was asked for with an answer. One without scope grants all.
func (l *scopeLog) note(ctx context.Context, asked []string, token *oauth2.Token) {
	text, ok := token.Extra("scope").(string)
	if !ok || text == "" {
		return
	}
	granted := strings.FieldsFunc(text, func(c rune) bool { return c == ' ' || c == ',' }) // GitHub has commas
	missing := slices.DeleteFunc(slices.Clone(asked), func(scope string) bool { return slices.Contains(granted, scope) })
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.Equal(missing, l.last) {
		return
	}
	l.last = missing
	if len(missing) > 0 {
		l.logger.LogAttrs(ctx, l.level, "the provider granted fewer scopes than were asked for", slog.Any("missing", missing))
	}
}
