package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth/strictjson"
)

var (
	errNotIntrospected = errors.New("not an introspection answer (RFC 7662 section 2.2)")
	errUnsupported     = errors.New("the provider does not introspect tokens of this kind: " +
		"this is a fault in the configuration, of rebearer or of the provider")
)

// unsupportedTokenType is the error code of RFC 7009 section 2.2.1, which some
// providers use for introspection too.
const unsupportedTokenType = "unsupported_token_type"

// Introspection is what a provider says about a token (RFC 7662 section 2.2).
type Introspection struct {
	// Active reports whether the provider calls the token active. Nothing else
	// about it has been checked.
	Active bool
	// Members are all members of the answer about an active token; nil for one
	// that is not.
	Members strictjson.Object
}

// Introspect asks the provider about token (RFC 7662), which goes into the body
// of a POST and nowhere else. It blocks until ctx ends or the provider's timeout
// at most.
//
// An error says nothing about the token. It wraps [tokens.PermanentError] where
// asking again cannot help before somebody changes the configuration, and a
// [*ResponseError] where the provider answered with another status than 200.
func (c *Client) Introspect(ctx context.Context, token string) (Introspection, error) {
	address, err := c.endpoint(ctx, IntrospectionEndpoint)
	if err != nil {
		return Introspection{}, err
	}
	// There is no token_type_hint: it is optional, and some providers refuse
	// what they do not expect there.
	answer, err := c.post(ctx, address, url.Values{"token": {token}})
	if err == nil {
		var found Introspection
		if found, err = answer.introspection(); err == nil {
			return found, nil
		}
	}
	return Introspection{}, fmt.Errorf("provider %q: introspection at %s: %w", c.provider.name, address, err)
}

// introspection reads an answer about a token.
func (a answer) introspection() (Introspection, error) {
	switch {
	case a.status == http.StatusOK:
		return readIntrospection(a.body)
	case a.code() == unsupportedTokenType:
		return Introspection{}, &tokens.PermanentError{
			Err: fmt.Errorf("%w: %w", errUnsupported, &ResponseError{Status: a.status, Code: unsupportedTokenType}),
		}
	}
	return Introspection{}, a.refused()
}

// readIntrospection reads an answer. active must be a boolean; the content type
// does not matter, because nothing but JSON passes.
func readIntrospection(body []byte) (Introspection, error) {
	members, err := strictjson.Parse(body)
	if err != nil {
		return Introspection{}, errNotIntrospected
	}
	switch string(members["active"]) {
	case "true":
		return Introspection{Active: true, Members: members}, nil
	case "false":
		return Introspection{}, nil
	}
	return Introspection{}, errNotIntrospected
}
