package main

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/api"
)

// overOneConnection returns a client whose requests all share one connection,
// like those of a load balancer or a gRPC caller.
func overOneConnection() *http.Client {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: p}}
}

// crowd sends requests to the paths, some to each at a time, for as long as is
// said, and returns how often each was answered how: "PATH STATUS".
func (s *stack) crowd(t testing.TB, lasts time.Duration, paths ...string) map[string]int {
	t.Helper()
	client := overOneConnection()
	defer client.CloseIdleConnections()
	var (
		mu      sync.Mutex
		answers = map[string]int{}
		callers sync.WaitGroup
	)
	end := time.Now().Add(lasts)
	for _, path := range slices.Concat(paths, paths, paths, paths, paths, paths) {
		callers.Go(func() {
			for time.Now().Before(end) && s.envoy.Alive() {
				got := s.once(t, client, path)
				mu.Lock()
				answers[path+" "+got]++
				mu.Unlock()
			}
		})
	}
	callers.Wait()
	return answers
}

// once sends one request and returns its status, or why there is none.
func (s *stack) once(t testing.TB, client *http.Client, path string) string {
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path, nil)
	if err != nil {
		return err.Error()
	}
	request.Header.Set("Authorization", "Bearer "+s.token)
	response, err := client.Do(request)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err.Error()
	}
	return fmt.Sprint(response.StatusCode)
}

// Large answers fill the buffer of a connection that many requests share, while
// others are refused, and while a provider restarts: Envoy lives, and answers as it
// should. It would crash where a refusal is held meanwhile in the router's own
// filters.
func TestSharedConnection(t *testing.T) {
	const large = "/large"
	tests := []struct {
		name      string
		rejection api.Rejection
		paths     []string
		restarts  int
		want      []string
	}{
		{"real 403s", api.Challenge, []string{large, api.ForbiddenPath}, 0, []string{large + " 200", api.ForbiddenPath + " 403"}},
		{"restarts, 401", api.Challenge, []string{large, "/"}, 2, []string{large + " 200", "/ 200"}},
		{"restarts, 403", api.BareForbidden, []string{large, "/"}, 2, []string{large + " 200", "/ 200"}},
	}
	newest().Require(t)
	for _, tt := range tests {
		for _, w := range ways(t, newest()) {
			t.Run(fmt.Sprintf("%s, %v", tt.name, w), func(t *testing.T) {
				var s *stack
				s = newStack(t, newest(), stackOptions{way: w, rejection: tt.rejection, wrap: func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if r.URL.Path == large && s.backend.Valid(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) {
							_, _ = w.Write(make([]byte, 3<<20))
							return
						}
						next.ServeHTTP(w, r)
					})
				}})
				const every = 1500 * time.Millisecond
				var restarting sync.WaitGroup
				restarting.Go(func() { s.restarts(t, tt.restarts, every) })
				answers := s.crowd(t, time.Duration(max(tt.restarts, 1)+1)*every, tt.paths...)
				restarting.Wait()
				t.Logf("%v, %d token requests", answers, s.backend.Counts().TokenRequests)
				if !s.envoy.Alive() {
					t.Fatal("Envoy died")
				}
				for answer, n := range answers {
					if !slices.Contains(tt.want, answer) {
						t.Errorf("%d times %s, want %q only", n, answer, tt.want)
					}
				}
			})
		}
	}
}
