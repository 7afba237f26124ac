package extauthz

import (
	"errors"
	"slices"
	"sync/atomic"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"

	"github.com/rebearer/rebearer/tokens"
)

const (
	// DetourExtension is the key of context_extensions that says where a backend
	// token for authorization is to travel instead: in [DetourHeader], the only
	// value that it may have. A configuration that says so moves the token to
	// its place behind Envoy's other filters, and those still find the caller's
	// own authorization header: Istio's RequestAuthentication reads it after the
	// check. Tokens for other headers take no detour.
	DetourExtension = "detour"
	// DetourHeader is the header that a detour takes.
	DetourHeader = "x-rebearer-authorization"
)

var (
	errDetour     = errors.New("the route names a detour that there is not")
	errUnsendable = errors.New("the backend token cannot stand in a header")
)

// passage is how a backend token gets into a request.
type passage struct {
	header Header
	// strip are the headers that a backend never sees as the caller sent them.
	strip []string
	// prepared is the answer for the token that was given out last.
	prepared atomic.Pointer[preparedAnswer]
}

// preparedAnswer is the part of an answer that depends on the token only. It is
// shared by answers, and never changed.
type preparedAnswer struct {
	value tokens.Secret
	ok    *authv3.CheckResponse_OkResponse
}

// detour returns the passage of a request whose authorization header the
// filters behind the check have yet to read.
func (p *passage) detour() *passage {
	if p.header.Name != authorization {
		return p
	}
	return &passage{
		header: Header{Name: DetourHeader, Scheme: p.header.Scheme},
		strip:  slices.DeleteFunc(slices.Clone(p.strip), func(name string) bool { return name == authorization }),
	}
}

// give returns the change that hands out token and does nothing else.
func (p *passage) give(token tokens.Token) (*authv3.CheckResponse_OkResponse, error) {
	if last := p.prepared.Load(); last != nil && last.value == token.Value {
		return last.ok, nil
	}
	value := token.Value.Reveal()
	if !isVisible(value) {
		return nil, errUnsendable
	}
	if p.header.Scheme != "" {
		value = p.header.Scheme + " " + value
	}
	ok := p.change([]*corev3.HeaderValueOption{overwrite(p.header.Name, value)})
	p.prepared.Store(&preparedAnswer{value: token.Value, ok: ok})
	return ok, nil
}

// change sets headers and removes all others of those that the caller must not
// choose. Envoy removes after it has set, so no header may be in both.
func (p *passage) change(set []*corev3.HeaderValueOption) *authv3.CheckResponse_OkResponse {
	var remove []string
	for _, name := range p.strip {
		if !slices.ContainsFunc(set, func(h *corev3.HeaderValueOption) bool { return h.GetHeader().GetKey() == name }) {
			remove = append(remove, name)
		}
	}
	return &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{Headers: set, HeadersToRemove: remove}}
}
