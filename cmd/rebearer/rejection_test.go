package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/api"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/load"
	"github.com/rebearer/rebearer/tokens"
)

// rejections are the ways in which the API refuses a dead token.
func rejections() map[string]api.Rejection {
	return map[string]api.Rejection{"bare 403": api.BareForbidden, "bare 401": api.BareUnauthorized, "challenge": api.Challenge}
}

// eachRejection runs a test for all of them, every way.
func eachRejection(t *testing.T, test func(t *testing.T, w way, rejection api.Rejection)) {
	t.Helper()
	everyWay(t, func(t *testing.T, w way) {
		for name, rejection := range rejections() {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, w, rejection)
			})
		}
	})
}

// A dead token costs one more try, however the backend refuses it.
func TestDeadToken(t *testing.T) {
	eachRejection(t, func(t *testing.T, w way, rejection api.Rejection) {
		s := newStack(t, newest(), stackOptions{way: w, rejection: rejection, record: 10})
		s.ask(t).want(t, http.StatusOK)
		s.restart(t)
		s.ask(t).want(t, http.StatusOK)
		s.ask(t).want(t, http.StatusOK)
		refused := http.StatusUnauthorized
		if rejection == api.BareForbidden {
			refused = http.StatusForbidden
		}
		s.wantTries(t, http.StatusOK, refused, http.StatusOK, http.StatusOK)
		if asked := s.backend.Counts().TokenRequests; asked != 2 {
			t.Errorf("%d token requests, want 2", asked)
		}
		s.checkLogs(t)
	})
}

// wantTries fails the test if the backend answered other statuses.
func (s *stack) wantTries(t testing.TB, want ...int) {
	t.Helper()
	var got []int
	for _, try := range s.api.Tries() {
		got = append(got, try.Status)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the backend's answers (-want +got):\n%s", diff)
	}
}

// With a dead token and no provider, callers are told to come again where the
// backend's answer says that the token is dead. A bare 403 says nothing, and is
// passed on.
func TestDeadTokenWithoutProvider(t *testing.T) {
	eachRejection(t, func(t *testing.T, w way, rejection api.Rejection) {
		s := newStack(t, newest(), stackOptions{way: w, rejection: rejection, provider: "timeout: 1s"})
		s.ask(t).want(t, http.StatusOK)
		s.restart(t)
		setDown(t, s.backendPort, true)
		for range 3 {
			a := s.ask(t)
			if rejection == api.BareForbidden {
				a.want(t, http.StatusForbidden)
			} else {
				a.wantUnavailable(t)
			}
		}
		setDown(t, s.backendPort, false)
		await(t, "recovery", func() bool { return s.ask(t).status == http.StatusOK })
	})
}

// A real 403 among other answers reaches the caller as the backend wrote it, at
// the price of one token request.
func TestRealForbidden(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		s := newStack(t, newest(), stackOptions{way: w})
		others := s.traffic(t, load.Config{Rate: 50})
		for range 5 {
			a := s.send(t, http.MethodGet, api.ForbiddenPath, nil)
			a.want(t, http.StatusForbidden)
			if a.body != "forbidden\n" {
				t.Errorf("body %q, want the backend's", a.body)
			}
			for _, name := range []string{"Date", "X-Envoy-Upstream-Service-Time"} {
				a.header.Del(name)
			}
			want := http.Header{
				"Content-Length": {"10"}, "Content-Type": {"text/plain; charset=utf-8"},
				"Server": {"envoy"}, api.RealHeader: {"1"},
			}
			if diff := cmp.Diff(want, a.header); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
		}
		if got := others.end(); got.Failed() > 0 {
			t.Errorf("%d of %d other requests failed: %q", got.Failed(), got.Requests, got.Failures)
		}
		if asked := s.backend.Counts().TokenRequests; asked > 2 {
			t.Errorf("%d token requests, want one for the token and one to probe", asked)
		}
	})
}

// What may be done about a rejection is a setting.
func TestRejectionSettings(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		credential string
		method     string
		rejection  api.Rejection
		first      int // the status of the request with the dead token
		second     int // and of the one after it
	}{
		{
			name: "retry", credential: "rejection: {action: retry}", rejection: api.Challenge,
			first: http.StatusOK, second: http.StatusOK,
		},
		{
			name: "evict", credential: "rejection: {action: evict}", rejection: api.Challenge,
			first: http.StatusUnauthorized, second: http.StatusOK,
		},
		{
			name: "observe", credential: "rejection: {action: observe}", rejection: api.Challenge,
			first: http.StatusUnauthorized, second: http.StatusUnauthorized,
		},
		{
			name: "status that is none", credential: "rejection: {statuses: [401]}", rejection: api.BareForbidden,
			first: http.StatusForbidden, second: http.StatusForbidden,
		},
		{
			name: "method that may be retried", credential: "rejection: {methods: [GET, PUT]}", rejection: api.Challenge,
			method: http.MethodPut, first: http.StatusOK, second: http.StatusOK,
		},
		{
			name: "dead, method that may not be retried", credential: "rejection: {methods: [GET, PUT]}", rejection: api.Challenge,
			method: http.MethodPost, first: http.StatusServiceUnavailable, second: http.StatusOK,
		},
		{
			name: "unclear, method that may not be retried", credential: "rejection: {methods: [GET, PUT]}", rejection: api.BareForbidden,
			method: http.MethodPost, first: http.StatusForbidden, second: http.StatusOK,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			everyWay(t, func(t *testing.T, w way) {
				s := newStack(t, newest(), stackOptions{way: w, credential: tt.credential, rejection: tt.rejection})
				s.restart(t)
				first := s.send(t, tt.method, "/", []byte("order"))
				first.want(t, tt.first)
				if tt.first == http.StatusServiceUnavailable {
					first.wantUnavailable(t)
					if after := first.header.Get("Retry-After"); after != "0" {
						t.Errorf("Retry-After: %s, want 0", after)
					}
				}
				// Evicting waits for nobody.
				if tt.second == http.StatusOK {
					await(t, "a fresh token", func() bool { return s.events.count(tokens.EventIssued) == 2 })
					s.awaitPushed(t, "orders")
				}
				s.send(t, tt.method, "/", []byte("order")).want(t, tt.second)
				if s.events.count(tokens.EventRejected) == 0 && tt.first != http.StatusForbidden {
					t.Error("the rejection is not reported")
				}
			})
		})
	}
}

// A body that Envoy can hold is sent again as it was. A larger one is the
// caller's to send again.
func TestBodies(t *testing.T) {
	tests := []struct {
		name string
		size int
		tell int // the status of the request with the dead token
	}{
		{"none", 0, http.StatusOK},
		{"below the limit", 900 << 10, http.StatusOK},
		{"above the limit", 3 << 20, http.StatusServiceUnavailable},
	}
	everyWay(t, func(t *testing.T, w way) {
		s := newStack(t, newest(), stackOptions{way: w, rejection: api.Challenge, wrap: readFirst})
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				body := bytes.Repeat([]byte("0123456789abcdef"), tt.size/16)
				s.restart(t)
				a := s.send(t, http.MethodPost, api.EchoPath, body)
				a.want(t, tt.tell)
				if tt.tell == http.StatusServiceUnavailable {
					a.wantUnavailable(t)
					if after := a.header.Get("Retry-After"); after != "0" {
						t.Errorf("Retry-After: %s, want 0", after)
					}
					s.awaitPushed(t, "orders")
					a = s.send(t, http.MethodPost, api.EchoPath, body)
					a.want(t, http.StatusOK)
				}
				if diff := cmp.Diff(sum(body), a.echo(t).BodySHA256); diff != "" {
					t.Errorf("the body arrived changed (-want +got):\n%s", diff)
				}
			})
		}
	})
}

// readFirst reads a request before it is answered: one that is refused before it
// has ended is retried in the nested shape only.
func readFirst(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the caller has left
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

func sum(body []byte) string {
	s := sha256.Sum256(body)
	return hex.EncodeToString(s[:])
}

// echo reads what the API says it has got.
func (a answer) echo(t testing.TB) api.Echo {
	t.Helper()
	var e api.Echo
	if err := json.Unmarshal([]byte(a.body), &e); err != nil {
		t.Fatalf("%v: %q", err, a.body)
	}
	return e
}

// Whatever a caller claims about retries, it changes nothing.
func TestForgedHeaders(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		s := newStack(t, newest(), stackOptions{way: w, rejection: api.Challenge, record: 10})
		forged := []func(*http.Request){
			with("X-Rebearer-Retry", "dead"), with("X-Envoy-Attempt-Count", "7"),
			with("X-Envoy-Max-Retries", "9"), with("X-Envoy-Retry-On", "5xx,retriable-4xx"),
		}
		s.send(t, http.MethodGet, api.ForbiddenPath, nil, forged...).want(t, http.StatusForbidden)
		asked := s.backend.Counts().TokenRequests
		a := s.send(t, http.MethodGet, api.EchoPath, nil, forged...)
		a.want(t, http.StatusOK)
		headers := a.echo(t).Headers
		if w != nested && headers.Get("X-Envoy-Attempt-Count") == "1" {
			headers.Del("X-Envoy-Attempt-Count") // the router's own, which says the truth
		}
		for _, name := range []string{"X-Rebearer-Retry", "X-Envoy-Attempt-Count"} {
			if value := headers.Get(name); value != "" {
				t.Errorf("the backend sees %s: %s", name, value)
			}
		}
		if more := s.backend.Counts().TokenRequests - asked; more != 0 {
			t.Errorf("%d token requests for a request that was accepted", more)
		}
		s.restart(t)
		s.send(t, http.MethodGet, api.EchoPath, nil, forged...).want(t, http.StatusOK)
		s.wantTries(t, http.StatusForbidden, http.StatusForbidden, http.StatusOK, http.StatusUnauthorized, http.StatusOK)
	})
}
