package service

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	demoprovider "github.com/rebearer/rebearer/cmd/rebearer/internal/demo/provider"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
	"github.com/rebearer/rebearer/tokens"
)

const (
	clientSecret = "very-secret-client-secret"
	audience     = "api://orders"
)

// front stands before a provider: it notes the secrets of token requests, and
// can hold requests until it is told to let them go.
type front struct {
	*demoprovider.Provider
	server *httptest.Server

	mu      sync.Mutex
	secrets []string
	held    map[string]chan struct{} // by path; closed to let go
	arrived chan string              // gets the path of every request that is held
}

// hold holds the requests for a path, until the returned function is called.
func (f *front) hold(path string) (release func()) {
	gate := make(chan struct{})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held[path] = gate
	return sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.held, path)
		close(gate)
	})
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	if _, secret, ok := r.BasicAuth(); ok {
		f.secrets = append(f.secrets, secret)
	}
	gate := f.held[r.URL.Path]
	f.mu.Unlock()
	if gate != nil {
		f.arrived <- r.URL.Path
		<-gate
	}
	f.Provider.ServeHTTP(w, r)
}

// lastSecret is that of the last token request.
func (f *front) lastSecret() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.secrets[len(f.secrets)-1]
}

// caller returns a caller's token.
func (f *front) caller(t *testing.T) string {
	t.Helper()
	now := time.Now()
	token, err := f.Sign(map[string]any{
		"iss": f.Issuer(), "sub": "alice", "aud": audience, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func newFront(t *testing.T) *front {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	p, err := demoprovider.New(demoprovider.Config{
		Issuer: "http://" + server.Listener.Addr().String(), Clients: []demoprovider.Client{{ID: "gateway", Secret: clientSecret}},
	})
	if err != nil {
		t.Fatal(err)
	}
	f := &front{Provider: p, server: server, held: map[string]chan struct{}{}, arrived: make(chan string, 100)}
	server.Config.Handler = f
	server.Start()
	t.Cleanup(server.Close)
	return f
}

// journal is a log that tests wait on.
type journal struct {
	mu     sync.Mutex
	more   *sync.Cond
	lines  []string
	unread map[string]int
	on     func(line string) // called before each line is noted, by who writes it
}

func newJournal() *journal {
	j := &journal{unread: map[string]int{}}
	j.more = sync.NewCond(&j.mu)
	return j
}

// Write implements io.Writer for one line.
func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	on := j.on
	j.mu.Unlock()
	if on != nil {
		on(string(line))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, string(line))
	j.more.Broadcast()
	return len(line), nil
}

// await waits for a line that holds text, after those that were awaited before.
func (j *journal) await(text string) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	for {
		for i := j.unread[text]; i < len(j.lines); i++ {
			if strings.Contains(j.lines[i], text) {
				j.unread[text] = i + 1
				return j.lines[i]
			}
		}
		j.more.Wait()
	}
}

func (j *journal) text() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, "")
}

const (
	taken   = "the changed configuration is in use"
	refused = "the changed configuration is refused"
)

// stage is a service with its configuration and provider.
type stage struct {
	*Service
	provider *front
	folder   string
	file     string
	log      *journal
	events   chan tokens.Event
	stop     context.CancelFunc
	ended    chan error
}

// settings are what a configuration's text is made of.
type settings struct {
	grpc     string // the address, and what goes with it
	timeout  time.Duration
	scopes   string
	more     string // further credentials
	admin    string
	preamble string
}

func (s settings) text(issuer string) string {
	if s.grpc == "" {
		s.grpc = "{address: 127.0.0.1:0}"
	}
	if s.timeout == 0 {
		s.timeout = 5 * time.Second
	}
	if s.admin == "" {
		s.admin = "127.0.0.1:0"
	}
	return fmt.Sprintf(`%sversion: 1
server:
  grpc: %s
  status: {address: 127.0.0.1:0}
  admin: {address: %s}
providers:
  shop: {issuer: %s, timeout: %v}
callers:
  shop: {provider: shop, audiences: [%s]}
credentials:
  orders:
    clients: [{provider: shop, id: gateway, secret_file: secret}]
    scopes: [%s]
%spolicies:
  default: {callers: [shop], credential: orders}
`, s.preamble, s.grpc, s.admin, issuer, s.timeout, audience, s.scopes, s.more)
}

// slow is the timeout of tests that hold a provider.
const slow = 30 * time.Second

// newStage makes a service that does not run yet.
func newStage(t *testing.T, with settings) *stage {
	t.Helper()
	s := &stage{
		provider: newFront(t), folder: t.TempDir(), log: newJournal(), events: make(chan tokens.Event, 10_000), ended: make(chan error, 1),
	}
	s.file = filepath.Join(s.folder, "rebearer.yaml")
	s.write(t, "secret", clientSecret)
	s.configure(t, with)
	s.make(t)
	return s
}

func (s *stage) make(t *testing.T) {
	t.Helper()
	var level slog.LevelVar
	made, err := New(Options{
		ConfigFile: s.file, Logger: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: &level})), Level: &level,
		Observer: func(ev tokens.Event) { s.events <- ev },
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Service = made
}

// start makes a service and runs it until the test ends.
func start(t *testing.T, with settings) *stage {
	t.Helper()
	s := newStage(t, with)
	s.run(t)
	return s
}

func (s *stage) run(t *testing.T) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go func() { s.ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-s.ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		s.ended <- nil
		if shown := s.log.text(); strings.Contains(shown, clientSecret) {
			t.Errorf("the log shows a secret:\n%s", shown)
		}
	})
}

func (s *stage) write(t *testing.T, name, text string) {
	t.Helper()
	name = filepath.Join(s.folder, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *stage) configure(t *testing.T, with settings) {
	t.Helper()
	s.write(t, "rebearer.yaml", with.text(s.provider.Issuer()))
}

// await waits for an event.
func (s *stage) await(kind tokens.Kind) tokens.Event {
	for {
		if ev := <-s.events; ev.Kind == kind {
			return ev
		}
	}
}

// dial connects to the gRPC listener.
func (s *stage) dial(t *testing.T, with credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	if with == nil {
		with = insecure.NewCredentials()
	}
	to := s.Addresses().GRPC
	target := "passthrough:///" + to.String()
	if to.Network() == "unix" {
		target = "unix://" + to.String()
	}
	connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(with))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return connection
}

// check sends a check and returns the backend token that it gives, without its
// scheme; "" if the request is denied.
func check(ctx context.Context, to grpc.ClientConnInterface, caller string) (string, error) {
	response, err := authv3.NewAuthorizationClient(to).Check(ctx, extauthztest.NewRequest(extauthztest.WithBearer(caller)))
	if err != nil {
		return "", err
	}
	for _, h := range response.GetOkResponse().GetHeaders() {
		if h.GetHeader().GetKey() == "authorization" {
			return strings.TrimPrefix(h.GetHeader().GetValue(), "Bearer "), nil
		}
	}
	return "", nil
}

func mustCheck(t *testing.T, to grpc.ClientConnInterface, caller string) string {
	t.Helper()
	token, err := check(t.Context(), to, caller)
	if err != nil || token == "" {
		t.Fatalf("denied, or %v", err)
	}
	return token
}

// get asks the status listener.
func (s *stage) get(t *testing.T, path string) (int, string) {
	t.Helper()
	response, err := http.Get("http://" + s.Addresses().Status.String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// becomes waits until a path answers with a status.
func (s *stage) becomes(t *testing.T, path string, want int) {
	t.Helper()
	for {
		if got, _ := s.get(t, path); got == want {
			return
		}
	}
}

// metricNames are the names of the metrics that are shown, sorted.
func (s *stage) metricNames(t *testing.T) []string {
	t.Helper()
	_, text := s.get(t, "/metrics")
	var names []string
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ := strings.Cut(rest, " ")
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
