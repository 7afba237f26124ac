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
	apiID, apiSecret         = "api", "api-secret"
	audience                 = "api://orders"
)

// stackOptions say what a stack differs in from the plain one.
type stackOptions struct {
	way        way
	replicas   int           // of rebearer; 0 means 1
	processes  bool          // each replica is a process of its own
	rejection  api.Rejection // how the API refuses
	real       float64       // share of real 403s
	record     int           // how many tries the API keeps
	credential string        // further keys of the credential, in YAML
	provider   string        // further keys of both providers, in YAML flow style
	policy     string        // further keys of the policy, in YAML flow style
	admin      string        // further keys of the admin listener, in YAML flow style
	grpc       string        // further keys of the gRPC listener, in YAML flow style
	envoyKeys  string        // further keys of what Envoy is told, in YAML flow style

	// orders is the whole credential, in YAML flow style, instead of one with
	// the plain client.
	orders string
	// Further providers, callers, credentials and policies, each a line of YAML.
	// All policies have the same backend.
	providers, callers, credentials, policies []string

	// wrap stands between Envoy and the API.
	wrap func(http.Handler) http.Handler
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
	way                      way
	callers, backend         *provider.Provider // backend is nil where it is a real one
	callersPort, backendPort *endpoint.Server
	api                      *api.API
	envoy                    *envoytest.Envoy
	config                   string // rebearer's configuration file
	processes                []*process
	bootstrap                []byte   // of Envoy
	url                      string   // of Envoy
	status                   []string // URLs of rebearer's status listeners
	admin                    []string // addresses of its admin listeners
	events                   events   // of the replicas in this process
	logs                     *logBuffer

	token  string            // a caller's
	others map[string]string // tokens of further callers, by their subjects
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
	s := &stack{way: o.way, logs: &logBuffer{}, others: map[string]string{}}
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
		var handler http.Handler = s.api
		if o.wrap != nil {
			handler = o.wrap(handler)
		}
		o.backend = func(func(string) bool) string {
			return serve(t, func(string) http.Handler { return handler }).Address()
		}
	} else {
		o.backend = overHTTP2(o.backend)
	}
	if o.before != nil {
		o.before(s)
	}
	s.config = filepath.Join(t.TempDir(), "rebearer.yaml")
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
	further := func(keys string) string {
		if keys == "" {
			return ""
		}
		return ", " + keys
	}
	provider, policy := further(o.provider), further(o.policy)
	if o.orders == "" {
		o.orders = fmt.Sprintf(`
    clients: [{provider: backend, id: %q, secret_file: secret}]
    %s`, gatewayID, o.credential)
	}
	entries := func(lines []string) string {
		return strings.Join(append([]string{""}, lines...), "\n  ")
	}
	return fmt.Sprintf(`
version: 1
server:
  grpc: {address: %q%s}
  status: {address: %q}
  admin: {address: %q%s}
providers:
  callers: {issuer: %q%s%s}
  backend: {issuer: %q%s}%s
callers:
  shop: {provider: callers, audiences: [%q]}%s
credentials:
  orders: %s%s
policies:
  default: {callers: [shop], credential: orders%s%s}%s
envoy: {%sroute_timeout: 30s%s}
`, l.grpc, further(o.grpc), l.status, l.admin, further(o.admin), s.callers.Issuer(), o.way.keys(s.callers.Issuer()), provider,
		o.backendURL, provider, entries(o.providers), audience, entries(o.callers),
		o.orders, entries(o.credentials), o.way.delivery(), policy, entries(o.policies), o.way.shape(), further(o.envoyKeys))
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
		l := listen{anyPort, anyPort, anyPort}
		if o.processes {
			l = listen{freeAddress(t), freeAddress(t), freeAddress(t)}
		}
		if o.grpc == "" {
			l.grpc = o.way.socket(t, l.grpc)
		}
		file := s.config
		if i > 0 {
			file = filepath.Join(filepath.Dir(s.config), fmt.Sprintf("rebearer-%d.yaml", i))
		}
		write(t, file, s.configuration(o, l))
		grpc, status, admin := l.grpc, "http://"+l.status, l.admin
		if o.processes {
			p := &process{config: file, status: status, log: s.logs}
			p.start(t)
			t.Cleanup(func() { p.end(t) })
			s.processes = append(s.processes, p)
		} else {
			grpc, status, admin = s.runService(t, file)
		}
		addresses = append(addresses, grpc)
		s.status, s.admin = append(s.status, status), append(s.admin, admin)
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
func (s *stack) startService(t testing.TB) (grpc, status, admin string) {
	t.Helper()
	return s.runService(t, s.config)
}

// runService is startService with a configuration file of its own.
func (s *stack) runService(t testing.TB, file string) (grpc, status, admin string) {
	t.Helper()
	svc, err := service.New(service.Options{
		ConfigFile: file,
		Logger:     slog.New(slog.NewTextHandler(s.logs, nil)),
		Level:      &slog.LevelVar{},
		Observer:   s.events.add,
		Hashes:     envoyHashes,
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
	grpc = at.GRPC.String()
	if at.GRPC.Network() == "unix" {
		grpc = "unix://" + grpc
	}
	return grpc, "http://" + at.Status.String(), at.Admin.String()
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
	flags := envoyFlags{target: targetEnvoy, bootstrap: true, listen: anyPort, admin: anyPort}
	for policy := range cfg.Policies {
		flags.backends = append(flags.backends, policy+"="+backend)
	}
	bootstrap, err := flags.render(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.bootstrap = bootstrap
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
	if s.way == pushed { // where nobody tells rebearer how many requests are accepted
		s.awaitSettled(t)
	}
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

// checkLogs fails the test if a log holds any of the secrets in use, or of those
// that are named.
func (s *stack) checkLogs(t testing.TB, secrets ...string) {
	t.Helper()
	text := s.logs.String()
	secrets = append(secrets, gatewaySecret, s.token)
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
