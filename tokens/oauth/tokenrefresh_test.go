package oauth_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

// memoryStore is a store of one refresh token.
type memoryStore struct{ token tokens.Secret }

func (s *memoryStore) Use(ctx context.Context, exchange func(context.Context, tokens.Secret) (tokens.Grant, error)) (tokens.Grant, error) {
	return exchange(ctx, s.token)
}

// rotating serves a provider that takes each refresh token once, "r0" first, and
// keeps what it was asked with.
type rotating struct {
	mu   sync.Mutex
	next int
	used []string
}

func (p *rotating) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	token := r.PostFormValue("refresh_token")
	p.used = append(p.used, token)
	if token != refreshName(p.next) {
		refuse(http.StatusBadRequest, "invalid_grant")(w, r)
		return
	}
	p.next++
	serveJSON(map[string]any{"access_token": "a" + token, "refresh_token": refreshName(p.next), "refresh_expires_in": 1800})(w, r)
}

func refreshName(n int) string { return "r" + strings.Repeat("x", n) }

func refuse(status int, code string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(`{"error":"` + code + `","error_description":"canary"}`))
	}
}

// A refresh token is used before a new grant is asked for.
func TestRefreshBeforeNew(t *testing.T) {
	t.Parallel()
	answer := func(values map[string]any) http.HandlerFunc {
		values["access_token"] = "refreshed"
		return serveJSON(values)
	}
	fresh := tokens.Grant{AccessToken: "new", RefreshToken: "n"}
	tests := []struct {
		name    string
		refresh http.HandlerFunc
		want    tokens.Grant
		outcome outcome
	}{
		{"rotated", answer(map[string]any{"refresh_token": "b"}), tokens.Grant{AccessToken: "refreshed", RefreshToken: "b"}, gotToken},
		{"kept", answer(map[string]any{}), tokens.Grant{AccessToken: "refreshed", RefreshToken: "a"}, gotToken},
		{
			"with a lifetime", answer(map[string]any{"refresh_token": "b", "refresh_expires_in": 1800}),
			tokens.Grant{AccessToken: "refreshed", RefreshToken: "b", RefreshExpiresIn: 30 * time.Minute},
			gotToken,
		},
		{
			"with a lifetime as text", answer(map[string]any{"refresh_token": "b", "refresh_expires_in": "1800"}),
			tokens.Grant{AccessToken: "refreshed", RefreshToken: "b", RefreshExpiresIn: 30 * time.Minute},
			gotToken,
		},
		{
			"with a lifetime by its other name", answer(map[string]any{"refresh_token": "b", "refresh_token_expires_in": "86399"}),
			tokens.Grant{AccessToken: "refreshed", RefreshToken: "b", RefreshExpiresIn: 86399 * time.Second},
			gotToken,
		},
		{
			"offline, without end", answer(map[string]any{"refresh_token": "b", "refresh_expires_in": 0}),
			tokens.Grant{AccessToken: "refreshed", RefreshToken: "b"},
			gotToken,
		},
		{
			"with a strange lifetime", answer(map[string]any{"refresh_token": "b", "refresh_expires_in": "never"}),
			tokens.Grant{AccessToken: "refreshed", RefreshToken: "b"},
			gotToken,
		},
		{"with one that is none", answer(map[string]any{"refresh_token": "b\n"}), tokens.Grant{AccessToken: "refreshed"}, gotToken},
		{"no longer taken", refuse(400, "invalid_grant"), fresh, gotToken},
		{"not for this client", refuse(400, "unauthorized_client"), fresh, gotToken},
		{"for more than was granted", refuse(400, "invalid_scope"), fresh, gotToken},
		{"unknown client", refuse(401, "invalid_client"), tokens.Grant{}, permanent},
		{"down", refuse(503, "invalid_grant"), tokens.Grant{}, transient},
		{"too many", refuse(429, "invalid_grant"), tokens.Grant{}, transient},
		{"redirected", http.RedirectHandler("/elsewhere", http.StatusTemporaryRedirect).ServeHTTP, tokens.Grant{}, permanent},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := newAuthorizationServer(t, (*httptest.Server).Start)
			server.handle("/token", func(w http.ResponseWriter, r *http.Request) {
				if r.PostFormValue("grant_type") == "refresh_token" {
					tt.refresh(w, r)
					return
				}
				serveJSON(map[string]any{"access_token": "new", "refresh_token": "n"})(w, r)
			})
			source := newSource(t, server.URL+"/token", testClient(), oauth.TokenConfig{})
			got, err := source.Grant(t.Context(), tokens.GrantRequest{Refresh: "a"})
			if outcomeOf(err) != tt.outcome {
				t.Errorf("got %s (%v), want %s", outcomeOf(err), err, tt.outcome)
			}
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b tokens.Secret) bool { return a.Reveal() == b.Reveal() })); diff != "" {
				t.Errorf("grant (-want +got):\n%s", diff)
			}
		})
	}
}
