package load

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/api"
)

// run sends a load to handler until it has seen so many requests.
func run(t *testing.T, handler http.Handler, requests int, cfg Config) Result {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var seen atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if seen.Add(1) == int64(requests) { // before the answer, so that none is missed
			cancel()
		}
		handler.ServeHTTP(w, r)
	}))
	defer srv.Close()
	cfg.URL = srv.URL
	generator, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	result := generator.Run(ctx)
	if got := int(seen.Load()); result.Requests != got {
		t.Errorf("counted %d requests, the server %d", result.Requests, got)
	}
	return result
}

func TestAnswersAreCounted(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		switch requests.Add(1) % 4 {
		case 0:
			w.WriteHeader(http.StatusForbidden)
		case 1:
			w.Header().Set(api.RealHeader, "1")
			w.WriteHeader(http.StatusForbidden)
		case 2:
			w.Header().Set(api.RetriedHeader, "1")
			w.WriteHeader(http.StatusNoContent)
		}
	})
	result := run(t, handler, 40, Config{Connections: 1})
	want := map[int]int{200: 10, 204: 10, 403: 20}
	if diff := cmp.Diff(want, result.ByStatus); diff != "" {
		t.Errorf("by status (-want +got):\n%s", diff)
	}
	if result.Real != 10 || result.Failed() != 10 || result.Errors != 0 {
		t.Errorf("got %d real, %d failed, %d errors, want 10, 10, 0", result.Real, result.Failed(), result.Errors)
	}
	if len(result.Failures) != keptFailures || !strings.Contains(result.Failures[0], "403") {
		t.Errorf("got failures %q", result.Failures)
	}
	if result.Latencies.Count() != 40 || result.Retried.Count() != 10 || result.Elapsed <= 0 {
		t.Errorf("got %d latencies in %v", result.Latencies.Count(), result.Elapsed)
	}
}

func TestRequest(t *testing.T) {
	t.Parallel()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Method != http.MethodPut || string(body) != "body" || r.Header.Get("Authorization") != "Bearer abc" || r.Header.Get("X-Own") != "1" {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	result := run(t, handler, 20, Config{
		Method: http.MethodPut, Body: []byte("body"), Header: http.Header{"X-Own": {"1"}}, Connections: 4,
		Token: func(context.Context) (string, error) { return "abc", nil },
	})
	if result.Failed() != 0 {
		t.Errorf("got %q", result.Failures)
	}
}

func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	var opened atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var seen atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if seen.Add(1) == 100 {
			cancel()
		}
	}))
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	generator, err := New(Config{URL: srv.URL, Connections: 3})
	if err != nil {
		t.Fatal(err)
	}
	generator.Run(ctx)
	if got := opened.Load(); got > 3 {
		t.Errorf("got %d connections, want at most 3", got)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	t.Run("no answer", func(t *testing.T) {
		t.Parallel()
		handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_ = conn.Close()
			}
		})
		// POST, because net/http itself sends a broken GET again.
		result := run(t, handler, 5, Config{Connections: 1, Method: http.MethodPost})
		if result.Errors != result.Requests || result.Failed() != result.Requests || result.Latencies.Count() != 0 {
			t.Errorf("got %d errors, %d failed of %d", result.Errors, result.Failed(), result.Requests)
		}
	})
	t.Run("no token", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		generator, err := New(Config{URL: "http://127.0.0.1", Connections: 1, Token: func(context.Context) (string, error) {
			cancel()
			return "", errors.New("refused")
		}})
		if err != nil {
			t.Fatal(err)
		}
		result := generator.Run(ctx)
		if result.Errors != 1 || !strings.Contains(result.Failures[0], "refused") {
			t.Errorf("got %d errors: %q", result.Errors, result.Failures)
		}
	})
}

func TestRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		generator, err := New(Config{URL: "http://127.0.0.1", Rate: 50})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for i := range 3 {
			if !generator.turn(t.Context(), began) {
				t.Fatal("no turn")
			}
			if got, want := time.Since(began), time.Duration(i)*20*time.Millisecond; got != want {
				t.Errorf("request %d is sent after %v, want %v", i, got, want)
			}
		}
		time.Sleep(time.Second) // all connections wait
		if !generator.turn(t.Context(), began) {
			t.Fatal("no turn")
		}
		if got, want := time.Since(began), 1040*time.Millisecond; got != want {
			t.Errorf("a late request is sent after %v, want %v", got, want)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if generator.turn(ctx, began) {
			t.Error("a turn after the end")
		}
	})
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{
		"no URL":      {},
		"no host":     {URL: "/path"},
		"connections": {URL: "http://127.0.0.1", Connections: -1},
		"rate":        {URL: "http://127.0.0.1", Rate: -1},
		"timeout":     {URL: "http://127.0.0.1", Timeout: -1},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
