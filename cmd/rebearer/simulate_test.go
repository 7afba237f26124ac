package main

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/api"
)

// A team can see the retry work: the next request meets a dead token, and its
// caller does not notice.
func TestSimulate(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		s := newStack(t, newest(), stackOptions{way: w, rejection: api.Challenge, record: 10, admin: "allow_simulation: true"})
		s.ask(t).want(t, http.StatusOK)
		rebearer(t, "simulate", "void", "orders", "--admin", s.admin[0])
		s.awaitPushed(t, "orders")
		s.ask(t).want(t, http.StatusOK)
		s.ask(t).want(t, http.StatusOK)
		s.wantTries(t, http.StatusOK, http.StatusUnauthorized, http.StatusOK, http.StatusOK)
		s.wantMetrics(t, map[string]float64{`rebearer_retries_total{credential="orders",outcome="accepted"}`: 1})
	})
}

// It has to be allowed.
func TestSimulateRefused(t *testing.T) {
	t.Parallel()
	s := newStack(t, newest(), stackOptions{})
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"simulate", "void", "orders", "--admin", s.admin[0]}, &stdout, &stderr)
	if code != exitFailure || !strings.Contains(stderr.String(), "allow_simulation") {
		t.Errorf("exit code %d: %s", code, &stderr)
	}
	s.ask(t).want(t, http.StatusOK)
	if seen := s.api.Counts(); seen.Rejected > 0 {
		t.Errorf("%d requests with a dead token", seen.Rejected)
	}
}
