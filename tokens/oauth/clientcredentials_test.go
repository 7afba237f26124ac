package oauth_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

const testSecret = "s3cr3t/+ canary"

func clientConfig() oauth.ClientConfig {
	return oauth.ClientConfig{
		ID:     "gate:way",
		Secret: func() (tokens.Secret, error) { return testSecret, nil },
	}
}

func newSource(t *testing.T, tokenURL string, cfg oauth.ClientConfig) *oauth.ClientCredentials {
	t.Helper()
	source, err := oauth.NewClientCredentials(newProvider(t, oauth.ProviderConfig{Name: "shop", TokenURL: tokenURL}), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return source
}

type outcome string

const (
	gotToken  outcome = "token"
	transient outcome = "transient"
	permanent outcome = "permanent"
)

func outcomeOf(err error) outcome {
	var refused *tokens.PermanentError
	switch {
	case err == nil:
		return gotToken
	case errors.As(err, &refused):
		return permanent
	}
	return transient
}

// decided says what this package does in the cases that the file leaves open.
func decided() map[string]outcome {
	return map[string]outcome{
		"te-007": gotToken,  // expires_in 0 states no lifetime: the credential's default applies
		"te-011": transient, // beyond 64 bits: x/oauth2 cannot read it, and nor need we
		"te-013": gotToken,  // form-encoded, as x/oauth2 reads it
		"te-017": gotToken,  // no token_type means Bearer
		"te-025": gotToken,  // two access_token members: the last one, as encoding/json reads it
		"te-047": gotToken,  // a backend token is opaque to us: whether it is dead, the backend says
	}
}

func TestTokenEndpointCases(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/token_endpoint_cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Count int
		Cases []struct {
			ID      string            `json:"id"`
			Name    string            `json:"name"`
			Status  int               `json:"status"`
			Headers map[string]string `json:"headers"`
			Body    string            `json:"body"`
			Expect  outcome           `json:"expect"`
			TTL     float64           `json:"ttl_s"`
		}
	}
	if err := json.Unmarshal(text, &file); err != nil || len(file.Cases) != file.Count || file.Count == 0 {
		t.Fatalf("%d cases of %d, error %v", len(file.Cases), file.Count, err)
	}
	for _, tt := range file.Cases {
		t.Run(tt.ID+" "+tt.Name, func(t *testing.T) {
			t.Parallel()
			server := newAuthorizationServer(t, (*httptest.Server).Start)
			server.handle("/token", func(w http.ResponseWriter, r *http.Request) {
				for name, value := range tt.Headers {
					w.Header().Set(name, value)
				}
				w.WriteHeader(tt.Status)
				switch tt.Body {
				case "(endless)":
					for r.Context().Err() == nil {
						if _, err := w.Write([]byte(strings.Repeat("x", 4096))); err != nil {
							return
						}
					}
				default:
					_, _ = w.Write([]byte(strings.Replace(tt.Body, "(a JWT whose exp is 10 s ago)", "eyJ.eyJ.c2ln", 1)))
				}
			})
			grant, err := newSource(t, server.URL+"/token", clientConfig()).Grant(t.Context(), tokens.GrantRequest{})
			want := tt.Expect
			if want == "either" {
				want = decided()[tt.ID]
			}
			if got := outcomeOf(err); got != want {
				t.Fatalf("got %s (%v), want %s", got, err, want)
			}
			if want != gotToken {
				mustNotLeak(t, err, tt.Body, "oops", "captive", "AT1", "X-Admin", "elsewhere")
				return
			}
			wantLife := time.Duration(tt.TTL) * time.Second
			if tt.ID == "te-047" {
				wantLife = time.Hour
			}
			if grant.AccessToken == "" || grant.ExpiresIn != wantLife {
				t.Errorf("got a token %t, lifetime %v; want lifetime %v", grant.AccessToken != "", grant.ExpiresIn, wantLife)
			}
		})
	}
}

// mustNotLeak checks that an error holds neither a secret nor an answer.
func mustNotLeak(t *testing.T, err error, texts ...string) {
	t.Helper()
	shown := fmt.Sprintf("%v %+v %#v", err, err, errors.Unwrap(err))
	for _, text := range append(texts, testSecret, url.QueryEscape(testSecret)) {
		if text != "" && strings.Contains(shown, text) {
			t.Errorf("the error shows %q: %s", text, shown)
		}
	}
}

func TestTokenAnswers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		status     int
		body       string
		want       outcome
		life       time.Duration
		retryAfter string
		wantAfter  time.Duration
	}{
		{name: "type in lower case", status: 200, body: `{"access_token":"a","token_type":"bearer","expires_in":59}`, want: gotToken, life: 59 * time.Second},
		{name: "type N_A", status: 200, body: `{"access_token":"a","token_type":"N_A"}`, want: permanent},
		{name: "negative lifetime", status: 200, body: `{"access_token":"a","expires_in":-5}`, want: transient},
		{name: "negative lifetime as text", status: 200, body: `{"access_token":"a","expires_in":"-5"}`, want: transient},
		{name: "lifetime null", status: 200, body: `{"access_token":"a","expires_in":null}`, want: gotToken},
		{name: "lifetime is clamped", status: 200, body: `{"access_token":"a","expires_in":9000000000000000000}`, want: gotToken, life: (1<<31 - 1) * time.Second},
		{name: "lifetime is a word", status: 200, body: `{"access_token":"a","expires_in":"soon"}`, want: transient},
		{name: "lifetime is an object", status: 200, body: `{"access_token":"a","expires_in":{}}`, want: transient},
		{name: "padded token", status: 200, body: `{"access_token":"aA0-._~+/=="}`, want: gotToken},
		{name: "token with padding inside", status: 200, body: `{"access_token":"a=b"}`, want: permanent},
		{name: "token of padding", status: 200, body: `{"access_token":"=="}`, want: permanent},
		{name: "token with a space", status: 200, body: `{"access_token":"a b"}`, want: permanent},
		{name: "8 KiB", status: 200, body: `{"access_token":"` + strings.Repeat("a", 8<<10) + `"}`, want: gotToken},
		{name: "more than 8 KiB", status: 200, body: `{"access_token":"` + strings.Repeat("a", 8<<10+1) + `"}`, want: permanent},
		{name: "more than 64 KiB", status: 200, body: `{"access_token":"a","x":"` + strings.Repeat("a", 64<<10) + `"}`, want: transient},
		{name: "no token", status: 200, body: `{}`, want: transient},
		{name: "empty", status: 200, body: ``, want: transient},
		{name: "error with status 200", status: 200, body: `{"error":"invalid_client"}`, want: transient},
		{name: "invalid_scope", status: 400, body: `{"error":"invalid_scope","error_description":"canary"}`, want: permanent},
		{name: "invalid_target", status: 400, body: `{"error":"invalid_target"}`, want: permanent},
		{name: "unknown code", status: 400, body: `{"error":"canary"}`, want: transient},
		{name: "plain 404", status: 404, body: `canary`, want: transient},
		{name: "plain 401", status: 401, body: ``, want: transient},
		{name: "code with 503", status: 503, body: `{"error":"invalid_client"}`, want: transient},
		{name: "code with 429", status: 429, body: `{"error":"invalid_request"}`, retryAfter: "30", want: transient, wantAfter: 30 * time.Second},
		{name: "Retry-After is capped", status: 429, retryAfter: "999999999", want: transient, wantAfter: 5 * time.Minute},
		{name: "Retry-After as a date in the past", status: 503, retryAfter: "Fri, 31 Dec 1999 23:59:59 GMT", want: transient},
		{name: "Retry-After as a date", status: 503, retryAfter: "Fri, 31 Dec 2100 23:59:59 GMT", want: transient, wantAfter: 5 * time.Minute},
		{name: "Retry-After negative", status: 503, retryAfter: "-1", want: transient},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := newAuthorizationServer(t, (*httptest.Server).Start)
			server.handle("/token", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if tt.retryAfter != "" {
					w.Header().Set("Retry-After", tt.retryAfter)
				}
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.body))
			})
			grant, err := newSource(t, server.URL+"/token", clientConfig()).Grant(t.Context(), tokens.GrantRequest{})
			if got := outcomeOf(err); got != tt.want {
				t.Fatalf("got %s (%v), want %s", got, err, tt.want)
			}
			if grant.ExpiresIn != tt.life {
				t.Errorf("got lifetime %v, want %v", grant.ExpiresIn, tt.life)
			}
			mustNotLeak(t, err, "canary")
			var response *oauth.ResponseError
			if errors.As(err, &response) && response.RetryAfter() != tt.wantAfter {
				t.Errorf("got Retry-After %v, want %v", response.RetryAfter(), tt.wantAfter)
			}
		})
	}
}

func TestTokenRequest(t *testing.T) {
	t.Parallel()
	for _, method := range []oauth.AuthMethod{"", oauth.ClientSecretBasic, oauth.ClientSecretPost} {
		t.Run(string(method), func(t *testing.T) {
			t.Parallel()
			type seen struct{ ID, Secret, Form string }
			got := make(chan seen, 1)
			server := newAuthorizationServer(t, (*httptest.Server).Start)
			server.handle("/token", func(w http.ResponseWriter, r *http.Request) {
				id, secret, _ := r.BasicAuth()
				body, _ := io.ReadAll(r.Body)
				got <- seen{id, secret, string(body)}
				serveJSON(map[string]any{"access_token": "a"})(w, r)
			})
			cfg := clientConfig()
			cfg.AuthMethod = method
			cfg.Scopes = []string{"orders.write", "orders.read"}
			cfg.Audience = "api://orders"
			cfg.Resources = []string{"https://a.example/", "https://b.example/"}
			cfg.Params = map[string]string{"tenant": "blue"}
			if _, err := newSource(t, server.URL+"/token", cfg).Grant(t.Context(), tokens.GrantRequest{}); err != nil {
				t.Fatal(err)
			}
			want := seen{
				ID: url.QueryEscape("gate:way"), Secret: url.QueryEscape(testSecret),
				Form: "audience=api%3A%2F%2Forders&grant_type=client_credentials" +
					"&resource=https%3A%2F%2Fa.example%2F&resource=https%3A%2F%2Fb.example%2F" +
					"&scope=orders.write+orders.read&tenant=blue",
			}
			if method == oauth.ClientSecretPost {
				form, _ := url.ParseQuery(want.Form)
				form.Set("client_id", "gate:way")
				form.Set("client_secret", testSecret)
				want = seen{Form: form.Encode()}
			}
			if diff := cmp.Diff(want, <-got); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

// A refusal is not followed by a second try with the other auth method, which
// would count as another failed login.
func TestAuthMethodIsNotGuessed(t *testing.T) {
	t.Parallel()
	server := newAuthorizationServer(t, (*httptest.Server).Start)
	server.handle("/token", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"error":"invalid_client"}`))
	})
	if _, err := newSource(t, server.URL+"/token", clientConfig()).Grant(t.Context(), tokens.GrantRequest{}); outcomeOf(err) != permanent {
		t.Errorf("got %v, want a permanent error", err)
	}
	if got := server.count("/token"); got != 1 {
		t.Errorf("got %d requests, want 1", got)
	}
}

func TestRedirectsKeepTheSecret(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 302, 303, 307, 308} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			t.Parallel()
			server := newAuthorizationServer(t, (*httptest.Server).Start)
			canary := newAuthorizationServer(t, (*httptest.Server).Start)
			server.handle("/token", http.RedirectHandler(canary.URL+"/token", status).ServeHTTP)
			if _, err := newSource(t, server.URL+"/token", clientConfig()).Grant(t.Context(), tokens.GrantRequest{}); outcomeOf(err) != permanent {
				t.Errorf("got %v, want a permanent error", err)
			}
			if got := canary.count("/token"); got != 0 {
				t.Errorf("the canary got %d requests", got)
			}
		})
	}
}

func TestSecretIsReadForEveryRequest(t *testing.T) {
	t.Parallel()
	var got []string
	server := newAuthorizationServer(t, (*httptest.Server).Start)
	server.handle("/token", func(w http.ResponseWriter, r *http.Request) {
		_, secret, _ := r.BasicAuth()
		got = append(got, secret)
		serveJSON(map[string]any{"access_token": "a"})(w, r)
	})
	secrets := []tokens.Secret{"old", "new"}
	cfg := clientConfig()
	cfg.Secret = func() (tokens.Secret, error) {
		if len(secrets) == 0 {
			return "", os.ErrNotExist
		}
		next := secrets[0]
		secrets = secrets[1:]
		return next, nil
	}
	source := newSource(t, server.URL+"/token", cfg)
	for range 2 {
		if _, err := source.Grant(t.Context(), tokens.GrantRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := source.Grant(t.Context(), tokens.GrantRequest{}); !errors.Is(err, os.ErrNotExist) || outcomeOf(err) != transient {
		t.Errorf("no secret: got %v", err)
	}
	if diff := cmp.Diff([]string{"old", "new"}, got); diff != "" {
		t.Errorf("secrets (-want +got):\n%s", diff)
	}
}

func TestUnreachableProviderIsTransient(t *testing.T) {
	t.Parallel()
	server := newAuthorizationServer(t, (*httptest.Server).Start)
	release := make(chan struct{})
	defer close(release)
	server.handle("/slow", func(http.ResponseWriter, *http.Request) { <-release })
	server.handle("/garbage", func(w http.ResponseWriter, _ *http.Request) {
		connection, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = connection.Write([]byte("canary nonsense\r\n\r\n"))
		_ = connection.Close()
	})
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for name, address := range map[string]string{
		"slow": server.URL + "/slow", "garbage": server.URL + "/garbage", "gone": gone.URL,
	} {
		_, err := newSource(t, address, clientConfig()).Grant(ctx, tokens.GrantRequest{})
		if outcomeOf(err) != transient {
			t.Errorf("%s: got %v, want a transient error", name, err)
		}
		mustNotLeak(t, err, "canary")
	}
}

func TestNewClientCredentialsRefuses(t *testing.T) {
	t.Parallel()
	provider := newProvider(t, oauth.ProviderConfig{TokenURL: "https://idp.example/t"})
	for name, spoil := range map[string]func(*oauth.ClientConfig){
		"no id":             func(c *oauth.ClientConfig) { c.ID = "" },
		"no secret":         func(c *oauth.ClientConfig) { c.Secret = nil },
		"auth method":       func(c *oauth.ClientConfig) { c.AuthMethod = "private_key_jwt" },
		"two scopes in one": func(c *oauth.ClientConfig) { c.Scopes = []string{"a b"} },
		"empty scope":       func(c *oauth.ClientConfig) { c.Scopes = []string{""} },
		"scope with quote":  func(c *oauth.ClientConfig) { c.Scopes = []string{`a"`} },
		"relative resource": func(c *oauth.ClientConfig) { c.Resources = []string{"orders"} },
		"resource fragment": func(c *oauth.ClientConfig) { c.Resources = []string{"https://a.example/#x"} },
		"reserved param":    func(c *oauth.ClientConfig) { c.Params = map[string]string{"grant_type": "password"} },
	} {
		cfg := clientConfig()
		spoil(&cfg)
		if _, err := oauth.NewClientCredentials(provider, cfg); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func TestKey(t *testing.T) {
	t.Parallel()
	key := func(tokenURL string, change func(*oauth.ClientConfig)) oauth.Key {
		cfg := clientConfig()
		change(&cfg)
		return newSource(t, tokenURL, cfg).Key()
	}
	const tokenURL = "https://idp.example/t"
	same := func(*oauth.ClientConfig) {}

	different := map[string]oauth.Key{
		"plain":       key(tokenURL, same),
		"provider":    key(tokenURL+"2", same),
		"client":      key(tokenURL, func(c *oauth.ClientConfig) { c.ID = "other" }),
		"auth method": key(tokenURL, func(c *oauth.ClientConfig) { c.AuthMethod = oauth.ClientSecretPost }),
		"scopes":      key(tokenURL, func(c *oauth.ClientConfig) { c.Scopes = []string{"ab", "c"} }),
		"scopes cut":  key(tokenURL, func(c *oauth.ClientConfig) { c.Scopes = []string{"a", "bc"} }),
		"one scope":   key(tokenURL, func(c *oauth.ClientConfig) { c.Scopes = []string{"abc"} }),
		"audience":    key(tokenURL, func(c *oauth.ClientConfig) { c.Audience = "https://a.example/" }),
		"resource":    key(tokenURL, func(c *oauth.ClientConfig) { c.Resources = []string{"https://a.example/"} }),
		"param":       key(tokenURL, func(c *oauth.ClientConfig) { c.Params = map[string]string{"a": "https://a.example/"} }),
		"param cut":   key(tokenURL, func(c *oauth.ClientConfig) { c.Params = map[string]string{"ahttps": "//a.example/"} }),
	}
	seen := map[oauth.Key]string{}
	for name, key := range different {
		if other, ok := seen[key]; ok {
			t.Errorf("%q and %q have the same key", name, other)
		}
		seen[key] = name
	}

	if key(tokenURL, func(c *oauth.ClientConfig) { c.Scopes = []string{"c", "ab"} }) != different["scopes"] {
		t.Error("the order of scopes changes the key")
	}
	if key(tokenURL, func(c *oauth.ClientConfig) { c.AuthMethod = oauth.ClientSecretBasic }) != different["plain"] {
		t.Error("naming the default auth method changes the key")
	}
	rotated := key(tokenURL, func(c *oauth.ClientConfig) {
		c.Secret = func() (tokens.Secret, error) { return "new", nil }
	})
	if rotated != different["plain"] {
		t.Error("a rotated secret changes the key")
	}
}
