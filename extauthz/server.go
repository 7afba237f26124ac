package extauthz

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/tokens"
)

// unknownPolicy labels the metrics and logs of requests whose policy is not
// declared; what they name instead is not bounded.
const unknownPolicy = "unknown"

// Server implements authv3.AuthorizationServer. It is safe for concurrent use.
type Server struct {
	authv3.UnimplementedAuthorizationServer

	log      *slog.Logger
	checks   *prometheus.CounterVec
	policies atomic.Pointer[map[string]*policy]
	unknown  *denialLog
}

// New returns a server without policies, which denies every request. It
// registers rebearer_checks_total with metrics.
func New(log *slog.Logger, metrics prometheus.Registerer) (*Server, error) {
	s := &Server{
		log: log,
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebearer_checks_total",
			Help: "Requests that Envoy asked about, by policy, decision (allow, deny, unavailable) and reason.",
		}, []string{"policy", "decision", "reason"}),
		unknown: newDenialLog(log, unknownPolicy),
	}
	if err := metrics.Register(s.checks); err != nil {
		return nil, fmt.Errorf("metrics of checks: %w", err)
	}
	s.policies.Store(&map[string]*policy{})
	return s, nil
}

// SetPolicies replaces all policies at once: a request sees either the old ones
// or the new ones. Requests under way finish with the old ones, so what those
// use must not fail when it is closed. On an error nothing has changed.
func (s *Server) SetPolicies(declared []Policy) error {
	valid := make([]Policy, len(declared))
	var forwarded []string
	for i, p := range declared {
		var err error
		if valid[i], err = p.validate(); err != nil {
			return err
		}
		forwarded = append(forwarded, valid[i].Forward.headers()...)
	}
	next := make(map[string]*policy, len(declared))
	for _, p := range valid {
		if next[p.Name] != nil {
			return fmt.Errorf("policy %q is declared twice", p.Name)
		}
		ready, err := newPolicy(p, forwarded)
		if err != nil {
			return err
		}
		ready.denials = newDenialLog(s.log, p.Name)
		for _, reason := range ready.reasons() {
			ready.allowed[reason] = s.checks.WithLabelValues(p.Name, decisionAllow, reason)
		}
		next[p.Name] = ready
	}
	s.policies.Store(&next)
	return nil
}

// Check implements authv3.AuthorizationServer. It blocks while the caller's
// keys or the backend token are being fetched, until ctx ends at most. Its error
// is always nil: Envoy would answer one with a status of its own.
func (s *Server) Check(ctx context.Context, check *authv3.CheckRequest) (response *authv3.CheckResponse, _ error) {
	var c checking
	defer func() {
		if recover() != nil {
			response = s.deny(ctx, &c, panicError{stack: debug.Stack()})
		}
	}()
	if err := s.run(ctx, check, &c); err != nil {
		return s.deny(ctx, &c, err), nil
	}
	c.policy.allowed[c.reason].Inc()
	return c.response, nil
}

// checking is how far a check has come: what is known when it fails.
type checking struct {
	request request
	policy  *policy
	// token is the caller's, and cookies are those of his that the backend may
	// see where it came in one.
	token, cookies string
	who            caller.Identity
	reason         string // why the request may pass
	response       *authv3.CheckResponse
}

// run takes the steps of a check one after the other.
func (s *Server) run(ctx context.Context, check *authv3.CheckRequest, c *checking) (err error) {
	if c.request, err = parseRequest(check); err != nil {
		return err
	}
	if c.policy, err = s.policyOf(c.request); err != nil {
		return err
	}
	if !c.policy.hosts.serve(c.request.http.GetHost()) {
		return errHost
	}
	if c.policy.Preflight && c.request.isPreflight() {
		c.reason, c.response = reasonPreflight, c.policy.preflight
		return nil
	}
	if err = c.identify(ctx); err != nil {
		return err
	}
	if err = c.policy.Require.check(&c.who); err != nil {
		return err
	}
	token, err := c.policy.Credential.Token(ctx, c.wanted())
	if err != nil {
		return err
	}
	c.response, err = c.allow(token)
	return err
}

// wanted is what the credential is asked for.
func (c *checking) wanted() tokens.Request {
	return tokens.Request{
		Attempt: c.request.attempt(),
		Subject: tokens.Subject{Token: tokens.Secret(c.token), Expires: c.who.Expires},
		Bypass:  c.policy.Bypass,
	}
}

// identify finds out who calls, which is nobody where the policy allows that.
func (c *checking) identify(ctx context.Context) (err error) {
	c.reason = reasonAllowed
	c.token, c.cookies, err = c.policy.TokenFrom.read(c.request)
	if c.policy.Anonymous && (c.policy.Callers == nil || errors.Is(err, errNoToken)) {
		c.reason, c.token = reasonAnonymous, ""
		return nil
	}
	if err != nil {
		return err
	}
	c.who, err = c.policy.Callers.Verify(ctx, c.token)
	return err
}

// policyOf returns the policy that the route names.
func (s *Server) policyOf(r request) (*policy, error) {
	name := r.policy
	if name == "" {
		name = DefaultPolicy
	}
	if found := (*s.policies.Load())[name]; found != nil {
		return found, nil
	}
	return nil, unknownPolicyError{name}
}

// allow returns the answer that lets a request pass with token.
func (c *checking) allow(token tokens.Token) (*authv3.CheckResponse, error) {
	headers, err := c.policy.headers(c, token)
	if err != nil {
		return nil, err
	}
	return &authv3.CheckResponse{
		Status:          c.policy.passed,
		HttpResponse:    headers,
		DynamicMetadata: c.policy.use(&c.who, token),
	}, nil
}

// deny returns the answer for err, counts it and logs it.
func (s *Server) deny(ctx context.Context, c *checking, err error) *authv3.CheckResponse {
	name, denials := unknownPolicy, s.unknown
	if c.policy != nil {
		name, denials = c.policy.Name, c.policy.denials
	}
	d := denialOf(err)
	s.checks.WithLabelValues(name, d.decision, d.reason).Inc()
	denials.write(ctx, d, err, c.request.id(), c.who.Fingerprint())
	response := d.response(c.request.form())
	response.DynamicMetadata = withoutToken(name, d.decision, d.reason, &c.who)
	return response
}
