package service

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
	"github.com/rebearer/rebearer/envoy/hook"
)

// Bounds of one connection. Envoy sends all its calls over one or a few.
const (
	// streamWorkers keep their grown stacks from call to call. When all are
	// busy, as with rejections that are held, calls get goroutines of their own.
	streamWorkers    = 16
	maxStreams       = 10_000
	maxMessage       = 4 << 20
	idleBeforePing   = time.Minute
	pingTimeout      = 20 * time.Second
	minPingInterval  = 10 * time.Second
	handshakeTimeout = 10 * time.Second
)

// newGRPC makes the gRPC server with all its services.
func (s *Service) newGRPC() (*grpc.Server, *health.Server, error) {
	metrics := grpcprom.NewServerMetrics(grpcprom.WithServerHandlingTimeHistogram())
	if err := s.registry.Register(metrics); err != nil {
		return nil, nil, err
	}
	options := []grpc.ServerOption{
		grpc.NumStreamWorkers(streamWorkers),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: idleBeforePing, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPingInterval, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(metrics.UnaryServerInterceptor()),
		// A check recovers by itself; the hook, whose words come from backends, does not.
		grpc.ChainStreamInterceptor(metrics.StreamServerInterceptor(), recovery.StreamServerInterceptor()),
	}
	if cfg := s.current.Load().cfg.Server.GRPC; cfg.TLS != nil {
		secure, err := serverTLS(cfg)
		if err != nil {
			return nil, nil, err
		}
		watched, err := watchHandshakes(credentials.NewTLS(secure), s.opts.Logger, s.registry)
		if err != nil {
			return nil, nil, err
		}
		options = append(options, grpc.Creds(watched))
	}
	cfg := hook.Config{Logger: s.opts.Logger, Metrics: s.registry}
	if s.opts.Hashes != nil {
		cfg.KnownConfig = s.knownConfig
	}
	rejections, err := hook.New(s.target, cfg)
	if err != nil {
		return nil, nil, err
	}
	server := grpc.NewServer(options...)
	authv3.RegisterAuthorizationServer(server, s.checks)
	extprocv3.RegisterExternalProcessorServer(server, rejections)
	secretv3.RegisterSecretDiscoveryServiceServer(server, s.secrets)
	h := health.NewServer()
	healthv1.RegisterHealthServer(server, h)
	reflection.Register(server)
	metrics.InitializeMetrics(server)
	return server, h, nil
}

func serveGRPC(server *grpc.Server, l net.Listener) error {
	// A stop may come before the goroutine that serves.
	if err := server.Serve(l); !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// gracefully lets the calls that run end, and cuts off those that do not.
func gracefully(server *grpc.Server) {
	timer := time.AfterFunc(drainTimeout, server.Stop)
	defer timer.Stop()
	server.GracefulStop()
}

// serverTLS asks every peer for a certificate with one of the allowed names.
// The files are read anew for each connection, so that a renewed certificate
// needs no restart; those of living connections stay.
func serverTLS(cfg config.GRPC) (*tls.Config, error) {
	if _, err := loadTLS(cfg); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return loadTLS(cfg) },
	}, nil
}

func loadTLS(cfg config.GRPC) (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(cfg.TLS.CertFile, cfg.TLS.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("server.grpc.tls: %w", err)
	}
	secure := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2"},
		Certificates: []tls.Certificate{certificate},
	}
	if cfg.TLS.ClientCAFile == "" {
		return secure, nil
	}
	pem, err := os.ReadFile(cfg.TLS.ClientCAFile)
	if err != nil {
		return nil, fmt.Errorf("server.grpc.tls.client_ca_file: %w", err)
	}
	secure.ClientCAs = x509.NewCertPool()
	if !secure.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("server.grpc.tls.client_ca_file: %s holds no certificate", cfg.TLS.ClientCAFile)
	}
	secure.ClientAuth = tls.RequireAndVerifyClientCert
	secure.VerifyConnection = func(state tls.ConnectionState) error {
		if names := namesOf(state.PeerCertificates); !slices.ContainsFunc(names, func(name string) bool { return slices.Contains(cfg.Peers, name) }) {
			return fmt.Errorf("the certificate has none of the names of server.grpc.peers, but %q", names)
		}
		return nil
	}
	return secure, nil
}

// namesOf returns the subject alternative names that a peer may be allowed by.
func namesOf(chain []*x509.Certificate) []string {
	if len(chain) == 0 {
		return nil
	}
	names := slices.Clone(chain[0].DNSNames)
	for _, uri := range chain[0].URIs {
		names = append(names, uri.String())
	}
	return names
}
