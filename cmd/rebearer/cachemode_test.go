package main

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/api"
)

// Where the cache is bypassed every request has a token of its own. That shows at
// the provider, in the metrics, and in what `rebearer validate` says about it.
func TestCacheBypass(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ credential, policy, warning string }{
		"by the credential": {"cache: bypass", "", "credentials.orders.cache: bypass asks the provider for a token for every request"},
		"by the policy":     {"", "cache: bypass", "policies.default.cache: bypass asks the provider for a token for every request"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const times = 5
			s := newStack(t, newest(), stackOptions{
				credential: tt.credential, policy: tt.policy, rejection: api.Challenge, record: 3 * times,
				policies: []string{"plain: {callers: [shop], credential: orders}"},
			})
			before := s.backend.Counts().TokenRequests
			for range times {
				s.ask(t).want(t, http.StatusOK)
				s.restart(t) // a token that nobody uses again may die
			}
			if asked := s.backend.Counts().TokenRequests - before; asked != times {
				t.Errorf("%d requests made %d token requests", times, asked)
			}
			seen := map[string]bool{}
			for _, try := range s.api.Tries() {
				seen[strings.Join(try.Authorization, ",")] = true
			}
			if len(seen) != times {
				t.Errorf("%d requests brought %d tokens", times, len(seen))
			}
			s.wantMetrics(t, map[string]float64{
				`rebearer_cache_requests_total{cache="backend_tokens",result="bypass"}`: times,
				`rebearer_token_uses_total{credential="orders"}`:                        times,
				`rebearer_tokens_issued_total{credential="orders",reason="bypass"}`:     times,
			})
			if said := rebearer(t, "validate", "--config", s.config); !strings.Contains(said, tt.warning) {
				t.Errorf("validate says %q, want %q", said, tt.warning)
			}
			s.checkLogs(t)
		})
	}
}

// Requests of the same instant may share a token, but each has one that was asked
// for after it came.
func TestCacheBypassAtOnce(t *testing.T) {
	t.Parallel()
	const times = 50
	s := newStack(t, newest(), stackOptions{policy: "cache: bypass", record: times})
	before := s.backend.Counts().TokenRequests
	var asking sync.WaitGroup
	for range times {
		asking.Go(func() { s.ask(t).want(t, http.StatusOK) })
	}
	asking.Wait()
	if asked := s.backend.Counts().TokenRequests - before; asked < 1 || asked > times {
		t.Errorf("%d requests made %d token requests", times, asked)
	}
	if got := s.metric(t, `rebearer_cache_requests_total{cache="backend_tokens",result="bypass"}`); got != times {
		t.Errorf("%v requests bypassed the cache, want %d", got, times)
	}
}
