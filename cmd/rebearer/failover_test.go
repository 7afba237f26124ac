//go:build unix

package main

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/api"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/load"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/provider"
)

// series is a metric of a client of the credential orders.
func series(name, id, provider, more string) string {
	return fmt.Sprintf(`%s{client=%q,credential="orders",%sprovider=%q}`, name, id, more, provider)
}

// Two real providers, of which each is killed and started again, with all its
// tokens gone: no caller notices, and operators see who was asked.
func TestFailover(t *testing.T) {
	t.Parallel()
	newest().Require(t)
	east, west := oidcProvider(t, gatewayAndAPI()...), oidcProvider(t, gatewayAndAPI()...)
	// The backend has the provider's word for every token: none is good while
	// its provider is down.
	atEast, atWest := east.oidcIntrospection(), west.oidcIntrospection()
	atEast.strict, atWest.strict = true, true
	s := newStack(t, newest(), stackOptions{
		processes: true, backendURL: east.issuer, record: 10_000,
		valid:     func(token string) bool { return atEast.valid(token) || atWest.valid(token) },
		providers: []string{fmt.Sprintf("west: {issuer: %q}", west.issuer)},
		orders:    fmt.Sprintf("{clients: [{provider: backend, id: %[1]q, secret_file: secret}, {provider: west, id: %[1]q, secret_file: secret}]}", gatewayID),
	})
	issued := func(provider string) float64 {
		return s.metric(t, series("rebearer_client_requests_total", gatewayID, provider, `outcome="ok",`))
	}
	failures := func(provider string) float64 {
		return s.metric(t, series("rebearer_client_failures", gatewayID, provider, ""))
	}
	requests := s.traffic(t, load.Config{Connections: 16, Rate: 200})
	requests.awaitStatus(t, http.StatusOK, 100)
	if got := issued("backend"); got != 1 || issued("west") != 0 {
		t.Errorf("the first provider issued %v tokens, the second %v; want 1 and 0", got, issued("west"))
	}

	east.kill(t)
	await(t, "a token from the second provider", func() bool { return issued("west") > 0 })
	requests.awaitStatus(t, http.StatusOK, 100)
	if line := s.clients(t, "orders")["backend"]; len(line) < 9 || line[3] == "closed" || line[4] != "false" || line[5] == "0" {
		t.Errorf("the line of a client whose provider is down: %q", line)
	}
	if failures("backend") == 0 {
		t.Error("the metrics do not show that the first client fails")
	}

	east.start(t)
	requests.awaitStatus(t, http.StatusOK, 100)
	before := issued("backend")
	west.kill(t)
	await(t, "a token from the first provider again", func() bool { return issued("backend") > before })
	requests.awaitStatus(t, http.StatusOK, 100)
	west.start(t)
	for provider, line := range s.clients(t, "orders") {
		if line[3] != "closed" || line[4] != "false" || line[5] != "0" {
			t.Errorf("the line of the client at %s, which is well: %q", provider, line)
		}
	}

	// One after the other, as in an upgrade.
	for _, p := range []*realProvider{east, west} {
		p.kill(t)
		p.start(t)
		requests.awaitStatus(t, http.StatusOK, 100)
	}
	got := requests.end()
	t.Logf("%d requests, %d failed %v, refused by the backend %d, tokens from east %v, from west %v, retried p50 %v max %v",
		got.Requests, got.Failed(), got.ByStatus, s.api.Counts().Rejected, issued("backend"), issued("west"),
		got.Retried.Quantile(0.5), got.Retried.Max())
	if got.Failed() > 0 {
		t.Errorf("%d of %d requests failed: %q", got.Failed(), got.Requests, got.Failures)
	}
	for _, provider := range []string{"backend", "west"} {
		if refused := s.metric(t, series("rebearer_client_refused", gatewayID, provider, "")); refused != 0 {
			t.Errorf("the alarm is raised for %s, which was only down", provider)
		}
	}
	s.checkLogs(t)
}

// A client with a wrong secret raises the alarm, is left alone for long, and costs
// callers nothing while there is another.
func TestWrongSecret(t *testing.T) {
	t.Parallel()
	other, _ := newProvider(t, provider.Opaque, provider.Client{ID: "wrong", Secret: "right-secret"})
	s := newStack(t, newest(), stackOptions{
		rejection: api.Challenge,
		providers: []string{fmt.Sprintf("other: {issuer: %q}", other.Issuer())},
		orders:    fmt.Sprintf("{clients: [{provider: other, id: wrong, secret_file: secret}, {provider: backend, id: %q, secret_file: secret}]}", gatewayID),
	})
	const restarts = 4
	for range restarts {
		s.ask(t).want(t, http.StatusOK)
		s.restart(t)
	}
	s.ask(t).want(t, http.StatusOK)
	s.wantMetrics(t, map[string]float64{
		series("rebearer_client_refused", "wrong", "other", ""):                                                      1,
		series("rebearer_client_refused", gatewayID, "backend", ""):                                                  0,
		series("rebearer_client_requests_total", gatewayID, "backend", `outcome="ok",`):                              restarts + 1,
		`rebearer_token_requests_total{outcome="ok",provider="backend"}`:                                             restarts + 1,
		fmt.Sprintf(`rebearer_client_breaker{client="wrong",credential="orders",provider="other",state=%q}`, "open"): 1,
	})
	if asked := other.Counts().TokenRequests; asked != 1 {
		t.Errorf("the provider that refuses our client was asked %d times, want 1", asked)
	}
	line := s.clients(t, "orders")["other"]
	if len(line) < 9 || line[4] != "true" || !strings.Contains(strings.Join(line, " "), "invalid_client") {
		t.Errorf("the line of the refused client: %q", line)
	}
	if !strings.Contains(s.logs.String(), "a provider refuses our client") {
		t.Error("the log does not say that a client is refused")
	}
	s.checkLogs(t)
}

// stuck is a provider that takes connections and never answers.
func stuck(t testing.TB) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", anyPort)
	if err != nil {
		t.Fatal(err)
	}
	var taking sync.WaitGroup
	taking.Go(func() {
		var taken []net.Conn
		for {
			conn, err := l.Accept()
			if err != nil {
				break
			}
			taken = append(taken, conn)
		}
		for _, conn := range taken {
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		taking.Wait()
	})
	return "http://" + l.Addr().String()
}

// A provider that takes connections and never answers holds up nobody but those
// who need a token from it and from nobody else.
func TestStuckProvider(t *testing.T) {
	t.Parallel()
	s := newStack(t, newest(), stackOptions{
		notReady:  true,
		providers: []string{fmt.Sprintf("stuck: {token_url: %q, timeout: 10s}", stuck(t)+"/token")},
		credentials: []string{
			"lost: {clients: [{provider: stuck, id: gateway, secret_file: secret}]}",
			"saved: {clients: [{provider: stuck, id: gateway, secret_file: secret}, {provider: backend, id: gateway, secret_file: secret}]}",
		},
		policies: []string{"lost: {callers: [shop], credential: lost}", "saved: {callers: [shop], credential: saved}"},
	})
	lost := s.traffic(t, load.Config{URL: "/lost/", Connections: 16})
	requests := s.traffic(t, load.Config{Connections: 4})
	requests.awaitStatus(t, http.StatusOK, 100)
	if got := lost.Snapshot(); got.Requests > 0 {
		t.Errorf("a hundred requests took longer than the stuck provider's timeout: %v", got.ByStatus)
	}
	for range 3 {
		s.send(t, http.MethodGet, "/saved/", nil).want(t, http.StatusOK)
	}
	if got := requests.end(); got.Failed() > 0 {
		t.Errorf("%d of %d requests failed: %q", got.Failed(), got.Requests, got.Failures)
	}
	if got := s.metric(t, `rebearer_client_requests_total{client="gateway",credential="saved",outcome="failed",provider="stuck"}`); got != 1 {
		t.Errorf("the stuck provider was waited for %v times, want 1", got)
	}
}

// busy is a token endpoint that asks to be left alone once, and then gives tokens.
type busy struct {
	mu         sync.Mutex
	retryAfter string
	asked      []time.Time
}

func (b *busy) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = append(b.asked, time.Now())
	if len(b.asked) == 1 {
		w.Header().Set("Retry-After", b.retryAfter)
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprint(w, `{"access_token": "patience", "token_type": "Bearer", "expires_in": 3600}`)
}

func (b *busy) times() []time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]time.Time(nil), b.asked...)
}

// A provider that says when to come again (Retry-After) is left alone until then,
// whoever asks for tokens, and callers are told; but not for as long as it likes.
func TestBusyProvider(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T, retryAfter string) (*stack, *busy) {
		t.Helper()
		b := &busy{retryAfter: retryAfter}
		url := serve(t, func(string) http.Handler { return b }).URL()
		return newStack(t, newest(), stackOptions{
			valid: func(token string) bool { return token == "patience" }, backendURL: url,
			orders:    "{clients: [{provider: busy, id: gateway, secret_file: secret}]}",
			providers: []string{fmt.Sprintf("busy: {token_url: %q}", url)},
		}), b
	}
	t.Run("for a moment", func(t *testing.T) {
		t.Parallel()
		const wait = 2 * time.Second
		s, b := start(t, "2")
		requests := s.traffic(t, load.Config{Connections: 8})
		requests.awaitStatus(t, http.StatusOK, 10)
		if got := requests.end(); got.Failed() != got.ByStatus[http.StatusServiceUnavailable] {
			t.Errorf("%d failed: %v", got.Failed(), got.ByStatus)
		}
		asked := b.times()
		if len(asked) != 2 || asked[1].Sub(asked[0]) < wait {
			t.Errorf("asked at %v, want twice with %v between", asked, wait)
		}
	})
	t.Run("for too long", func(t *testing.T) {
		t.Parallel()
		s, b := start(t, "86400")
		for range 10 {
			a := s.ask(t)
			a.wantUnavailable(t)
			after, err := time.ParseDuration(a.header.Get("Retry-After") + "s")
			if err != nil || after <= 0 || after > 5*time.Minute {
				t.Errorf("Retry-After: %v, error %v; want at most five minutes", after, err)
			}
		}
		if asked := b.times(); len(asked) != 1 {
			t.Errorf("the provider was asked %d times, want 1", len(asked))
		}
	})
}
