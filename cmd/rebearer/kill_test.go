package main

import (
	"net/http"
	"testing"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/load"
	"github.com/rebearer/rebearer/envoy/envoytest"
)

// Nothing passes unchecked while rebearer is dead, and no one needs to do
// anything about Envoy once it is back.
func TestKill(t *testing.T) {
	eachWay(t, []way{nested, lean}, func(t *testing.T, binary envoytest.Binary, w way) {
		s := newStack(t, binary, stackOptions{way: w, processes: true})
		requests := s.traffic(t, load.Config{Connections: 32})
		requests.awaitStatus(t, http.StatusOK, 500)

		s.processes[0].kill(t)
		requests.awaitStatus(t, http.StatusServiceUnavailable, 500)
		s.send(t, http.MethodGet, "/", nil, with("Authorization")).want(t, http.StatusServiceUnavailable)

		s.processes[0].start(t)
		requests.awaitStatus(t, http.StatusOK, 500)
		got, seen := requests.end(), s.api.Counts()
		t.Logf("%d requests, %v", got.Requests, got.ByStatus)
		if others := got.Requests - got.ByStatus[http.StatusOK] - got.ByStatus[http.StatusServiceUnavailable]; others > 0 {
			t.Errorf("%d answers were neither 200 nor 503: %v, %q", others, got.ByStatus, got.Failures)
		}
		if seen.Rejected > 0 {
			t.Errorf("%d requests reached the backend without a living token", seen.Rejected)
		}
		if seen.Requests != got.ByStatus[http.StatusOK] {
			t.Errorf("%d requests reached the backend, %d were answered 200", seen.Requests, got.ByStatus[http.StatusOK])
		}
		s.checkLogs(t)
	})
}

// While rebearer is dead Envoy goes on sending the token that it holds, and goes
// on checking callers. Once rebearer is back, it is told of the next token.
func TestKillPush(t *testing.T) {
	eachWay(t, []way{pushed}, func(t *testing.T, binary envoytest.Binary, w way) {
		s := newStack(t, binary, stackOptions{way: w, processes: true})
		requests := s.traffic(t, load.Config{Connections: 32})
		requests.awaitStatus(t, http.StatusOK, 500)

		s.processes[0].kill(t)
		requests.awaitStatus(t, http.StatusOK, 500)
		s.send(t, http.MethodGet, "/", nil, with("Authorization")).want(t, http.StatusUnauthorized)

		s.processes[0].start(t)
		awaitReady(t, s.processes[0].status)
		s.awaitPushed(t, "orders")
		requests.awaitStatus(t, http.StatusOK, 500)
		s.restart(t)
		await(t, "recovery", func() bool { return s.metric(t, "rebearer_recovery_seconds_count") > 0 })
		requests.awaitStatus(t, http.StatusOK, 500)
		got := requests.end()
		t.Logf("%d requests, %v, %d refused by the backend", got.Requests, got.ByStatus, s.api.Counts().Rejected)
		if got.Failed() > 0 {
			t.Errorf("%d of %d requests failed: %q", got.Failed(), got.Requests, got.Failures)
		}
		s.checkLogs(t)
	})
}

// A rolling restart of all replicas costs no request, nor does a provider's
// restart after each step.
func TestRollingRestart(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, binary envoytest.Binary, w way) {
		s := newStack(t, binary, stackOptions{way: w, processes: true, replicas: 2})
		requests := s.traffic(t, load.Config{Connections: 32})
		requests.awaitStatus(t, http.StatusOK, 500)
		for _, p := range s.processes {
			p.terminate(t)
			requests.awaitStatus(t, http.StatusOK, 500)
			p.start(t)
			awaitReady(t, p.status)
			requests.awaitStatus(t, http.StatusOK, 500)
			s.awaitSettled(t)
			s.restart(t)
			requests.awaitStatus(t, http.StatusOK, 500)
		}
		got := requests.end()
		t.Logf("%d requests, %v, %d token requests", got.Requests, got.ByStatus, s.backend.Counts().TokenRequests)
		if got.Failed() > 0 {
			t.Errorf("%d of %d requests failed: %q", got.Failed(), got.Requests, got.Failures)
		}
	})
}
