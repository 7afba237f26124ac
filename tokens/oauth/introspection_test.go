package oauth_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

const callersToken = "caller.token+/canary"

func newIntrospector(t *testing.T, address string, cfg oauth.ClientConfig) *oauth.Client {
	t.Helper()
	return newClient(t, newProvider(t, oauth.ProviderConfig{Name: "shop", IntrospectionURL: address}), cfg)
}

func newClient(t *testing.T, provider *oauth.Provider, cfg oauth.ClientConfig) *oauth.Client {
	t.Helper()
	client, err := oauth.NewClient(provider, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func testClient() oauth.ClientConfig {
	return oauth.ClientConfig{ID: "gate:way", Secret: func() (tokens.Secret, error) { return testSecret, nil }}
}

// What the endpoint may answer. An error never says anything about the token;
// permanent ones ask for a change of the configuration.
func TestIntrospectionAnswers(t *testing.T) {
	t.Parallel()
	const active, inactive outcome = "active", "inactive"
	tests := []struct {
		name   string
		status int
		body   string
		want   outcome
		code   string
	}{
		{name: "active", status: 200, body: `{"active":true,"sub":"a"}`, want: active},
		{name: "inactive", status: 200, body: `{"active":false}`, want: inactive},
		{name: "inactive with members", status: 200, body: `{"active":false,"sub":"canary"}`, want: inactive},
		{name: "active as text", status: 200, body: `{"active":"true"}`, want: transient},
		{name: "active as a number", status: 200, body: `{"active":1}`, want: transient},
		{name: "active null", status: 200, body: `{"active":null}`, want: transient},
		{name: "active in another case", status: 200, body: `{"Active":true}`, want: transient},
		{name: "active twice", status: 200, body: `{"active":false,"active":true}`, want: transient},
		{name: "active twice, once in disguise", status: 200, body: `{"\u0061ctive":false,"active":true}`, want: transient},
		{name: "another member twice", status: 200, body: `{"active":true,"sub":"a","sub":"b"}`, want: transient},
		{name: "a member twice deep inside", status: 200, body: `{"active":true,"a":[{"b":1,"b":2}]}`, want: transient},
		{name: "more after it", status: 200, body: `{"active":true}{"active":false}`, want: transient},
		{name: "not UTF-8", status: 200, body: "{\"active\":true,\"sub\":\"\xff\"}", want: transient},
		{name: "a list", status: 200, body: `[]`, want: transient},
		{name: "a JWT", status: 200, body: `eyJhbGciOiJub25lIn0.eyJhY3RpdmUiOnRydWV9.`, want: transient},
		{name: "nothing", status: 200, want: transient},
		{name: "too large", status: 200, body: `{"active":true,"x":"` + strings.Repeat("x", 64<<10) + `"}`, want: transient},
		{name: "201", status: 201, body: `{"active":true}`, want: transient},
		{name: "204", status: 204, want: transient},
		{name: "redirect", status: 307, body: `{"active":true}`, want: permanent},
		{name: "our client is unknown", status: 401, body: `{"error":"invalid_client"}`, want: permanent, code: "invalid_client"},
		{name: "plain 401", status: 401, want: transient},
		{name: "403", status: 403, body: `{"active":false}`, want: transient},
		{name: "404", status: 404, body: `canary`, want: transient},
		{name: "429", status: 429, body: `{"error":"invalid_request"}`, want: transient, code: "invalid_request"},
		{name: "503", status: 503, body: `{"active":false}`, want: transient},
		{name: "kind of token", status: 400, body: `{"error":"unsupported_token_type"}`, want: permanent, code: "unsupported_token_type"},
		{name: "bad request", status: 400, body: `{"error":"invalid_request","error_description":"canary"}`, want: permanent, code: "invalid_request"},
		{name: "unknown code", status: 400, body: `{"error":"canary"}`, want: transient},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := newAuthorizationServer(t, (*httptest.Server).Start)
			server.handle("/introspect", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "/elsewhere")
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.body))
			})
			answer, err := newIntrospector(t, server.URL+"/introspect", testClient()).Introspect(t.Context(), callersToken)
			got := outcomeOf(err)
			switch {
			case err == nil && answer.Active:
				got = active
			case err == nil:
				got = inactive
			}
			if got != tt.want {
				t.Errorf("got %s (%v), want %s", got, err, tt.want)
			}
			if (answer.Members != nil) != answer.Active {
				t.Errorf("got members %v", answer.Members)
			}
			if err != nil {
				mustNotLeak(t, err, "canary", callersToken)
			}
			var refused *oauth.ResponseError
			if errors.As(err, &refused) && (refused.Status != tt.status || refused.Code != tt.code) {
				t.Errorf("got %+v", refused)
			}
			if tt.status == 429 && (refused == nil || refused.RetryAfter() != 7*time.Second) {
				t.Errorf("got Retry-After of %+v", refused)
			}
			if tt.code == "unsupported_token_type" && !strings.Contains(err.Error(), "configuration") {
				t.Errorf("got %v, want it to say that the configuration is at fault", err)
			}
			if got := server.count("/elsewhere"); got != 0 {
				t.Error("a redirect was followed")
			}
		})
	}
}

// security.md D32: the token goes into the body, and nowhere else.
func TestIntrospectionRequest(t *testing.T) {
	t.Parallel()
	for _, method := range []oauth.AuthMethod{"", oauth.ClientSecretBasic, oauth.ClientSecretPost} {
		t.Run(string(method), func(t *testing.T) {
			t.Parallel()
			type seen struct{ Method, Query, Type, Accept, ID, Secret, Form string }
			got := make(chan seen, 1)
			server := newAuthorizationServer(t, (*httptest.Server).Start)
			server.handle("/introspect", func(w http.ResponseWriter, r *http.Request) {
				id, secret, _ := r.BasicAuth()
				body, _ := io.ReadAll(r.Body)
				got <- seen{r.Method, r.URL.RawQuery, r.Header.Get("Content-Type"), r.Header.Get("Accept"), id, secret, string(body)}
				serveText(`{"active":true}`)(w, r)
			})
			client := testClient()
			client.AuthMethod = method
			if _, err := newIntrospector(t, server.URL+"/introspect?tenant=a", client).Introspect(t.Context(), callersToken); err != nil {
				t.Fatal(err)
			}
			want := seen{
				Method: "POST", Query: "tenant=a", Type: "application/x-www-form-urlencoded", Accept: "application/json",
				ID: url.QueryEscape("gate:way"), Secret: url.QueryEscape(testSecret), Form: "token=" + url.QueryEscape(callersToken),
			}
			if method == oauth.ClientSecretPost {
				want.ID, want.Secret = "", ""
				want.Form = url.Values{"token": {callersToken}, "client_id": {"gate:way"}, "client_secret": {testSecret}}.Encode()
			}
			if diff := cmp.Diff(want, <-got); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

func TestIntrospectionEndpointIsDiscovered(t *testing.T) {
	t.Parallel()
	server := newAuthorizationServer(t, (*httptest.Server).Start)
	server.handle("/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		serveJSON(map[string]any{"issuer": server.URL, "introspection_endpoint": server.URL + "/i"})(w, r)
	})
	server.handle("/i", serveText(`{"active":true}`))
	introspector := newClient(t, newProvider(t, oauth.ProviderConfig{Issuer: server.URL}), testClient())
	if answer, err := introspector.Introspect(t.Context(), "a"); err != nil || !answer.Active {
		t.Errorf("got %+v, %v", answer, err)
	}
}

// A compressed answer is measured as it is read.
func TestIntrospectionBomb(t *testing.T) {
	t.Parallel()
	server := newAuthorizationServer(t, (*httptest.Server).Start)
	server.handle("/introspect", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		packed := gzip.NewWriter(w)
		_, _ = packed.Write([]byte(`{"active":true,"x":"` + strings.Repeat("x", 10<<20) + `"}`))
		_ = packed.Close()
	})
	if _, err := newIntrospector(t, server.URL+"/introspect", testClient()).Introspect(t.Context(), "a"); err == nil {
		t.Error("got no error")
	}
}

func TestIntrospectionTroubleOfOurOwn(t *testing.T) {
	t.Parallel()
	server := newAuthorizationServer(t, (*httptest.Server).Start)
	server.handle("/introspect", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newIntrospector(t, server.URL+"/introspect", testClient()).Introspect(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that left: got %v", err)
	}
	noSecret := testClient()
	noSecret.Secret = func() (tokens.Secret, error) { return "", errors.New("no such file") }
	if _, err := newIntrospector(t, server.URL+"/introspect", noSecret).Introspect(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no secret: got %v", err)
	}
	nowhere := newClient(t, newProvider(t, oauth.ProviderConfig{TokenURL: server.URL}), testClient())
	if _, err := nowhere.Introspect(t.Context(), "a"); err == nil {
		t.Error("no endpoint: got no error")
	}
}

// FuzzIntrospection looks for an answer that is taken for "active" though a
// plain reader would not read it so.
func FuzzIntrospection(f *testing.F) {
	for _, body := range []string{
		`{"active":true}`, `{"active":false}`, `{"active":"true"}`, `{"active":true,"active":false}`, `{"Active":true}`, `[]`, `<html/>`,
		`{"\u0061ctive":true}`, `{"active": true }`, "{\"active\":\ntrue}",
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		answer, err := oauth.ReadIntrospection(body)
		if err != nil || !answer.Active {
			return
		}
		var decoded map[string]any
		if err := json.Unmarshal(body, &decoded); err != nil || decoded["active"] != true {
			t.Errorf("%q was taken for active: %v", body, err)
		}
		if len(answer.Members) != len(decoded) {
			t.Errorf("got %d members, want %d", len(answer.Members), len(decoded))
		}
	})
}
