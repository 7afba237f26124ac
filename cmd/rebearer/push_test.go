package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/admin"
)

// askAdmin asks a replica's admin API.
func askAdmin(t testing.TB, address, path string, answer any) {
	t.Helper()
	response, err := http.Get("http://" + address + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
		t.Fatal(err)
	}
}

// awaitPushed waits until Envoy has the token that the credential holds, where it
// is to have any.
func (s *stack) awaitPushed(t testing.TB, credential string) {
	t.Helper()
	if s.way != pushed {
		return
	}
	await(t, "Envoy to have the token", func() bool {
		var list admin.List
		var envoys admin.Envoys
		askAdmin(t, s.admin[0], "/v1/credentials", &list)
		askAdmin(t, s.admin[0], "/v1/envoys", &envoys)
		for _, c := range list.Credentials {
			if c.Name == credential {
				return hold(envoys, credential, c.Fingerprint)
			}
		}
		return false
	})
}

// awaitSettled waits until every token is a second old: before, one is taken for
// good on a retried request, and is not tried on the word of a single rejection.
func (s *stack) awaitSettled(t testing.TB) {
	t.Helper()
	for _, address := range s.admin {
		await(t, "the tokens to be older", func() bool {
			var list admin.List
			askAdmin(t, address, "/v1/credentials", &list)
			return !slices.ContainsFunc(list.Credentials, func(c admin.Credential) bool {
				return c.Issued != nil && time.Since(*c.Issued) < 1100*time.Millisecond
			})
		})
	}
}

// hold reports whether there are Envoys and all that ask for a credential's token
// have the one with that fingerprint.
func hold(list admin.Envoys, credential, fingerprint string) bool {
	some := false
	for _, node := range list.Envoys {
		for _, secret := range node.Secrets {
			if secret.Credential != credential {
				continue
			}
			if secret.Acknowledged != fingerprint {
				return false
			}
			some = true
		}
	}
	return some
}

// Envoy refuses callers by itself, and never blames them for a token that
// rebearer does not have.
func TestPushRefusals(t *testing.T) {
	t.Parallel()
	newest().Require(t)
	if len(ways(t, newest())) == 1 {
		t.Skip("this Envoy is too old")
	}
	s := newStack(t, newest(), stackOptions{
		way: pushed, provider: "timeout: 1s", policy: "scopes: [orders.write]",
		before: func(s *stack) { setDown(t, s.backendPort, true) },
	})
	signed := func(claims map[string]any) func(*http.Request) {
		all := map[string]any{
			"iss": s.callers.Issuer(), "sub": "alice", "aud": audience, "exp": time.Now().Add(time.Hour).Unix(), "scope": "orders.write",
		}
		for name, value := range claims {
			all[name] = value
		}
		token, err := s.callers.Sign(all)
		if err != nil {
			t.Fatal(err)
		}
		return with("Authorization", "Bearer "+token)
	}
	tests := []struct {
		name   string
		caller func(*http.Request)
		want   int
	}{
		{"no token", without("Authorization"), http.StatusUnauthorized},
		{"not a token", with("Authorization", "Bearer nonsense"), http.StatusUnauthorized},
		{"expired", signed(map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}), http.StatusUnauthorized},
		{"of another issuer", signed(map[string]any{"iss": "https://idp.example"}), http.StatusUnauthorized},
		{"without the scope", signed(map[string]any{"scope": "orders.read"}), http.StatusForbidden},
	}
	for _, tt := range tests {
		s.send(t, http.MethodGet, "/", nil, tt.caller).want(t, tt.want)
	}
	good := signed(nil)
	for range 3 {
		s.send(t, http.MethodGet, "/", nil, good).wantUnavailable(t)
	}
	setDown(t, s.backendPort, false)
	await(t, "recovery", func() bool { return s.send(t, http.MethodGet, "/", nil, good).status == http.StatusOK })
	for _, tt := range tests {
		s.send(t, http.MethodGet, "/", nil, tt.caller).want(t, tt.want)
	}
	if seen := s.api.Counts(); seen.Requests != 1 {
		t.Errorf("%d requests reached the backend, want only the good one", seen.Requests)
	}
	s.checkLogs(t)
}
