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
	processes  bool          // each replica is a process of its own
	rejection  api.Rejection // how the API refuses
	real       float64       // share of real 403s
	record     int           // how many tries the API keeps
	credential string        // further keys of the credential, in YAML
	provider   string        // further keys of both providers, in YAML flow style

	// backend serves something else than the API, over HTTP/2, and returns its
	// address.
	backend func(valid func(token string) bool) string
	// A real provider instead of ours, and what the API accepts then.
	backendURL string
	valid      func(token string) bool
	// before is called when the providers are there and rebearer is not.
	before func(s *stack)
	// notReady is for tests in which rebearer is not ready for long.
	notReady bool
}

// stack is everything that a caller's request meets: the callers' provider, the
// backend's, the API, rebearer and a real Envoy.
type stack struct {
	callers, backend         *provider.Provider // backend is nil where it is a real one
	callersPort, backendPort *endpoint.Server
	api                      *api.API
	envoy                    *envoytest.Envoy
	config                   string // rebearer's configuration file
	processes                []*process
	url                      string   // of Envoy
	status                   []string // URLs of rebearer's status listeners
	events                   events   // of the replicas in this process
	logs                     *logBuffer

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
	if testing.Short() {
		t.Skip("runs a real Envoy")
	}
	binary.Require(t)
	s := &stack{logs: &logBuffer{}}
	s.callers, s.callersPort = newProvider(t, provider.JWT, provider.Client{ID: callerID, Secret: callerSecret})
	s.token = fetchToken(t, s.callers.TokenURL())
	if o.backendURL == "" {
		s.backend, s.backendPort = newProvider(t, provider.Opaque, provider.Client{ID: gatewayID, Secret: gatewaySecret})
		o.backendURL, o.valid = s.backend.Issuer(), s.backend.Valid
	}
	var err error
	s.api, err = api.New(o.valid, api.Config{Rejection: o.rejection, RealForbiddenShare: o.real, Record: o.record})
	if err != nil {
		t.Fatal(err)
	}
	if o.backend == nil {
		o.backend = func(func(string) bool) string {
			return serve(t, func(string) http.Handler { return s.api }).Address()
		}
	} else {
		o.backend = overHTTP2(o.backend)
	}
	if o.before != nil {
		o.before(s)
	}
	s.config = filepath.Join(t.TempDir(), "rebearer.yaml")
	write(t, s.config, s.configuration(o, listen{anyPort, anyPort, anyPort}))
	write(t, filepath.Join(filepath.Dir(s.config), "secret"), gatewaySecret)
	addresses := s.startReplicas(t, o)
	s.startEnvoy(t, binary, addresses, o.backend(o.valid))
	return s
}

func overHTTP2(backend func(func(string) bool) string) func(func(string) bool) string {
	return func(valid func(string) bool) string { return "h2c://" + backend(valid) }
}

// listen are the addresses of a replica.
type listen struct{ grpc, status, admin string }

const anyPort = "127.0.0.1:0"

// configuration is a configuration file.
func (s *stack) configuration(o stackOptions, l listen) string {
	further := ""
	if o.provider != "" {
		further = ", " + o.provider
	}
	return fmt.Sprintf(`
version: 1
server:
  grpc: {address: %q}
  status: {address: %q}
  admin: {address: %q}
providers:
  callers: {issuer: %q%s}
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
`, l.grpc, l.status, l.admin, s.callers.Issuer(), further, o.backendURL, further, audience, gatewayID, o.credential)
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// startReplicas starts rebearer and returns the addresses of its gRPC servers.
// It waits until all are ready, unless told otherwise.
func (s *stack) startReplicas(t testing.TB, o stackOptions) []string {
	t.Helper()
	var addresses []string
	for i := range max(o.replicas, 1) {
		grpc, status := "", ""
		if o.processes {
			l := listen{freeAddress(t), freeAddress(t), freeAddress(t)}
			file := filepath.Join(filepath.Dir(s.config), fmt.Sprintf("rebearer-%d.yaml", i))
			write(t, file, s.configuration(o, l))
			p := &process{config: file, status: "http://" + l.status, log: s.logs}
			p.start(t)
			t.Cleanup(func() { p.end(t) })
			s.processes = append(s.processes, p)
			grpc, status = l.grpc, p.status
		} else {
			grpc, status = s.startService(t)
		}
		addresses = append(addresses, grpc)
		s.status = append(s.status, status)
		if !o.notReady {
			awaitReady(t, status)
		}
	}
	return addresses
}

func awaitReady(t testing.TB, status string) {
	t.Helper()
	await(t, "rebearer to be ready", func() bool { return get(t, status+"/readyz") == http.StatusOK })
}

// startService runs a replica in this process.
func (s *stack) startService(t testing.TB) (grpc, status string) {
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
	return at.GRPC.String(), "http://" + at.Status.String()
}

// startEnvoy runs Envoy with what `rebearer envoy --bootstrap` prints.
func (s *stack) startEnvoy(t testing.TB, binary envoytest.Binary, rebearer []string, backend string) {
	t.Helper()
	cfg, err := config.Load(s.config)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range rebearer {
		cfg.Envoy.Addresses = append(cfg.Envoy.Addresses, config.Address(a))
	}
	bootstrap, err := envoyFlags{
		bootstrap: true, listen: anyPort, admin: anyPort, backends: []string{"default=" + backend},
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
	awaitFor(t, time.Minute, what, there)
}

// awaitFor is await for what may take longer.
func awaitFor(t testing.TB, patience time.Duration, what string, there func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(patience)
	for !there() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// restart restarts the backend's provider: every token is void.
func (s *stack) restart(t testing.TB) {
	t.Helper()
	if err := s.backend.Restart(); err != nil {
		t.Error(err)
	}
}

// restarts restarts it n times, every so often, and returns after the same time
// once more.
func (s *stack) restarts(t testing.TB, n int, every time.Duration) {
	t.Helper()
	for range n {
		<-time.After(every)
		s.restart(t)
	}
	<-time.After(every)
}

// setDown takes a provider down or up again.
func setDown(t testing.TB, port *endpoint.Server, down bool) {
	t.Helper()
	if err := port.SetDown(down); err != nil {
		t.Fatal(err)
	}
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
	l, err := net.Listen("tcp", anyPort)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
