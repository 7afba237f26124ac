package main

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/load"
)

// storm is a backend that refuses every token.
type storm struct {
	*stack

	way      way
	status   int
	refused  int // the status that callers are to see
	requests *traffic
}

// A backend that refuses everything, under full load, costs the provider no more
// than the bucket, however it refuses and whichever way the token travels.
func TestStorm(t *testing.T) {
	const (
		lasts    = 20 * time.Second
		coolDown = 10 * time.Second // the default
		burst    = 5
	)
	var storms []*storm
	for _, w := range ways(t, newest()) {
		for status, seen := range map[int]int{
			http.StatusForbidden:    http.StatusForbidden,
			http.StatusUnauthorized: http.StatusServiceUnavailable, // about our token, which is none of the caller's business
		} {
			refuse := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
			storms = append(storms, &storm{
				way: w, status: status, refused: seen,
				stack: newStack(t, newest(), stackOptions{way: w, wrap: func(http.Handler) http.Handler { return http.HandlerFunc(refuse) }}),
			})
		}
	}
	began := time.Now()
	for _, s := range storms {
		s.requests = s.traffic(t, load.Config{Connections: 8})
	}
	<-time.After(lasts)
	for _, s := range storms {
		name := fmt.Sprintf("%d, %v", s.status, s.way)
		got, asked := s.requests.end(), s.backend.Counts().TokenRequests
		t.Logf("%s: %d requests, %v, %d token requests, p50 %v p99 %v", name, got.Requests, got.ByStatus, asked,
			got.Latencies.Quantile(0.5), got.Latencies.Quantile(0.99))
		if want := 1 + burst + int(time.Since(began)/coolDown); asked > want {
			t.Errorf("%s: %d token requests, want at most %d", name, asked, want)
		}
		if got.ByStatus[s.refused] != got.Requests {
			t.Errorf("%s: callers saw %v, want %d only", name, got.ByStatus, s.refused)
		}
	}
}
