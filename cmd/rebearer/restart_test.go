package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/load"
	"github.com/rebearer/rebearer/envoy/envoytest"
)

// The main job: a provider that voids every token it ever issued costs callers
// nothing, through a real Envoy.
func TestProviderRestart(t *testing.T) {
	const restarts = 5
	tests := []struct {
		name     string
		replicas int
		real     float64
		rate     float64 // requests a second; 0 means at full speed
		lost     float64 // share of the requests that may fail
		extra    int     // token requests beyond restarts + 1 for each replica
	}{
		{name: "full speed"},
		{name: "real 403s", real: 0.01, lost: 0.002, extra: 7},
		{name: "5 a second", rate: 5},
		{name: "5 a second, real 403s", rate: 5, real: 0.01, lost: 0.002, extra: 7},
		{name: "two replicas", replicas: 2},
		{name: "three replicas", replicas: 3},
		{name: "three replicas, real 403s", replicas: 3, real: 0.01, lost: 0.002, extra: 3 * 7},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.rate > 0 {
				t.Parallel() // these disturb nobody
			}
			eachEnvoy(t, func(t *testing.T, binary envoytest.Binary) {
				s := newStack(t, binary, stackOptions{replicas: tt.replicas, real: tt.real})
				requests := s.traffic(t, load.Config{Connections: 32, Rate: tt.rate})
				s.restarts(t, restarts, 2*time.Second)
				got := requests.end()

				asked := s.backend.Counts().TokenRequests
				t.Logf("%d requests, %d failed %v, %d real 403s, %d token requests, retried p50 %v max %v",
					got.Requests, got.Failed(), got.ByStatus, got.Real, asked, got.Retried.Quantile(0.5), got.Retried.Max())
				if share := float64(got.Failed()) / float64(got.Requests); share > tt.lost {
					t.Errorf("%d of %d requests failed, want at most %.1f %%: %q", got.Failed(), got.Requests, 100*tt.lost, got.Failures)
				}
				if want := max(tt.replicas, 1)*(restarts+1) + tt.extra; asked > want {
					t.Errorf("%d token requests, want at most %d", asked, want)
				}
				if d := s.api.Counts().Duplicates; d > 0 {
					t.Errorf("the backend saw %d requests with more than one authorization value", d)
				}
				s.checkLogs(t)
			})
		})
	}
}

// A backend that refuses everything costs the provider no more than the bucket.
func TestAlwaysForbidden(t *testing.T) {
	s := newStack(t, newest(), stackOptions{real: 1})
	requests := s.traffic(t, load.Config{Connections: 32})
	<-time.After(20 * time.Second)
	got := requests.end()
	asked := s.backend.Counts().TokenRequests
	t.Logf("%d requests, %v, %d token requests, p50 %v p99 %v", got.Requests, got.ByStatus, asked,
		got.Latencies.Quantile(0.5), got.Latencies.Quantile(0.99))
	if want := 1 + 5 + 2; asked > want {
		t.Errorf("%d token requests in 20 s, want at most %d", asked, want)
	}
	if got.Failed() > 0 || got.ByStatus[http.StatusForbidden] != got.Requests {
		t.Errorf("callers saw %v, want only the backend's own 403", got.ByStatus)
	}
}
