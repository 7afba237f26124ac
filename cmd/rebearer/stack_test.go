package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/api"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/endpoint"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/load"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/provider"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/service"
	"github.com/rebearer/rebearer/envoy/envoytest"
	"github.com/rebearer/rebearer/tokens"
)

// The clients of the end-to-end tests.
const (
	callerID, callerSecret   = "caller", "caller-secret"
	gatewayID, gatewaySecret = "gateway", "gateway-secret"
	audience                 = "api://orders"
)

// stackOptions say what a stack differs in from the plain one.
type stackOptions struct {
	replicas   int           // of rebearer; 0 means 1
	rejection  api.Rejection // how the API refuses
	real       float64       // share of real 403s
	record     int           // how many tries the API keeps
	credential string        // further keys of the credential, in YAML flow style
	provider   string        // further keys of the backend's provider
	h2         bool          // Envoy speaks HTTP/2 to the backend
	backendURL string        // a real provider instead of ours
	valid      func(string) bool
	notReady   bool // do not wait for a backend token
}

// stack is everything that a caller's request meets: the callers' provider, the
// backend's, the API, rebearer (in this process) and a real Envoy.
type stack struct {
	callers *provider.Provider
	backend *provider.Provider
	down    *endpoint.Server // the backend's provider's port
	api     *api.API
	envoy   *envoytest.Envoy
	config  string // rebearer's configuration file
	url     string // of Envoy
	events  events
	logs    *logBuffer
	admins  []string // addresses of the admin APIs

	token string // a caller's
}

// events collects what happens to tokens.
type events struct {
	mu  sync.Mutex
	all []tokens.Event
}

func (e *events) add(ev tokens.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

func (e *events) count(kind tokens.Kind) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, ev := range e.all {
		if ev.Kind == kind {
			n++
		}
	}
	return n
}

// logBuffer is the log of all replicas.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// serve serves a handler on a free port until the test ends.
func serve(t testing.TB, handler func(url string) http.Handler) *endpoint.Server {
	t.Helper()
	e, err := endpoint.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	if err := e.Serve(handler(e.URL())); err != nil {
		t.Fatal(err)
	}
	return e
}

// newProvider serves a provider until the test ends.
func newProvider(t testing.TB, format provider.Format, clients ...provider.Client) (*provider.Provider, *endpoint.Server) {
	t.Helper()
	var p *provider.Provider
	e := serve(t, func(url string) http.Handler {
		var err error
		p, err = provider.New(provider.Config{
			Issuer: url, Clients: clients, Tokens: format, Audiences: []string{audience},
		})
		if err != nil {
			t.Fatal(err)
		}
		return p
	})
	return p, e
}

// newStack starts a stack on the given Envoy. Everything ends with the test.
func newStack(t testing.TB, binary envoytest.Binary, o stackOptions) *stack {
	t.Helper()
	binary.Require(t)
	s := &stack{logs: &logBuffer{}}
	s.callers, _ = newProvider(t, provider.JWT, provider.Client{ID: callerID, Secret: callerSecret})
	valid := o.valid
	if valid == nil {
		s.backend, s.down = newProvider(t, provider.Opaque, provider.Client{ID: gatewayID, Secret: gatewaySecret})
		o.backendURL, valid = s.backend.Issuer(), s.backend.Valid
	}
	var err error
	s.api, err = api.New(valid, api.Config{Rejection: o.rejection, RealForbiddenShare: o.real, Record: o.record})
	if err != nil {
		t.Fatal(err)
	}
	backend := serve(t, func(string) http.Handler { return s.api })
	s.configure(t, o)
	var addresses []string
	for range max(o.replicas, 1) {
		addresses = append(addresses, s.startService(t, !o.notReady))
	}
	s.startEnvoy(t, binary, addresses, backend.Address(), o.h2)
	s.token = fetchToken(t, s.callers.TokenURL())
	return s
}

// configure writes the configuration file.
func (s *stack) configure(t testing.TB, o stackOptions) {
	t.Helper()
	dir := t.TempDir()
	s.config = filepath.Join(dir, "rebearer.yaml")
	write(t, filepath.Join(dir, "secret"), gatewaySecret)
	write(t, s.config, fmt.Sprintf(`
version: 1
server:
  grpc: {address: "127.0.0.1:0"}
  status: {address: "127.0.0.1:0"}
  admin: {address: "127.0.0.1:0"}
providers:
  callers: {issuer: %q}
  backend: {issuer: %q%s}
callers:
  shop: {provider: callers, audiences: [%q]}
credentials:
  orders:
    clients: [{provider: backend, id: %q, secret_file: secret}]
    %s
policies:
  default: {callers: [shop], credential: orders}
envoy: {route_timeout: 30s}
`, s.callers.Issuer(), o.backendURL, more(", ", o.provider), audience, gatewayID, o.credential))
}

func more(before, text string) string {
	if text == "" {
		return ""
	}
	return before + text
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// startService runs one replica and returns its gRPC address. It waits until it
// is ready, unless told otherwise.
func (s *stack) startService(t testing.TB, ready bool) string {
	t.Helper()
	svc, err := service.New(service.Options{
		ConfigFile: s.config,
		Logger:     slog.New(slog.NewTextHandler(s.logs, nil)),
		Level:      &slog.LevelVar{},
		Observer:   s.events.add,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- svc.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("service: %v", err)
		}
	})
	at := svc.Addresses()
	s.admins = append(s.admins, at.Admin.String())
	if ready {
		await(t, "rebearer to be ready", func() bool { return get(t, "http://"+at.Status.String()+"/readyz") == http.StatusOK })
	}
	return at.GRPC.String()
}

// startEnvoy runs Envoy with what `rebearer envoy --bootstrap` prints.
func (s *stack) startEnvoy(t testing.TB, binary envoytest.Binary, rebearer []string, backend string, h2 bool) {
	t.Helper()
	cfg, err := config.Load(s.config)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range rebearer {
		cfg.Envoy.Addresses = append(cfg.Envoy.Addresses, config.Address(a))
	}
	if h2 {
		backend = "h2c://" + backend
	}
	bootstrap, err := envoyFlags{
		bootstrap: true, listen: "127.0.0.1:0", admin: "127.0.0.1:0", backends: []string{"default=" + backend},
	}.render(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.envoy = envoytest.Start(t, binary, bootstrap)
	s.url = "http://" + s.envoy.Address(t, "rebearer_outer")
}

// await polls until what is waited for is there, and fails the test if that
// takes too long.
func await(t testing.TB, what string, there func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(time.Minute)
	for !there() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// get returns the status of a GET, or 0.
func get(t testing.TB, url string) int {
	t.Helper()
	response, err := http.Get(url) //nolint:gosec // a test's own server
	if err != nil {
		return 0
	}
	_ = response.Body.Close()
	return response.StatusCode
}

// send sends requests through Envoy until ctx ends.
func (s *stack) send(ctx context.Context, t testing.TB, cfg load.Config) load.Result {
	t.Helper()
	if cfg.URL == "" {
		cfg.URL = s.url + "/"
	}
	cfg.Token = func(context.Context) (string, error) { return s.token, nil }
	g, err := load.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g.Run(ctx)
}

// restarts lets the backend's provider restart n times, every so often, and
// returns after the same time once more.
func (s *stack) restarts(t testing.TB, n int, every time.Duration) {
	t.Helper()
	for range n {
		<-time.After(every)
		if err := s.backend.Restart(); err != nil {
			t.Error(err)
		}
	}
	<-time.After(every)
}

// checkLogs fails the test if a log holds any of the secrets in use.
func (s *stack) checkLogs(t testing.TB) {
	t.Helper()
	text := s.logs.String()
	secrets := []string{gatewaySecret, s.token}
	for _, try := range s.api.Tries() {
		for _, value := range try.Authorization {
			secrets = append(secrets, strings.TrimPrefix(value, "Bearer "))
		}
	}
	for _, secret := range secrets {
		if secret != "" && strings.Contains(text, secret) {
			t.Errorf("the log holds a secret (fingerprint %s)", tokens.FingerprintOf(secret))
		}
	}
}

// eachEnvoy runs a test on the newest and on the oldest Envoy.
func eachEnvoy(t *testing.T, test func(t *testing.T, binary envoytest.Binary)) {
	t.Helper()
	for _, binary := range envoytest.Binaries() {
		t.Run(binary.Name, func(t *testing.T) { test(t, binary) })
	}
}

// newest is the Envoy of the tests for which one version is enough.
func newest() envoytest.Binary { return envoytest.Binaries()[0] }

// freeAddress returns a loopback address that nothing listens on.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
