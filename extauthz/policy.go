package extauthz

import (
	"context"
	"fmt"
	"slices"
	"strings"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"

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

// Verifier says who sent a token. Its errors are a [*caller.InvalidError] for a
// token that is refused, and anything else for one that could not be judged.
type Verifier interface {
	Verify(ctx context.Context, token string) (caller.Identity, error)
}

// Credential gives out backend tokens. Token may block until ctx ends. Its error
// is a [*tokens.UnavailableError] where it knows when to ask again, and a
// [*tokens.SubjectError] where the provider refused the caller's own token.
type Credential interface {
	Name() string
	Token(ctx context.Context, r tokens.Request) (tokens.Token, error)
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
	// Callers verifies callers' tokens. It may be nil where Anonymous is set:
	// then no token is read.
	Callers Verifier
	// Anonymous lets requests without a token pass. One that has a token must
	// have a good one: whoever sends a token wants to be known by it, and
	// should be told when he is not. A requirement beside it is refused, since
	// leaving the token out would go round it.
	Anonymous bool
	// TokenFrom is where the caller's token is.
	TokenFrom Place
	// Hosts are the hosts that are served: names and IP addresses without a
	// port, or "*." before a name for all names below it. None means all.
	Hosts []string
	// Preflight lets CORS preflights pass (Fetch standard: OPTIONS with origin
	// and access-control-request-method), which never have a token. The backend
	// gets neither a token nor a word about the caller with them. Otherwise a
	// preflight is a request like any other.
	Preflight bool
	// Require is what a good token must have.
	Require Requirement
	// Credential gives the backend token.
	Credential Credential
	// Bypass gives every request a backend token of its own, whatever the
	// credential does otherwise.
	Bypass bool
	// Header carries it. Where that is not authorization, the caller's own
	// authorization header is removed.
	Header Header
	// Forward says what the backend is told of the caller.
	Forward Forward
}

// policy is a Policy made ready for the hot path.
type policy struct {
	Policy

	hosts hosts
	// direct and detour are how a token gets into a request.
	direct, detour *passage
	// personal tells that answers differ from caller to caller.
	personal bool
	// passed is the status of every request that passes.
	passed *rpcstatus.Status
	// preflight is the whole answer to a CORS preflight.
	preflight *authv3.CheckResponse

	// passes is what the metadata of requests with a token have in common.
	passes  metadata
	allowed map[string]prometheus.Counter // by reason
	denials *denialLog
}

// validate checks a policy and fills in its defaults.
func (p Policy) validate() (_ Policy, err error) {
	if p.Name == "" || p.Name == unknownPolicy {
		return p, fmt.Errorf("policy name %q cannot be used", p.Name)
	}
	if p.Callers == nil && !p.Anonymous || p.Credential == nil {
		return p, fmt.Errorf("policy %q: callers or credential missing", p.Name)
	}
	if r := p.Require; p.Anonymous && len(r.Scopes)+len(r.AnyScopes)+len(r.Clients)+len(r.Claims) > 0 {
		return p, fmt.Errorf("policy %q: anonymous callers meet no requirement", p.Name)
	}
	if p.Header.Name == "" {
		p.Header = Header{Name: authorization, Scheme: bearer}
	}
	p.Header.Name = strings.ToLower(p.Header.Name)
	if err := p.Header.validate(); err != nil {
		return p, fmt.Errorf("policy %q: header: %w", p.Name, err)
	}
	if p.TokenFrom, err = p.TokenFrom.validate(); err != nil {
		return p, fmt.Errorf("policy %q: %w", p.Name, err)
	}
	p.Forward = p.Forward.withDefaults()
	if err := p.Forward.validate(p.Header.Name); err != nil {
		return p, fmt.Errorf("policy %q: forward: %w", p.Name, err)
	}
	if err := p.Require.validate(); err != nil {
		return p, fmt.Errorf("policy %q: %w", p.Name, err)
	}
	return p, nil
}

// newPolicy makes a valid policy ready. forwarded are the headers in which any
// policy tells who calls.
func newPolicy(p Policy, forwarded []string) (*policy, error) {
	hosts, err := newHosts(p.Hosts)
	if err != nil {
		return nil, fmt.Errorf("policy %q: %w", p.Name, err)
	}
	strip := append(slices.Clone(forwarded), authorization, p.Header.Name)
	if p.TokenFrom.Cookie != "" {
		strip = append(strip, cookie)
	} else {
		strip = append(strip, p.TokenFrom.Header)
	}
	slices.Sort(strip)
	direct := &passage{header: p.Header, strip: slices.Compact(strip)}
	ready := &policy{
		Policy: p, hosts: hosts, direct: direct, detour: direct.detour(),
		personal: len(p.Forward.headers()) > 0 || p.TokenFrom.Cookie != "",
		passes:   p.passing(),
		passed:   &rpcstatus.Status{Code: int32(codes.OK)},
		allowed:  map[string]prometheus.Counter{},
	}
	ready.preflight = &authv3.CheckResponse{
		Status:          ready.passed,
		HttpResponse:    direct.change(nil),
		DynamicMetadata: withoutToken(p.Name, decisionAllow, reasonPreflight, &caller.Identity{}),
	}
	return ready, nil
}

// reasons are why a request may pass.
func (p *policy) reasons() []string {
	reasons := []string{reasonAllowed}
	if p.Anonymous {
		reasons = append(reasons, reasonAnonymous)
	}
	if p.Preflight {
		reasons = append(reasons, reasonPreflight)
	}
	return reasons
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

// headers returns what changes an allowed request: the backend token, what the
// backend is told of the caller, and what it must not see.
func (p *policy) headers(c *checking, token tokens.Token) (*authv3.CheckResponse_OkResponse, error) {
	way := p.direct
	if c.request.detour {
		way = p.detour
	}
	given, err := way.give(token)
	if err != nil || !p.personal {
		return given, err
	}
	set, err := p.Forward.tell(slices.Clone(given.OkResponse.GetHeaders()), &c.who, c.token)
	if err != nil {
		return nil, err
	}
	if c.cookies != "" {
		set = append(set, overwrite(cookie, c.cookies))
	}
	return way.change(set), nil
}
