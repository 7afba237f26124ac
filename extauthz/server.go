package extauthz

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

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
	next := make(map[string]*policy, len(declared))
	for _, p := range declared {
		valid, err := p.validate()
		if err != nil {
			return err
		}
		if next[p.Name] != nil {
			return fmt.Errorf("policy %q is declared twice", p.Name)
		}
		next[p.Name] = &policy{
			Policy:  valid,
			allowed: s.checks.WithLabelValues(p.Name, decisionAllow, reasonAllowed),
			denials: newDenialLog(s.log, p.Name),
		}
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
			response = s.deny(ctx, c, panicError{stack: debug.Stack()})
		}
	}()
	if err := s.run(ctx, check, &c); err != nil {
		return s.deny(ctx, c, err), nil
	}
	c.policy.allowed.Inc()
	return c.response, nil
}

// checking is how far a check has come: what is known when it fails.
type checking struct {
	request  request
	policy   *policy
	caller   tokens.Fingerprint
	response *authv3.CheckResponse
}

// run takes the steps of a check one after the other.
func (s *Server) run(ctx context.Context, check *authv3.CheckRequest, c *checking) (err error) {
	if c.request, err = parseRequest(check); err != nil {
		return err
	}
	if c.policy, err = s.policyOf(c.request); err != nil {
		return err
	}
	presented, err := c.request.token()
	if err != nil {
		return err
	}
	who, err := c.policy.Callers.Verify(ctx, presented)
	if err != nil {
		return err
	}
	c.caller = who.Fingerprint()
	token, err := c.policy.Credential.Token(ctx, c.request.attempt())
	if err != nil {
		return err
	}
	c.response, err = c.policy.allow(token, c.caller)
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
func (p *policy) allow(token tokens.Token, who tokens.Fingerprint) (*authv3.CheckResponse, error) {
	ok, err := p.answer(token)
	if err != nil {
		return nil, err
	}
	use := tokens.Use{
		Policy: p.Name, Credential: p.Credential.Name(), Caller: who,
		Generation: token.Generation, Age: time.Since(token.Issued),
	}
	metadata, err := structpb.NewStruct(use.Fields())
	if err != nil {
		return nil, errors.New("dynamic metadata cannot be built")
	}
	return &authv3.CheckResponse{
		Status:          &rpcstatus.Status{Code: int32(codes.OK)},
		HttpResponse:    &authv3.CheckResponse_OkResponse{OkResponse: ok},
		DynamicMetadata: metadata,
	}, nil
}

// deny returns the answer for err, counts it and logs it.
func (s *Server) deny(ctx context.Context, c checking, err error) *authv3.CheckResponse {
	name, denials := unknownPolicy, s.unknown
	if c.policy != nil {
		name, denials = c.policy.Name, c.policy.denials
	}
	d := denialOf(err)
	s.checks.WithLabelValues(name, d.decision, d.reason).Inc()
	denials.write(ctx, d, err, c.request.id(), c.caller)
	return d.response()
}
