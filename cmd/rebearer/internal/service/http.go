package service

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/admin"
	"github.com/rebearer/rebearer/tokens"
)

// Bounds of the HTTP listeners, against clients that send a byte now and then.
const (
	headerTimeout  = 5 * time.Second
	requestTimeout = 15 * time.Second
	idleTimeout    = time.Minute
	maxHeaderBytes = 16 << 10
	closeTimeout   = 5 * time.Second
)

func newHTTP(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
	}
}

func serveHTTP(server *http.Server, l net.Listener) error {
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func closeHTTP(server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return server.Shutdown(ctx)
}

// newStatus serves health and metrics, and nothing else.
func (s *Service) newStatus() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	return newHTTP(mux)
}

func (s *Service) ready(w http.ResponseWriter, _ *http.Request) {
	if s.current.Load().tried() {
		s.tried.Store(true)
	}
	switch {
	case s.stopping.Load():
		http.Error(w, "stopping", http.StatusServiceUnavailable)
	case !s.tried.Load():
		http.Error(w, "not every provider was asked yet", http.StatusServiceUnavailable)
	default:
		_, _ = io.WriteString(w, "ready\n")
	}
}

// newAdmin serves the operators' API.
func (s *Service) newAdmin() *http.Server {
	cfg := s.current.Load().cfg.Server.Admin
	return newHTTP(admin.New(admin.Config{
		Credentials: s.operated,
		Details:     s.details,
		Envoys:      s.secrets.Status,
		Simulation:  cfg.AllowSimulation,
		Level:       s.opts.Level,
		Logger:      s.opts.Logger,
		TokenFile:   cfg.TokenFile,
		Address:     s.admin.Addr().String(),
		Guarded:     !cfg.Address.Loopback(),
	}))
}

// operated are the credentials that operators act on.
func (s *Service) operated() map[string]*tokens.Credential {
	g := s.current.Load()
	all := make(map[string]*tokens.Credential, len(g.credentials))
	for name, c := range g.credentials {
		all[name] = c.Credential
	}
	return all
}

// details are what operators are shown of a credential beside its state.
func (s *Service) details(name string) admin.Details {
	c, ok := s.current.Load().credentials[name]
	if !ok {
		return admin.Details{}
	}
	return admin.Details{Bypass: c.cfg.Bypasses(), Clients: c.health(), Unsaved: c.unsaved()}
}
