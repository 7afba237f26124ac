package hook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rebearer/rebearer/envoy/rejection"
	"github.com/rebearer/rebearer/tokens"
)

// Credential is told what backends made of its tokens. [tokens.Credential] is
// one.
type Credential interface {
	// Rejected may block: it holds a rejection while a fresh token is fetched.
	// When its context ends it returns, and what it began goes on.
	Rejected(ctx context.Context, r tokens.Rejection) tokens.Outcome
	// Accepted does not block.
	Accepted(a tokens.Acceptance)
	// Again returns the token for a request that is sent again, and may block
	// like Rejected.
	Again(ctx context.Context, r tokens.Retried) (tokens.Token, error)
}

// Target is a credential with what the hook must know of its backends.
type Target struct {
	// Credential judges. Required.
	Credential Credential
	// Header is the request header that carries its token, in lower case.
	Header string
	// Scheme goes before the token in that header; empty if nothing does.
	Scheme string
	// Statuses are the HTTP statuses that are rejections.
	Statuses []int
	// Methods are those that may be sent again. Nil means all.
	Methods []string
	// Unasked are the statuses whose requests Envoy sends again unasked, where it
	// cannot hold them (render.Config.RetryUnasked).
	Unasked []int
	// Rules look into the bodies of rejections. Nil means that none is read.
	Rules *rejection.Rules
	// Introspect asks the provider whether a token is active (RFC 7662). It
	// blocks no longer than the provider's timeout, because ctx has no end: the
	// answer is shared. Nil means that nobody is asked.
	Introspect func(ctx context.Context, token string) (active bool, err error)
}

// Lookup returns the target of the credential of the given name, if there is
// one. It is called for every message and must not block.
type Lookup func(credential string) (Target, bool)

// Config is what the hook needs beside its targets.
type Config struct {
	// Logger is told what an operator should mend. Required.
	Logger *slog.Logger
	// Metrics registers rebearer_envoy_config_mismatches_total. Required.
	Metrics prometheus.Registerer
	// KnownConfig reports whether a hash is that of a configuration for Envoy
	// that fits ours. It must not block. Nil means that none is compared.
	KnownConfig func(hash string) bool
}

// Server is the external processor. It is safe for concurrent use.
type Server struct {
	extprocv3.UnimplementedExternalProcessorServer

	lookup        Lookup
	configs       *configs
	introspection *introspection
	rulings       rulings
}

// New makes a Server, which keeps nothing running.
func New(lookup Lookup, cfg Config) (*Server, error) {
	if lookup == nil || cfg.Logger == nil || cfg.Metrics == nil {
		return nil, errors.New("the hook needs a lookup, a logger and metrics")
	}
	configs, err := newConfigs(cfg)
	if err != nil {
		return nil, fmt.Errorf("metrics of the hook: %w", err)
	}
	return &Server{lookup: lookup, configs: configs, introspection: newIntrospection(cfg.Logger)}, nil
}

// Process implements the external processor for one try of a request: it answers
// each message in kind, until Envoy ends the stream. A filter that only watches
// is answered nothing.
func (s *Server) Process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	from := readOrigin(stream.Context())
	s.configs.check(from.config)
	t := try{server: s, from: from}
	for {
		request, err := t.receive(stream)
		if request == nil || err != nil {
			return err
		}
		response := t.respond(stream.Context(), request)
		if from.watches() {
			continue
		}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
}
