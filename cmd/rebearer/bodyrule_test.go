package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/api"
)

// The bodies of a real API, both under 403: only the details differ.
const (
	saysDead       = `{"errors":[{"code":"Unauthorized","message":"Access to requested resource is denied.","details":"The access token you provided has expired."}]}`
	saysNotAllowed = `{"errors":[{"code":"Unauthorized","message":"Access to requested resource is denied.","details":""}]}`
)

// inBodies is the API with bodies that say what its rejections mean.
func inBodies(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		if answer.Code != http.StatusForbidden {
			w.WriteHeader(answer.Code)
			return
		}
		body := saysDead
		if answer.Header().Get(api.RealHeader) != "" {
			body = saysNotAllowed
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, body)
	})
}

// What a body says about the token is believed where a preset or rule is
// configured for it: a 403 that says dead is retried, one that says not allowed
// is the caller's, at the price of nothing.
func TestBodyRules(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		s := newStack(t, newest(), stackOptions{
			way: w, record: 10, wrap: inBodies, credential: `rejection: {presets: [amazon_sp_api]}`,
		})
		forbidden := func() {
			a := s.send(t, http.MethodGet, api.ForbiddenPath, nil)
			a.want(t, http.StatusForbidden)
			if a.body != saysNotAllowed {
				t.Errorf("body %q, want the backend's", a.body)
			}
		}
		forbidden()
		s.restart(t)
		s.ask(t).want(t, http.StatusOK)
		forbidden()
		s.wantTries(t, http.StatusForbidden, http.StatusForbidden, http.StatusOK, http.StatusForbidden)
		if asked := s.backend.Counts().TokenRequests; asked != 2 {
			t.Errorf("%d token requests, want 2", asked)
		}
		s.wantMetrics(t, map[string]float64{
			`rebearer_rejections_total{credential="orders",rule="preset:amazon_sp_api",verdict="dead"}`:        1,
			`rebearer_rejections_total{credential="orders",rule="preset:amazon_sp_api",verdict="not_allowed"}`: 2,
		})
	})
}
