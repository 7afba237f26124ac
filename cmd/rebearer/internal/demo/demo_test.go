package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/api"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/endpoint"
)

// proxyBootstrap is an Envoy that hands everything on, for standIn.
const proxyBootstrap = `
admin: {address: {socket_address: {address: %s, port_value: %s}}}
static_resources:
  listeners:
  - address: {socket_address: {address: %s, port_value: %s}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config:
            virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: next}}]}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: next
    load_assignment:
      cluster_name: next
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]
`

// standIn does in plain HTTP what rebearer does for Envoy: so these tests are
// about the demo alone. Envoy hands requests to it, and it to the backend.
type standIn struct {
	backend atomic.Pointer[string]
	noRetry bool // leave the dead token's 403 to the caller
}

func (s *standIn) parts() Parts { return Parts{Serve: s.serve, Render: s.render} }

func (s *standIn) render(_ context.Context, r Rendering) ([]byte, error) {
	cfg, err := config.Load(r.ConfigPath)
	if err != nil {
		return nil, err
	}
	s.backend.Store(&r.Backend)
	var parts []any
	for _, address := range []string{r.Admin, r.Listen, string(cfg.Server.GRPC.Address)} {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		parts = append(parts, host, port)
	}
	return fmt.Appendf(nil, proxyBootstrap, parts...), nil
}

func (s *standIn) serve(ctx context.Context, path string, events func(Event)) error {
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	status, err := endpoint.Listen(ctx, string(cfg.Server.Status.Address))
	if err != nil {
		return err
	}
	defer func() { _ = status.Close() }()
	proxy, err := endpoint.Listen(ctx, string(cfg.Server.GRPC.Address))
	if err != nil {
		return err
	}
	defer func() { _ = proxy.Close() }()
	secret, err := config.ReadSecret(cfg.Credentials["demo"].Clients[0].SecretFile)
	if err != nil {
		return err
	}
	client := &clientcredentials.Config{
		ClientID: GatewayID, ClientSecret: secret.Reveal(), TokenURL: cfg.Providers["backend"].Issuer + "/token",
		AuthStyle: oauth2.AuthStyleInHeader,
	}
	var mu sync.Mutex
	var token string
	send := func(r *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		return s.forward(r, client, &token, events)
	}
	err = errors.Join(
		status.Serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})),
		proxy.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r, send) })),
	)
	if err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// forward sends a request with the token, and once more with a fresh one.
func (s *standIn) forward(r *http.Request, client *clientcredentials.Config, token *string, events func(Event)) (*http.Response, error) {
	for try := 1; ; try++ {
		if *token == "" {
			fresh, err := client.Token(r.Context())
			if err != nil {
				return nil, err
			}
			*token = fresh.AccessToken
			events(Event{Time: time.Now(), Kind: "issued", Credential: "demo"})
		}
		out := r.Clone(r.Context())
		out.RequestURI, out.URL.Scheme, out.URL.Host = "", "http", *s.backend.Load()
		out.Header.Set("Authorization", "Bearer "+*token)
		response, err := http.DefaultTransport.RoundTrip(out)
		if err != nil || response.StatusCode != http.StatusForbidden {
			return response, err
		}
		*token = ""
		events(Event{Time: time.Now(), Kind: KindRejected, Credential: "demo"})
		events(Event{Time: time.Now(), Kind: KindEvicted, Credential: "demo"})
		if try == 2 || s.noRetry {
			return response, nil
		}
		_ = response.Body.Close()
	}
}

func answer(w http.ResponseWriter, r *http.Request, send func(*http.Request) (*http.Response, error)) {
	response, err := send(r)
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	defer func() { _ = response.Body.Close() }()
	for name, values := range response.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(response.StatusCode)
	_, _ = io.Copy(w, response.Body)
}

// realEnvoy skips the test where there is no Envoy, unless one is required.
func realEnvoy(t *testing.T) {
	t.Helper()
	for _, name := range []string{os.Getenv("ENVOY"), "envoy"} {
		if _, err := exec.LookPath(name); err == nil {
			return
		}
	}
	if os.Getenv("REBEARER_REQUIRE_REAL") == "1" {
		t.Fatal("no Envoy: set $ENVOY")
	}
	t.Skip("no Envoy: set $ENVOY")
}

func TestRun(t *testing.T) {
	t.Parallel()
	realEnvoy(t)
	var out bytes.Buffer
	summary, err := Run(t.Context(), Config{
		Duration: 2 * time.Second, RestartEvery: 500 * time.Millisecond, Rate: 100, Listen: "127.0.0.1:0", Out: &out,
	}, new(standIn).parts())
	if err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	// A restart just before the end may find no request that it could hit.
	if summary.Failed != 0 || summary.Requests < 100 || summary.Restarts < 3 ||
		summary.Retried < summary.Restarts-1 || summary.TokenRequests < summary.Restarts ||
		summary.Rejections != summary.Retried || summary.Evictions != summary.Retried || summary.RetriedMax == 0 {
		t.Errorf("got %+v\n%s", summary, &out)
	}
	if !strings.HasSuffix(out.String(), "\n"+summary.String()+"\n") {
		t.Errorf("the last line is not the summary:\n%s", &out)
	}
	for _, want := range []string{"curl ", "restart ", "rejected ", "evicted ", "issued ", "requests "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not shown:\n%s", want, &out)
		}
	}
}

func TestRunTellsFailures(t *testing.T) {
	t.Parallel()
	realEnvoy(t)
	var out bytes.Buffer
	rebearer := &standIn{noRetry: true}
	summary, err := Run(t.Context(), Config{
		Duration: time.Second, RestartEvery: 300 * time.Millisecond, Listen: "127.0.0.1:0", Out: &out,
	}, rebearer.parts())
	if err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	if summary.Failed == 0 || !strings.Contains(out.String(), "status 403") {
		t.Errorf("got %+v, want failures\n%s", summary, &out)
	}
}

// watched finds the curl line in the demo's output, tries it out, and ends the
// demo as Ctrl-C does.
type watched struct {
	bytes.Buffer

	once   sync.Once
	cancel context.CancelFunc
	answer []byte
	err    error
}

var curlLine = regexp.MustCompile(`curl .*`)

func (w *watched) Write(p []byte) (int, error) {
	if line := curlLine.Find(p); line != nil {
		w.once.Do(func() {
			w.answer, w.err = exec.Command("sh", "-c", string(line)).Output()
			w.cancel()
		})
	}
	return w.Buffer.Write(p)
}

func TestCurlLineAndInterrupt(t *testing.T) {
	t.Parallel()
	realEnvoy(t)
	if _, err := exec.LookPath("curl"); err != nil {
		if os.Getenv("REBEARER_REQUIRE_REAL") == "1" {
			t.Fatal("no curl: install it")
		}
		t.Skip("no curl: install it")
	}
	taken, err := endpoint.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	out := &watched{cancel: cancel}
	summary, err := Run(ctx, Config{Listen: taken.Address(), Out: out}, new(standIn).parts())
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out.err != nil || !bytes.Contains(out.answer, []byte("200 OK")) || !bytes.Contains(out.answer, []byte(`"headers"`)) {
		t.Errorf("curl: %v\n%s", out.err, out.answer)
	}
	if !strings.Contains(out.String(), taken.Address()+" is taken") {
		t.Errorf("the taken port is not said:\n%s", out)
	}
	if !strings.HasSuffix(out.String(), "\n"+summary.String()+"\n") {
		t.Errorf("the last line is not the summary:\n%s", out)
	}
}

func TestRunWithBrokenParts(t *testing.T) {
	t.Parallel()
	realEnvoy(t)
	broken := errors.New("broken")
	good := new(standIn).parts()
	for name, parts := range map[string]Parts{
		"serve":  {Serve: func(context.Context, string, func(Event)) error { return broken }, Render: good.Render},
		"render": {Serve: good.Serve, Render: func(context.Context, Rendering) ([]byte, error) { return nil, broken }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := Run(t.Context(), Config{Listen: "127.0.0.1:0", Out: io.Discard}, parts); !errors.Is(err, broken) {
				t.Errorf("got error %v, want that of the part", err)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{
		"no output": {},
		"duration":  {Out: io.Discard, Duration: -1},
		"restarts":  {Out: io.Discard, RestartEvery: -1},
		"rate":      {Out: io.Discard, Rate: -1},
		"no parts":  {Out: io.Discard},
	} {
		if _, err := Run(t.Context(), cfg, Parts{}); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func TestConfigurationIsValid(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	at, err := freeAddresses(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	path, err := writeConfiguration(folder, at, "http://127.0.0.1:1", "http://127.0.0.1:2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(path); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600 (%v)", entry.Name(), info.Mode(), err)
		}
	}
}

// TestContainers plays the caller of RunCaller against the parts of RunParts,
// without Envoy: the API must accept the backend's tokens, so the caller's
// load goes to the keys of the callers' provider instead.
func TestContainers(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- RunParts(ctx, PartsConfig{BackendURL: "http://backend.example", RestartEvery: 20 * time.Millisecond, Out: writer})
		_ = writer.Close()
	}()
	var callers, protected string
	text := make([]byte, 4096)
	for seen := ""; !strings.Contains(seen, KindRestart); {
		n, err := reader.Read(text)
		if err != nil {
			t.Fatal(err)
		}
		seen += string(text[:n])
		callers = field(seen, `callers' provider +(\S+)`)
		protected = field(seen, `protected API +(\S+)`)
	}
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	if err := ask(ctx, protected+api.HealthPath, func(context.Context) (string, error) { return "", nil }); err != nil {
		t.Errorf("the API: %v", err)
	}
	var out bytes.Buffer
	summary, err := RunCaller(ctx, CallerConfig{
		URL: callers + "/jwks", TokenURL: callers + "/token", Duration: 100 * time.Millisecond, Out: &out,
	})
	if err != nil || summary.Failed != 0 || summary.Requests == 0 || !strings.HasSuffix(out.String(), summary.caller()+"\n") {
		t.Errorf("got %+v, error %v\n%s", summary, err, &out)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("RunParts: %v", err)
	}
}

func field(text, pattern string) string {
	if match := regexp.MustCompile(pattern).FindStringSubmatch(text); match != nil {
		return match[1]
	}
	return ""
}

// TestServicesClose shows that a part that cannot start stops the others.
func TestServicesClose(t *testing.T) {
	t.Parallel()
	taken, err := endpoint.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	free := service{listen: defaultAddress}
	if _, err := startServices(t.Context(), free, free, service{listen: taken.Address()}); err == nil {
		t.Error("the API listens on a taken address")
	}
	if _, err := startServices(t.Context(), service{listen: defaultAddress, url: "no url"}, free, free); err == nil {
		t.Error("a provider has an impossible issuer")
	}
	s, err := startServices(t.Context(), free, free, free)
	if err != nil {
		t.Fatal(err)
	}
	if s.callers.Issuer() == s.backend.Issuer() {
		t.Errorf("got issuers %q and %q", s.callers.Issuer(), s.backend.Issuer())
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
}
