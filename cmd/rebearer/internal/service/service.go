package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/telemetry"
	"github.com/rebearer/rebearer/envoy/hook"
	"github.com/rebearer/rebearer/envoy/secrets"
	"github.com/rebearer/rebearer/extauthz"
	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/tokens"
)

// Options are what a Service is given beside its configuration file.
type Options struct {
	// ConfigFile is the configuration file. Required.
	ConfigFile string
	// Logger gets one line for everything that an operator may want to know.
	// Required.
	Logger *slog.Logger
	// Level is the level of Logger, which the admin API changes. Required.
	Level *slog.LevelVar
	// Observer, unless nil, is also told of every event in a token's life.
	Observer tokens.Observer
	// Hashes returns what an Envoy may say of its configuration that was made
	// from this file: see [hook.Config.KnownConfig]. Nil means that nothing is
	// compared.
	Hashes func(*config.Config) ([]string, error)
	// DrainDelay is how long the service still serves after it has said that
	// it stops, so that load balancers notice. Zero means not at all.
	DrainDelay time.Duration
}

// drainTimeout bounds how long calls that run may take to end at a stop.
const drainTimeout = 15 * time.Second

// Service is rebearer as it runs.
type Service struct {
	opts     Options
	registry *prometheus.Registry
	parts    parts
	checks   *extauthz.Server
	secrets  *secrets.Server

	current  atomic.Pointer[graph]
	tried    atomic.Bool // every provider was, once; a reload does not undo that
	stopping atomic.Bool
	reloads  *prometheus.CounterVec

	mu      sync.Mutex // one reload at a time
	grpc    net.Listener
	status  net.Listener
	admin   net.Listener
	retired sync.WaitGroup // graphs that still wait to be closed
	done    chan struct{}  // closed when they must not wait any longer
}

// New loads the configuration and listens, but serves nothing before Run. The
// error says what is wrong with the configuration.
func New(opts Options) (*Service, error) {
	cfg, err := config.Load(opts.ConfigFile)
	if err != nil {
		return nil, err
	}
	s := &Service{opts: opts, registry: prometheus.NewRegistry(), done: make(chan struct{})}
	if err := s.instrument(); err != nil {
		return nil, err
	}
	if s.parts.cache, err = tokens.NewCache(cfg.Cache.MaxBytes); err != nil {
		return nil, err
	}
	s.secrets, err = secrets.New(opts.Logger, s.registry, secrets.Config{Insecure: cfg.Server.GRPC.Insecure})
	if err != nil {
		return nil, err
	}
	s.parts.publisher = s.secrets.Publisher
	g, err := s.build(cfg, nil)
	if err != nil {
		return nil, err
	}
	if err := s.use(g); err != nil {
		return nil, err
	}
	for _, warning := range cfg.Warnings() {
		opts.Logger.Warn("configuration", slog.String("warning", warning))
	}
	return s, s.listen(cfg.Server)
}

// instrument makes the metrics.
func (s *Service) instrument() error {
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var next []tokens.Observer
	if s.opts.Observer != nil {
		next = append(next, s.opts.Observer)
	}
	observer, err := telemetry.NewObserver(s.registry, s.opts.Logger, next...)
	if err != nil {
		return err
	}
	requests, err := telemetry.NewRequests(s.registry)
	if err != nil {
		return err
	}
	s.checks, err = extauthz.New(s.opts.Logger, s.registry)
	if err != nil {
		return err
	}
	s.reloads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rebearer_config_reloads_total",
		Help: "Changes of the configuration that were taken (ok) or refused.",
	}, []string{"outcome"})
	s.parts = parts{
		logger: s.opts.Logger, requests: requests, observe: observer.Observe, revoked: caller.NewRevocations(0),
	}
	return errors.Join(s.registry.Register(s.reloads), s.registry.Register(telemetry.NewCollector(s.state)))
}

// state is what the metrics read at a scrape.
func (s *Service) state() telemetry.State {
	var state telemetry.State
	c := s.parts.cache.Stats()
	state.Caches = []telemetry.CacheStats{{Name: "backend_tokens", CacheStats: c}}
	if g := s.current.Load(); g != nil {
		state.Credentials, state.Clients, state.Providers = g.statuses(), g.clients(), g.providerStates()
		state.Unsaved = g.unsaved()
	}
	return state
}

// listen opens the listeners.
func (s *Service) listen(cfg config.Server) error {
	for _, l := range []struct {
		name    string
		to      *net.Listener
		address config.Address
		mode    string // of a socket; empty as it is made
	}{
		{"server.grpc", &s.grpc, cfg.GRPC.Address, cfg.GRPC.SocketMode},
		{"server.status", &s.status, cfg.Status.Address, ""},
		{"server.admin", &s.admin, cfg.Admin.Address, ""},
	} {
		made, err := listen(l.address)
		if err != nil {
			s.closeListeners()
			return fmt.Errorf("%s: %w", l.name, err)
		}
		*l.to = made
		if err := permit(made, l.mode); err != nil {
			s.closeListeners()
			return fmt.Errorf("%s: %w", l.name, err)
		}
		s.opts.Logger.Info("listening", slog.String("listener", l.name), slog.String("address", made.Addr().String()))
	}
	return nil
}

// listen opens one listener. A socket that a killed process left behind is
// replaced; one that somebody still answers on is not.
func listen(at config.Address) (net.Listener, error) {
	network, address := at.Network()
	made, err := net.Listen(network, address) //nolint:noctx // listening does not block
	if network != "unix" || !errors.Is(err, syscall.EADDRINUSE) {
		return made, err
	}
	conn, dialErr := net.Dial(network, address) //nolint:noctx // a socket of this machine
	if dialErr == nil {
		_ = conn.Close()
	}
	if !errors.Is(dialErr, syscall.ECONNREFUSED) {
		return nil, err
	}
	if err := os.Remove(address); err != nil {
		return nil, err
	}
	return net.Listen(network, address) //nolint:noctx // listening does not block
}

// permit gives a socket its permissions.
func permit(socket net.Listener, mode string) error {
	if mode == "" {
		return nil
	}
	bits, err := strconv.ParseUint(mode, 8, 32)
	if err != nil {
		return err
	}
	return os.Chmod(socket.Addr().String(), os.FileMode(bits))
}

func (s *Service) closeListeners() {
	for _, l := range []net.Listener{s.grpc, s.status, s.admin} {
		if l != nil {
			_ = l.Close()
		}
	}
}

// Addresses are where a Service listens.
type Addresses struct {
	// GRPC, Status and Admin are the listeners' own, with the port that the
	// kernel chose where the configuration says 0.
	GRPC, Status, Admin net.Addr
}

// Addresses returns where the service listens.
func (s *Service) Addresses() Addresses {
	return Addresses{GRPC: s.grpc.Addr(), Status: s.status.Addr(), Admin: s.admin.Addr()}
}

// build makes the graph of cfg, as parts.build does, with what only a service
// needs.
func (s *Service) build(cfg *config.Config, old *graph) (*graph, error) {
	g, err := s.parts.build(cfg, old)
	if err != nil || s.opts.Hashes == nil {
		return g, err
	}
	if g.hashes, err = s.opts.Hashes(cfg); err != nil {
		// serve needs less of the section envoy than whoever prints it.
		s.opts.Logger.Warn("which configuration Envoy has cannot be compared", slog.Any("error", err))
	}
	return g, nil
}

// use makes g the current graph, and closes later what it does not keep.
func (s *Service) use(g *graph) error {
	if err := s.checks.SetPolicies(g.policies); err != nil {
		return err
	}
	s.secrets.Serve(g.pushed())
	old := s.current.Swap(g)
	if old == nil {
		return nil
	}
	// Requests under way finish with what they began with.
	s.retired.Go(func() {
		select {
		case <-time.After(longestTimeout(old.cfg)):
		case <-s.done:
		}
		old.close(g)
	})
	return nil
}

// target is the hook's way to a credential.
func (s *Service) target(name string) (hook.Target, bool) {
	g := s.current.Load()
	c, ok := g.credentials[name]
	if !ok {
		return hook.Target{}, false
	}
	target := c.target
	target.Unasked = g.unasked
	return target, true
}

// knownConfig reports whether a configuration of Envoy was made from ours, as far
// as that can be told.
func (s *Service) knownConfig(hash string) bool {
	known := s.current.Load().hashes
	return len(known) == 0 || slices.Contains(known, hash)
}

// Run serves until ctx ends, and then stops in order. It can be called once.
func (s *Service) Run(ctx context.Context) error {
	defer s.closeListeners()
	server, health, err := s.newGRPC()
	if err != nil {
		return err
	}
	// Background work ends with the last call, not with ctx.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	s.current.Load().warm(background, s.opts.Logger)

	status, admin := s.newStatus(), s.newAdmin()
	group, failed := errgroup.WithContext(background)
	group.Go(func() error { return serveGRPC(server, s.grpc) })
	group.Go(func() error { return serveHTTP(status, s.status) })
	group.Go(func() error { return serveHTTP(admin, s.admin) })
	group.Go(func() error { return s.watch(failed) })
	select {
	case <-ctx.Done():
	case <-failed.Done():
	}
	s.stopping.Store(true)
	health.Shutdown()
	s.opts.Logger.Info("stopping", slog.Duration("drain_delay", s.opts.DrainDelay))
	wait(s.opts.DrainDelay)
	s.secrets.Close()
	gracefully(server)
	stop()
	err = errors.Join(closeHTTP(admin), closeHTTP(status), group.Wait())
	close(s.done)
	s.retired.Wait()
	s.current.Load().close(nil)
	s.parts.cache.Close()
	return err
}

func wait(d time.Duration) {
	if d > 0 {
		<-time.After(d)
	}
}
