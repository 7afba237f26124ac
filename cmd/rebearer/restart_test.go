package main

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/load"
	"github.com/rebearer/rebearer/envoy/envoytest"
	"github.com/rebearer/rebearer/tokens"
)

// bucket is how many token requests rejections may cost a replica beyond those
// that help, in the time of a run: the burst and what is refilled.
const bucket = 7

// stoodStill reports whether a retried request took so long that the token that
// waited for it did not count as just issued any more (a second): the machine
// stood still. Then each replica that such a request meets asks once more.
func stoodStill(got load.Result) bool { return got.Retried.Max() >= time.Second }

// The main job: a provider that voids every token it ever issued costs callers
// nothing, through a real Envoy.
func TestProviderRestart(t *testing.T) {
	const restarts = 5
	tests := []struct {
		name     string
		ways     []way // nil means all
		replicas int   // 0 means 1
		real     float64
		rate     float64 // requests a second; 0 means at full speed
		shared   bool    // all requests share an HTTP/2 connection
		lost     float64 // share of the requests that may fail
	}{
		{name: "full speed"},
		{name: "real 403s", ways: []way{nested, lean}, real: 0.01, lost: 0.002},
		{name: "real 403s, push", ways: []way{pushed}, real: 0.01, lost: 1},
		{name: "5 a second", rate: 5},
		{name: "5 a second, real 403s", ways: []way{nested, lean}, rate: 5, real: 0.01, lost: 0.002},
		{name: "two replicas", replicas: 2},
		{name: "three replicas", ways: []way{nested, lean}, replicas: 3},
		{name: "three replicas, real 403s", ways: []way{nested, lean}, replicas: 3, real: 0.01, lost: 0.002},
		{name: "three replicas, HTTP/2", ways: []way{lean}, replicas: 3, shared: true},
		{name: "real 403s, HTTP/2", ways: []way{lean}, real: 0.01, shared: true, lost: 0.002},
		{name: "many real 403s", ways: []way{lean}, real: 0.2, lost: 0.002},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.rate > 0 {
				t.Parallel() // these disturb nobody
			}
			eachWay(t, tt.ways, func(t *testing.T, binary envoytest.Binary, w way) {
				s := newStack(t, binary, stackOptions{way: w, replicas: tt.replicas, real: tt.real})
				requests := s.traffic(t, load.Config{Connections: 32, Rate: tt.rate, Shared: tt.shared})
				s.restarts(t, restarts, 2*time.Second)
				got := requests.end()

				asked := s.backend.Counts().TokenRequests
				t.Logf("%d requests, %d failed %v, %d real 403s, %d token requests", got.Requests, got.Failed(), got.ByStatus, got.Real, asked)
				s.logLatencies(t, got)
				if share := float64(got.Failed()) / float64(got.Requests); share > tt.lost {
					t.Errorf("%d of %d requests failed, want at most %.1f %%: %q", got.Failed(), got.Requests, 100*tt.lost, got.Failures)
				}
				each := restarts + 1
				if tt.real > 0 || stoodStill(got) {
					each += bucket
				}
				if want := max(tt.replicas, 1) * each; asked > want {
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

// An Envoy that stands still just after a restart costs no request either, and
// each replica at most one more token request: what comes back to it late is not
// given a token that may have died since.
func TestStandstill(t *testing.T) {
	const replicas = 3
	everyWay(t, func(t *testing.T, w way) {
		s := newStack(t, newest(), stackOptions{way: w, replicas: replicas})
		requests := s.traffic(t, load.Config{Connections: 32})
		requests.awaitStatus(t, http.StatusOK, 500)
		s.backend.SetDelay(500 * time.Millisecond) // which is when Envoy stops
		s.restart(t)
		await(t, "a rejection in each replica", func() bool { return s.backend.Counts().TokenRequests == 2*replicas })
		s.envoy.Pause(t)
		await(t, "fresh tokens", func() bool { return s.events.count(tokens.EventIssued) == 2*replicas })
		<-time.After(1200 * time.Millisecond)
		s.envoy.Resume(t)
		requests.awaitStatus(t, http.StatusOK, 500)
		got, asked := requests.end(), s.backend.Counts().TokenRequests
		t.Logf("%d requests, %d failed %v, %d token requests; the longest retry took %v", got.Requests, got.Failed(), got.ByStatus, asked, got.Retried.Max())
		if got.Failed() > 0 {
			t.Errorf("%d of %d requests failed: %q", got.Failed(), got.Requests, got.Failures)
		}
		if !stoodStill(got) {
			t.Errorf("no retried request met the standstill")
		}
		if want := 3 * replicas; asked > want {
			t.Errorf("%d token requests, want at most %d", asked, want)
		}
	}, nested, lean)
}

// logLatencies says what a retry costs, beside what the provider takes of that.
func (s *stack) logLatencies(t testing.TB, got load.Result) {
	t.Helper()
	const provider = `rebearer_token_request_seconds_%s{provider="backend"}`
	mean := s.metric(t, fmt.Sprintf(provider, "sum")) / s.metric(t, fmt.Sprintf(provider, "count"))
	t.Logf("requests p50 %v p99 %v; %d retried ones p50 %v p99 %v; the provider's answers took %v on average",
		got.Latencies.Quantile(0.5), got.Latencies.Quantile(0.99), got.Retried.Count(),
		got.Retried.Quantile(0.5), got.Retried.Quantile(0.99), time.Duration(mean*float64(time.Second)))
}
