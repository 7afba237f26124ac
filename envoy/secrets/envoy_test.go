package secrets_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"text/template"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rebearer/rebearer/envoy/envoytest"
	"github.com/rebearer/rebearer/envoy/secrets"
	"github.com/rebearer/rebearer/tokens"
)

// rig is a real Envoy between a caller and a backend that answers with the
// header that it was sent.
type rig struct {
	*pusher
	tb     testing.TB // what the rig lives as long as
	stop   func()
	socket string
	envoy  *envoytest.Envoy
	client *http.Client
	url    string
}

func startRig(t testing.TB, b envoytest.Binary, api string, flags ...string) *rig {
	t.Helper()
	b.Require(t)
	r := &rig{tb: t, socket: socketPath(t), client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}}
	r.start()
	var text bytes.Buffer
	err := template.Must(template.ParseFiles("testdata/bootstrap.yaml")).Execute(&text, map[string]string{
		"Backend": serveBackend(t), "Service": r.socket, "API": api,
	})
	if err != nil {
		t.Fatal(err)
	}
	r.envoy = envoytest.Start(t, b, text.Bytes(), flags...)
	r.url = "http://" + r.envoy.Address(t, "in")
	t.Cleanup(r.client.CloseIdleConnections)
	return r
}

// start makes a secret server, as a new process of rebearer would.
func (r *rig) start() {
	r.tb.Helper()
	s, err := secrets.New(slog.New(slog.NewTextHandler(r.tb.Output(), nil)), prometheus.NewRegistry(), secrets.Config{})
	if err != nil {
		r.tb.Fatal(err)
	}
	r.pusher = newPusher(s, "orders", "stock")
	_, r.stop = listenAndServe(r.tb, r.Server, "unix", r.socket, insecure.NewCredentials())
}

// serveBackend returns the socket of the backend.
func serveBackend(t testing.TB) string {
	t.Helper()
	path := socketPath(t)
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("Authorization"))
	}))
	_ = server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	return path
}

// get returns what the backend was sent, or else how the caller was answered.
// The caller's own token must never get through.
func (r *rig) get(ctx context.Context) string {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, nil)
	if err != nil {
		return err.Error()
	}
	request.Header.Set("Authorization", "Bearer caller")
	response, err := r.client.Do(request)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return response.Status
	}
	return string(body)
}

func (r *rig) await(t testing.TB, want string) {
	t.Helper()
	await(t, want, func() bool { return r.get(t.Context()) == want })
}

// await waits until something has happened.
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

func TestEnvoy(t *testing.T) {
	t.Parallel()
	for _, b := range envoytest.Binaries() {
		for _, api := range []string{"GRPC", "DELTA_GRPC"} {
			t.Run(b.Name+" "+api, func(t *testing.T) {
				t.Parallel()
				r := startRig(t, b, api)
				for _, step := range []struct {
					name string
					run  func(*testing.T, *rig)
				}{
					{"missing", missing},
					{"rotation under load", rotationUnderLoad},
					{"kept when it cannot be renewed", keptPastItsEnd},
					{"restart", restart},
					{"refused", refused},
				} {
					if !t.Run(step.name, func(t *testing.T) { step.run(t, r) }) {
						t.FailNow() // what comes after builds on it
					}
				}
			})
		}
	}
}

func missing(t *testing.T, r *rig) {
	if got := r.get(t.Context()); got != "503 Service Unavailable" {
		t.Errorf("without a secret the caller is answered %q, want 503", got)
	}
}

// load sends requests until stop is called, which returns what the backend was
// sent and how often.
func (r *rig) load(t *testing.T, callers int) (stop func() map[string]int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var (
		mu   sync.Mutex
		seen = map[string]int{}
		all  sync.WaitGroup
	)
	for range callers {
		all.Go(func() {
			for ctx.Err() == nil {
				got := r.get(t.Context())
				mu.Lock()
				seen[got]++
				mu.Unlock()
			}
		})
	}
	return func() map[string]int {
		cancel()
		all.Wait()
		return seen
	}
}

func rotationUnderLoad(t *testing.T, r *rig) {
	orders := r.publisher("orders", "Bearer")
	orders(token("r0", 1))
	r.await(t, "Bearer r0")
	stop := r.load(t, 4)
	for i := range uint64(10) {
		value := fmt.Sprint("r", i+1)
		orders(token(value, i+2))
		r.await(t, "Bearer "+value)
	}
	seen := stop()
	for i := range 11 {
		delete(seen, fmt.Sprint("Bearer r", i))
	}
	if len(seen) > 0 {
		t.Errorf("callers were answered, or the backend was sent: %v", seen)
	}
}

func keptPastItsEnd(t *testing.T, r *rig) {
	short := token("short", 100)
	short.Expires = time.Now().Add(time.Second)
	orders := r.publisher("orders", "Bearer")
	orders(short)
	r.await(t, "Bearer short")
	late, expired := r.publisher("stock", "Bearer"), time.After(time.Until(short.Expires))
	<-expired
	r.serve() // nor does that take it away
	r.serve("orders", "stock")
	// What comes next has arrived, so the removal has.
	late(token("s1", 1))
	await(t, "the next message", func() bool {
		return slices.ContainsFunc(r.secretStatus("stock"), func(s secrets.SecretStatus) bool { return s.Sent != "" })
	})
	if got := r.get(t.Context()); got != "Bearer short" {
		t.Errorf("after its end the backend is sent %q, want what Envoy held", got)
	}
	orders(token("o101", 101))
	r.await(t, "Bearer o101")
}

func restart(t *testing.T, r *rig) {
	stop := r.load(t, 2)
	r.stop()
	for range 100 {
		if got := r.get(t.Context()); got != "Bearer o101" {
			t.Errorf("while nobody serves secrets the backend is sent %q", got)
		}
	}
	r.start()
	await(t, "Envoy to come back", func() bool { return len(r.secretStatus("orders")) > 0 })
	if got := r.get(t.Context()); got != "Bearer o101" {
		t.Errorf("before the first token the backend is sent %q", got)
	}
	r.publisher("orders", "Bearer")(token("o102", 1))
	r.await(t, "Bearer o102")
	seen := stop()
	delete(seen, "Bearer o101")
	delete(seen, "Bearer o102")
	if len(seen) > 0 {
		t.Errorf("callers were answered, or the backend was sent: %v", seen)
	}
}

func refused(t *testing.T, r *rig) {
	r.publisher("stock", "Bearer")(token("no-certificate", 1))
	await(t, "the refusal", func() bool {
		return slices.ContainsFunc(r.secretStatus("stock"), func(s secrets.SecretStatus) bool {
			return s.Refused == tokens.FingerprintOf("no-certificate") && s.Reason != ""
		})
	})
}

// secretStatus returns what is known of a credential's secret.
func (r *rig) secretStatus(credential string) []secrets.SecretStatus {
	var list []secrets.SecretStatus
	for _, node := range r.Status() {
		for _, secret := range node.Secrets {
			if secret.Credential == credential {
				list = append(list, secret)
			}
		}
	}
	return list
}

// BenchmarkPush measures the time from the publication of a token to the first
// request that carries it, and until all of eight busy callers have it.
func BenchmarkPush(b *testing.B) {
	const callers = 8
	r := startRig(b, envoytest.Binaries()[0], "GRPC", "--concurrency", "4")
	orders := r.publisher("orders", "")
	var firsts, alls []time.Duration
	for i := range b.N {
		value := fmt.Sprint("o", i)
		arrived := make(chan struct{}, callers)
		for range callers {
			go func() {
				for b.Context().Err() == nil && r.get(b.Context()) != value {
				}
				arrived <- struct{}{}
			}()
		}
		begun := time.Now()
		orders(token(value, uint64(i)+1))
		<-arrived
		firsts = append(firsts, time.Since(begun))
		for range callers - 1 {
			<-arrived
		}
		alls = append(alls, time.Since(begun))
	}
	for name, times := range map[string][]time.Duration{"first": firsts, "all": alls} {
		slices.Sort(times)
		b.ReportMetric(float64(times[len(times)/2].Microseconds()), "µs-to-"+name+"-p50")
		b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "µs-to-"+name+"-p99")
	}
}
