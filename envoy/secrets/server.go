package secrets

import (
	"context"
	"errors"
	"log/slog"
	"time"

	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/sotw/v3"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Config describes a Server. The zero value is the safe one.
type Config struct {
	// Insecure gives secrets to peers that prove nothing: plain TCP, or TLS
	// without a client certificate. It is for laboratories.
	Insecure bool
}

// Server implements secretv3.SecretDiscoveryServiceServer, both variants of its
// streams. It is safe for concurrent use.
type Server struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer

	cfg     Config
	log     *slog.Logger
	refused rate.Sometimes // bounds the log lines about peers that may not
	store   *store
	nodes   *nodes
	sotw    sotw.Server
	delta   delta.Server

	life context.Context //nolint:containedctx // the one lifetime context: streams end with it
	stop context.CancelFunc
}

// refusalInterval is how often a refused peer is worth a line: it comes again
// and again.
const refusalInterval = time.Minute

// New returns a server that gives nothing to anybody until it is told whose
// tokens it serves, by Serve, and these tokens, through Publishers.
// It registers its metrics. Close it when it is done.
func New(log *slog.Logger, metrics prometheus.Registerer, cfg Config) (*Server, error) {
	secrets := cache.NewLinearCache(resource.SecretType)
	s := &Server{
		cfg:     cfg,
		log:     log,
		refused: rate.Sometimes{First: 1, Interval: refusalInterval},
		store:   newStore(log, secrets),
		nodes:   newNodes(log),
	}
	s.nodes.serves = s.store.serves
	if err := errors.Join(
		metrics.Register(s.nodes.pushes), metrics.Register(s.nodes.nacks), metrics.Register(s.nodes.gauge()),
	); err != nil {
		return nil, err
	}
	s.life, s.stop = context.WithCancel(context.Background())
	// A request without names is not one for everything.
	s.sotw = sotw.NewServer(s.life, secrets, sotwCallbacks{s.nodes}, sotw.DeactivateLegacyWildcard())
	s.delta = delta.NewServer(s.life, secrets, deltaCallbacks{s.nodes}, delta.DeactivateLegacyWildcard())
	return s, nil
}

// Serve says whose tokens are given out, one publisher for each credential; what
// all others are told is not. Tokens may have been published before. So what a
// configuration describes reaches no Envoy before it is in use, and nothing of
// one that was replaced does.
func (s *Server) Serve(publishers []*Publisher) {
	s.store.serve(publishers)
	s.nodes.forgetStrays()
}

// Publisher returns what is to be told of a credential's tokens. The scheme goes
// before the token in the header; empty if nothing does.
func (s *Server) Publisher(credential, scheme string) *Publisher {
	return &Publisher{store: s.store, credential: credential, scheme: scheme}
}

// Status returns the Envoys that are connected, in the order of their names.
func (s *Server) Status() []NodeStatus { return s.nodes.status() }

// Close ends all streams and refuses new ones. Without it they never end, and
// neither would a graceful stop of the gRPC server. Envoys keep what they hold.
func (s *Server) Close() {
	s.stop()
	s.store.close()
}

// StreamSecrets implements the state-of-the-world variant: it blocks until Envoy
// or Close ends the stream.
func (s *Server) StreamSecrets(stream secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	if err := s.admit(stream.Context()); err != nil {
		return err
	}
	return s.ended(s.sotw.StreamHandler(stream, resource.SecretType))
}

// DeltaSecrets implements the incremental variant: it blocks until Envoy or
// Close ends the stream.
func (s *Server) DeltaSecrets(stream secretv3.SecretDiscoveryService_DeltaSecretsServer) error {
	if err := s.admit(stream.Context()); err != nil {
		return err
	}
	return s.ended(s.delta.DeltaStreamHandler(stream, resource.SecretType))
}

// ended tells Envoy why its stream ended.
func (s *Server) ended(err error) error {
	if err == nil && s.life.Err() != nil {
		return status.Error(codes.Unavailable, "rebearer is stopping")
	}
	return err
}

var errStranger = status.Error(codes.PermissionDenied, "secrets are given only through a unix socket, or over TLS with an allowed client certificate")

// admit refuses a peer that has not shown that it may have secrets. The names in
// its certificate were checked when the connection was made.
func (s *Server) admit(ctx context.Context) error {
	p, ok := peer.FromContext(ctx)
	if ok && (s.cfg.Insecure || mayHaveSecrets(p)) {
		return nil
	}
	s.refused.Do(func() {
		s.log.LogAttrs(ctx, slog.LevelWarn, "an Envoy asks for secrets over a connection that proves nothing, and gets none: "+
			"let server.grpc listen on a unix socket, or give it tls with client_ca_file and peers",
			slog.String("peer", peerName(p)))
	})
	return errStranger
}

func mayHaveSecrets(p *peer.Peer) bool {
	if p.Addr != nil && p.Addr.Network() == "unix" {
		return true
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	return ok && len(info.State.VerifiedChains) > 0
}

// peerName tells who is at the other end, as far as the connection does.
func peerName(p *peer.Peer) string {
	if p == nil || p.Addr == nil {
		return ""
	}
	if p.Addr.Network() == "unix" {
		return "unix socket"
	}
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.VerifiedChains) > 0 {
		return certificateName(info.State.PeerCertificates[0]) + " at " + p.Addr.String()
	}
	return p.Addr.String()
}
