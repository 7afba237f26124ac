package oauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

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

// Introspector asks a provider about tokens (RFC 7662). It is safe for
// concurrent use and caches nothing.
type Introspector struct {
	provider *Provider
	client   Client
}

// NewIntrospector returns an Introspector that asks provider as client. It asks
// nothing yet.
func NewIntrospector(provider *Provider, client Client) (*Introspector, error) {
	client, err := client.validate()
	if err != nil {
		return nil, fmt.Errorf("client %q: %w", client.ID, err)
	}
	return &Introspector{provider: provider, client: client}, nil
}

// Introspect asks the provider about token, which goes into the body of a POST
// and nowhere else. It blocks until ctx ends or the provider's timeout at most.
//
// An error says nothing about the token. It wraps [tokens.PermanentError] where
// asking again cannot help before somebody changes the configuration, and a
// [*ResponseError] where the provider answered with another status than 200.
func (i *Introspector) Introspect(ctx context.Context, token string) (Introspection, error) {
	address, err := i.provider.Endpoint(ctx, IntrospectionEndpoint)
	if err != nil {
		return Introspection{}, err
	}
	body, err := i.post(ctx, address, token)
	if err == nil {
		var answer Introspection
		if answer, err = readIntrospection(body); err == nil {
			return answer, nil
		}
	}
	return Introspection{}, fmt.Errorf("provider %q: introspection at %s: %w", i.provider.name, address, err)
}

// post sends the request and returns the body of a successful answer. There is
// no token_type_hint: it is optional, and some providers refuse what they do
// not expect there.
func (i *Introspector) post(ctx context.Context, address, token string) ([]byte, error) {
	header, form := http.Header{}, url.Values{"token": {token}}
	if err := i.client.authenticate(header, form); err != nil {
		return nil, err
	}
	header.Set("Content-Type", "application/x-www-form-urlencoded")
	header.Set("Accept", "application/json")
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, errors.New("not a URL that can be asked")
	}
	request.Header = header
	response, err := i.provider.answers.Do(request)
	if err != nil {
		return nil, exchangeError(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	switch {
	case response.StatusCode != http.StatusOK:
		return nil, notIntrospected(response, body)
	case err != nil:
		return nil, exchangeError(err)
	}
	return body, nil
}

// notIntrospected reads an answer that is not a success.
func notIntrospected(response *http.Response, body []byte) error {
	code := ""
	if members, err := strictjson.Parse(body); err == nil {
		code, _ = members.Text("error")
	}
	if code == unsupportedTokenType {
		return &tokens.PermanentError{Err: fmt.Errorf("%w: %w", errUnsupported, &ResponseError{Status: response.StatusCode, Code: code})}
	}
	return refusal(&ResponseError{
		Status: response.StatusCode, Code: knownCode(code), retryAfter: retryAfter(response.Header, time.Now()),
	})
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
