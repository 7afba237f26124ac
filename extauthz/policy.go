package extauthz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/tokens"
)

const (
	// PolicyExtension is the key of context_extensions
	// (CheckRequest.attributes.context_extensions) that names the policy.
	PolicyExtension = "policy"
	// DefaultPolicy is the policy of routes that name none.
	DefaultPolicy = "default"
)

const authorization = "authorization"

// Verifier says who sent a token. Its errors are a [*caller.InvalidError] for a
// token that is refused, and anything else for one that could not be judged.
type Verifier interface {
	Verify(ctx context.Context, token string) (caller.Identity, error)
}

// Credential gives out backend tokens. Token may block until ctx ends; attempt
// is 1 for the first try of a request and more for a retry of Envoy's. Its
// error is a [*tokens.UnavailableError] where it knows when to ask again.
type Credential interface {
	Name() string
	Token(ctx context.Context, attempt int) (tokens.Token, error)
}

// Header is the request header that carries the backend token.
type Header struct {
	// Name is the header's name. Empty means authorization with the scheme
	// Bearer, whatever Scheme says.
	Name string
	// Scheme stands before the token, parted by a space. Empty means that the
	// token stands alone.
	Scheme string
}

// Policy says which callers may pass, and which backend token their requests
// get.
type Policy struct {
	// Name is the name by which routes choose the policy.
	Name string
	// Callers verifies callers' tokens.
	Callers Verifier
	// Credential gives the backend token.
	Credential Credential
	// Header carries it. Where that is not authorization, the caller's own
	// authorization header is removed.
	Header Header
}

// policy is a Policy made ready for the hot path.
type policy struct {
	Policy

	allowed prometheus.Counter
	denials *denialLog
	// prepared is the answer for the token that was given out last.
	prepared atomic.Pointer[preparedAnswer]
}

// preparedAnswer is the part of an answer that depends on the token only. It is
// shared by answers, and never changed.
type preparedAnswer struct {
	value tokens.Secret
	ok    *authv3.OkHttpResponse
}

// validate checks a policy and fills in its defaults.
func (p Policy) validate() (Policy, error) {
	if p.Name == "" || p.Name == unknownPolicy {
		return p, fmt.Errorf("policy name %q cannot be used", p.Name)
	}
	if p.Callers == nil || p.Credential == nil {
		return p, fmt.Errorf("policy %q: callers or credential missing", p.Name)
	}
	if p.Header.Name == "" {
		p.Header = Header{Name: authorization, Scheme: "Bearer"}
	}
	p.Header.Name = strings.ToLower(p.Header.Name)
	if err := p.Header.validate(); err != nil {
		return p, fmt.Errorf("policy %q: header: %w", p.Name, err)
	}
	return p, nil
}

// validate reports a header that Envoy would refuse, or that steers the request
// rather than describe it.
func (h Header) validate() error {
	steering := []string{
		"host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "keep-alive",
	}
	switch {
	case !isToken(h.Name), slices.Contains(steering, h.Name), strings.HasPrefix(h.Name, "x-envoy-"):
		return fmt.Errorf("name %q cannot be used", h.Name)
	case h.Scheme != "" && !isToken(h.Scheme):
		return fmt.Errorf("scheme %q is not an auth-scheme (RFC 9110 section 11.1)", h.Scheme)
	}
	return nil
}

// isToken reports whether text is a token (RFC 9110 section 5.6.2).
func isToken(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
			return false
		}
		return !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

var errUnsendable = errors.New("the backend token cannot stand in a header")

// answer returns the part of the answer that hands out token.
func (p *policy) answer(token tokens.Token) (*authv3.OkHttpResponse, error) {
	if last := p.prepared.Load(); last != nil && last.value == token.Value {
		return last.ok, nil
	}
	value := token.Value.Reveal()
	if value == "" || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errUnsendable
	}
	if p.Header.Scheme != "" {
		value = p.Header.Scheme + " " + value
	}
	ok := &authv3.OkHttpResponse{Headers: []*corev3.HeaderValueOption{{
		Header: &corev3.HeaderValue{Key: p.Header.Name, Value: value},
		// Overwrite: appended, the caller's token would reach the backend.
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}}}
	if p.Header.Name != authorization {
		ok.HeadersToRemove = []string{authorization}
	}
	p.prepared.Store(&preparedAnswer{value: token.Value, ok: ok})
	return ok, nil
}
