package oauth_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/tokens/oauth"
)

func TestRevocation(t *testing.T) {
	t.Parallel()
	const revoked, unsupported outcome = "revoked", "unsupported"
	tests := []struct {
		name   string
		status int
		body   string
		want   outcome
	}{
		{"done", 200, ``, revoked},
		{"done, with a body", 200, `<html>canary</html>`, revoked},
		{"done, with nothing", 204, ``, revoked},
		{"not this kind", 400, `{"error":"unsupported_token_type"}`, unsupported},
		{"not this kind, elsewhere", 503, `{"error":"unsupported_token_type"}`, unsupported},
		{"unknown client", 401, `{"error":"invalid_client"}`, permanent},
		{"another's token", 400, `{"error":"invalid_grant","error_description":"canary"}`, permanent},
		{"redirect", 307, ``, permanent},
		{"unknown code", 400, `{"error":"canary"}`, transient},
		{"accepted for later", 202, ``, transient},
		{"down", 503, `canary`, transient},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := make(chan seen, 1)
			server := newAuthorizationServer(t, (*httptest.Server).Start)
			server.handle("/revoke", func(w http.ResponseWriter, r *http.Request) {
				got <- see(r)
				w.Header().Set("Location", "/elsewhere")
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.body))
			})
			provider := newProvider(t, oauth.ProviderConfig{Name: "shop", TokenURL: server.URL + "/t", RevocationURL: server.URL + "/revoke"})
			err := newSourceAt(t, provider, testClient(), oauth.TokenConfig{}).Revoke(t.Context(), 0, callersToken)
			outcome := outcomeOf(err)
			switch {
			case err == nil:
				outcome = revoked
			case errors.Is(err, errors.ErrUnsupported):
				outcome = unsupported
			}
			if outcome != tt.want {
				t.Errorf("got %s (%v), want %s", outcome, err, tt.want)
			}
			var response *oauth.ResponseError
			if err != nil {
				mustNotLeak(t, err)
			}
			if tt.want == transient && (!errors.As(err, &response) || response.RetryAfter() != 7*time.Second) {
				t.Errorf("got %v, want Retry-After", err)
			}
			want := seen{ID: url.QueryEscape("gate:way"), Secret: url.QueryEscape(testSecret), Form: url.Values{"token": {callersToken}}}
			if diff := cmp.Diff(want, <-got); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
			if server.count("/elsewhere") != 0 {
				t.Error("a redirect was followed")
			}
		})
	}
}

// The endpoint is that of the metadata, and there may be none.
func TestRevocationEndpoint(t *testing.T) {
	t.Parallel()
	server := newAuthorizationServer(t, (*httptest.Server).Start)
	metadata := map[string]any{"issuer": server.URL, "revocation_endpoint": server.URL + "/revoke"}
	server.handle("/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) { serveJSON(metadata)(w, r) })
	server.handle("/revoke", serveText(""))
	client := newClient(t, newProvider(t, oauth.ProviderConfig{Issuer: server.URL}), testClient())
	if err := client.Revoke(t.Context(), "a"); err != nil || server.count("/revoke") != 1 {
		t.Errorf("got %v, %d requests", err, server.count("/revoke"))
	}

	delete(metadata, "revocation_endpoint")
	for name, cfg := range map[string]oauth.ProviderConfig{
		"none in the metadata": {Issuer: server.URL},
		"none configured":      {TokenURL: server.URL + "/t"},
	} {
		if err := newClient(t, newProvider(t, cfg), testClient()).Revoke(t.Context(), "a"); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: got %v, want ErrUnsupported", name, err)
		}
	}
	server.handle("/.well-known/openid-configuration", refuse(http.StatusServiceUnavailable, ""))
	down := newClient(t, newProvider(t, oauth.ProviderConfig{Issuer: server.URL}), testClient())
	if err := down.Revoke(t.Context(), "a"); err == nil || errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("metadata down: got %v, want a transient error", err)
	}
}

// What a person gave us is not put at risk by the revocation of what came of it.
func TestRevocationSparesGivenTokens(t *testing.T) {
	t.Parallel()
	server := newAuthorizationServer(t, (*httptest.Server).Start)
	server.handle("/revoke", serveText(""))
	provider := newProvider(t, oauth.ProviderConfig{TokenURL: server.URL + "/t", RevocationURL: server.URL + "/revoke"})
	source := newSourceAt(t, provider, testClient(), oauth.TokenConfig{Grant: oauth.RefreshToken, Store: &memoryStore{}})
	if err := source.Revoke(t.Context(), 0, "a"); !errors.Is(err, errors.ErrUnsupported) || server.count("/revoke") != 0 {
		t.Errorf("got %v, %d requests; want ErrUnsupported and none", err, server.count("/revoke"))
	}
}
