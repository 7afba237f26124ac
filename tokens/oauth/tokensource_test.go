package oauth_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
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

// newSource returns a source whose provider has nothing but a token endpoint.
func newSource(t *testing.T, tokenURL string, client oauth.ClientConfig, cfg oauth.TokenConfig) *oauth.TokenSource {
	t.Helper()
	return newSourceAt(t, newProvider(t, oauth.ProviderConfig{Name: "shop", TokenURL: tokenURL}), client, cfg)
}

func newSourceAt(t *testing.T, provider *oauth.Provider, client oauth.ClientConfig, cfg oauth.TokenConfig) *oauth.TokenSource {
	t.Helper()
	source, err := oauth.NewTokenSource(newClient(t, provider, client), slog.New(slog.DiscardHandler), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return source
}

// every returns a configuration with every parameter that all grants have.
func every(grant oauth.GrantType) oauth.TokenConfig {
	return oauth.TokenConfig{
		Grant: grant, Scopes: []string{"orders.write", "orders.read"}, Audience: "api://orders",
		Resources: []string{"https://a.example/", "https://b.example/"}, Params: map[string]string{"tenant": "blue"},
	}
}

func TestTokenRequest(t *testing.T) {
	t.Parallel()
	exchange := every(oauth.TokenExchange)
	exchange.Exchange = oauth.ExchangeConfig{SubjectTokenType: "jwt", RequestedTokenType: "urn:example:type"}
	kept := every(oauth.RefreshToken)
	kept.Store = &memoryStore{token: "kept"}
	subject := tokens.GrantRequest{Subject: callersToken}
	const scope = "orders.write orders.read"
	tests := []struct {
		name    string
		method  oauth.AuthMethod
		cfg     oauth.TokenConfig
		request tokens.GrantRequest
		want    map[string]string // beside what every has for all
	}{
		{name: "default method", cfg: every(""), want: map[string]string{"grant_type": "client_credentials", "scope": scope}},
		{
			name: "basic", method: oauth.ClientSecretBasic, cfg: every(oauth.ClientCredentials),
			want: map[string]string{"grant_type": "client_credentials", "scope": scope},
		},
		{
			name: "post", method: oauth.ClientSecretPost, cfg: every(oauth.ClientCredentials), want: map[string]string{
				"grant_type": "client_credentials", "scope": scope, "client_id": "gate:way", "client_secret": testSecret,
			},
		},
		{
			name: "own name, no subject", cfg: every(oauth.ClientCredentials), request: subject,
			want: map[string]string{"grant_type": "client_credentials", "scope": scope},
		},
		{
			name: "exchange", cfg: every(oauth.TokenExchange), request: subject, want: map[string]string{
				"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "scope": scope,
				"subject_token": callersToken, "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
			},
		},
		{
			name: "exchange of types, without authentication", method: oauth.None, cfg: exchange, request: subject,
			want: map[string]string{
				"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "scope": scope, "client_id": "gate:way",
				"subject_token": callersToken, "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
				"requested_token_type": "urn:example:type",
			},
		},
		{
			name: "JWT bearer", cfg: every(oauth.JWTBearer), request: subject, want: map[string]string{
				"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "scope": scope, "assertion": callersToken,
			},
		},
		{
			name: "refresh before new", cfg: exchange, request: tokens.GrantRequest{Subject: callersToken, Refresh: "r"},
			want: map[string]string{"grant_type": "refresh_token", "refresh_token": "r"},
		},
		{
			name: "kept refresh token", cfg: kept, request: tokens.GrantRequest{Refresh: "other"},
			want: map[string]string{"grant_type": "refresh_token", "refresh_token": "kept", "scope": scope},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := make(chan seen, 1)
			server := newAuthorizationServer(t, (*httptest.Server).Start)
			server.handle("/token", func(w http.ResponseWriter, r *http.Request) {
				got <- see(r)
				serveJSON(map[string]any{"access_token": "a"})(w, r)
			})
			client := testClient()
			client.AuthMethod = tt.method
			if _, err := newSource(t, server.URL+"/token", client, tt.cfg).Grant(t.Context(), tt.request); err != nil {
				t.Fatal(err)
			}
			want := seen{Form: url.Values{
				"audience": {"api://orders"}, "resource": {"https://a.example/", "https://b.example/"}, "tenant": {"blue"},
			}}
			for name, value := range tt.want {
				want.Form.Set(name, value)
			}
			if tt.method == "" || tt.method == oauth.ClientSecretBasic {
				want.ID, want.Secret = url.QueryEscape("gate:way"), url.QueryEscape(testSecret)
			}
			if diff := cmp.Diff(want, <-got); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

// seen is what a request of ours had.
type seen struct {
	ID, Secret string // of the Authorization header
	Form       url.Values
}

// see reads a request; everything must be in its body or Authorization header.
func see(r *http.Request) seen {
	var s seen
	s.ID, s.Secret, _ = r.BasicAuth()
	body, _ := io.ReadAll(r.Body)
	s.Form, _ = url.ParseQuery(string(body))
	return s
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
	if _, err := newSource(t, server.URL+"/token", testClient(), oauth.TokenConfig{}).Grant(t.Context(), tokens.GrantRequest{}); outcomeOf(err) != permanent {
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
			if _, err := newSource(t, server.URL+"/token", testClient(), oauth.TokenConfig{}).Grant(t.Context(), tokens.GrantRequest{}); outcomeOf(err) != permanent {
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
	cfg := testClient()
	cfg.Secret = func() (tokens.Secret, error) {
		if len(secrets) == 0 {
			return "", os.ErrNotExist
		}
		next := secrets[0]
		secrets = secrets[1:]
		return next, nil
	}
	source := newSource(t, server.URL+"/token", cfg, oauth.TokenConfig{})
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
		_, err := newSource(t, address, testClient(), oauth.TokenConfig{}).Grant(ctx, tokens.GrantRequest{})
		if outcomeOf(err) != transient {
			t.Errorf("%s: got %v, want a transient error", name, err)
		}
		mustNotLeak(t, err, "canary")
	}
}

func TestNewTokenSourceRefuses(t *testing.T) {
	t.Parallel()
	provider := newProvider(t, oauth.ProviderConfig{TokenURL: "https://idp.example/t"})
	nobody := oauth.ClientConfig{AuthMethod: oauth.None}
	signed := func(change func(*oauth.AssertionConfig)) oauth.TokenConfig {
		assertion := oauth.AssertionConfig{KeyFile: "/key"}
		change(&assertion)
		return oauth.TokenConfig{Grant: oauth.JWTBearer, Assertion: &assertion}
	}
	tests := []struct {
		name   string
		client oauth.ClientConfig
		cfg    oauth.TokenConfig
		want   string // empty: accepted
	}{
		{"client credentials", testClient(), oauth.TokenConfig{}, ""},
		{"two scopes in one", testClient(), oauth.TokenConfig{Scopes: []string{"a b"}}, "scope"},
		{"empty scope", testClient(), oauth.TokenConfig{Scopes: []string{""}}, "scope"},
		{"scope with quote", testClient(), oauth.TokenConfig{Scopes: []string{`a"`}}, "scope"},
		{"relative resource", testClient(), oauth.TokenConfig{Resources: []string{"orders"}}, "resource"},
		{"resource fragment", testClient(), oauth.TokenConfig{Resources: []string{"https://a.example/#x"}}, "resource"},
		{"reserved param", testClient(), oauth.TokenConfig{Params: map[string]string{"grant_type": "password"}}, "parameter"},
		{"subject as a param", testClient(), oauth.TokenConfig{Params: map[string]string{"subject_token": "a"}}, "parameter"},
		{"nobody's credentials", nobody, oauth.TokenConfig{}, "anybody"},
		{"password", testClient(), oauth.TokenConfig{Grant: "password"}, "a user's password"},
		{"implicit", testClient(), oauth.TokenConfig{Grant: "implicit"}, "browser"},
		{"authorization code", testClient(), oauth.TokenConfig{Grant: "authorization_code"}, "user at a browser"},
		{"unknown grant", testClient(), oauth.TokenConfig{Grant: "device_code"}, "unknown grant"},
		{"no store", testClient(), oauth.TokenConfig{Grant: oauth.RefreshToken}, "store"},
		{
			"misspelt type", testClient(),
			oauth.TokenConfig{Grant: oauth.TokenExchange, Exchange: oauth.ExchangeConfig{SubjectTokenType: "acess_token"}},
			"access_token",
		},
		{
			"refresh token for a backend", testClient(), oauth.TokenConfig{
				Grant: oauth.TokenExchange, Exchange: oauth.ExchangeConfig{RequestedTokenType: "urn:ietf:params:oauth:token-type:refresh_token"},
			}, "token type",
		},
		{"signed", testClient(), signed(func(*oauth.AssertionConfig) {}), ""},
		{"service account", nobody, signed(func(a *oauth.AssertionConfig) { a.Issuer = "robot" }), ""},
		{"issued by nobody", nobody, signed(func(*oauth.AssertionConfig) {}), "no issuer"},
		{"no key file", testClient(), signed(func(a *oauth.AssertionConfig) { a.KeyFile = "" }), "key file"},
		{"too long", testClient(), signed(func(a *oauth.AssertionConfig) { a.Lifetime = 61 * time.Minute }), "1h"},
		{"negative", testClient(), signed(func(a *oauth.AssertionConfig) { a.Lifetime = -1 }), "lifetime"},
		{"algorithm", testClient(), signed(func(a *oauth.AssertionConfig) { a.Algorithm = "none" }), "algorithm"},
		{"own exp", testClient(), signed(func(a *oauth.AssertionConfig) { a.Claims = map[string]any{"exp": 1} }), "claim"},
	}
	for _, tt := range tests {
		_, err := oauth.NewTokenSource(newClient(t, provider, tt.client), slog.New(slog.DiscardHandler), tt.cfg)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got error %v, want one with %q", tt.name, err, tt.want)
		}
	}
}

func TestKey(t *testing.T) {
	t.Parallel()
	const tokenURL = "https://idp.example/t"
	key := func(change func(*oauth.ClientConfig, *oauth.TokenConfig)) oauth.Key {
		client, cfg := testClient(), oauth.TokenConfig{}
		change(&client, &cfg)
		return newSource(t, tokenURL, client, cfg).Key()
	}
	client := func(change func(*oauth.ClientConfig)) oauth.Key {
		return key(func(c *oauth.ClientConfig, _ *oauth.TokenConfig) { change(c) })
	}
	cfg := func(cfg oauth.TokenConfig) oauth.Key {
		return key(func(_ *oauth.ClientConfig, c *oauth.TokenConfig) { *c = cfg })
	}
	signed := func(a oauth.AssertionConfig) oauth.Key {
		a.KeyFile = "/key"
		return cfg(oauth.TokenConfig{Grant: oauth.JWTBearer, Assertion: &a})
	}
	exchange := func(e oauth.ExchangeConfig) oauth.Key {
		return cfg(oauth.TokenConfig{Grant: oauth.TokenExchange, Exchange: e})
	}

	different := map[string]oauth.Key{
		"plain":       cfg(oauth.TokenConfig{}),
		"provider":    newSource(t, tokenURL+"2", testClient(), oauth.TokenConfig{}).Key(),
		"client":      client(func(c *oauth.ClientConfig) { c.ID = "other" }),
		"auth method": client(func(c *oauth.ClientConfig) { c.AuthMethod = oauth.ClientSecretPost }),
		"scopes":      cfg(oauth.TokenConfig{Scopes: []string{"ab", "c"}}),
		"scopes cut":  cfg(oauth.TokenConfig{Scopes: []string{"a", "bc"}}),
		"one scope":   cfg(oauth.TokenConfig{Scopes: []string{"abc"}}),
		"audience":    cfg(oauth.TokenConfig{Audience: "https://a.example/"}),
		"resource":    cfg(oauth.TokenConfig{Resources: []string{"https://a.example/"}}),
		"param":       cfg(oauth.TokenConfig{Params: map[string]string{"a": "https://a.example/"}}),
		"param cut":   cfg(oauth.TokenConfig{Params: map[string]string{"ahttps": "//a.example/"}}),
		"exchange":    exchange(oauth.ExchangeConfig{}),
		"subject":     exchange(oauth.ExchangeConfig{SubjectTokenType: "jwt"}),
		"requested":   exchange(oauth.ExchangeConfig{RequestedTokenType: "jwt"}),
		"JWT bearer":  cfg(oauth.TokenConfig{Grant: oauth.JWTBearer}),
		"signed":      signed(oauth.AssertionConfig{}),
		"signed for":  signed(oauth.AssertionConfig{Subject: "ann"}),
		"claims":      signed(oauth.AssertionConfig{Claims: map[string]any{"a": "b"}}),
		"refresh":     cfg(oauth.TokenConfig{Grant: oauth.RefreshToken, Store: &memoryStore{}}),
	}
	seen := map[oauth.Key]string{}
	for name, key := range different {
		if other, ok := seen[key]; ok {
			t.Errorf("%q and %q have the same key", name, other)
		}
		seen[key] = name
	}

	for name, same := range map[string]bool{
		"the order of scopes changes the key":            cfg(oauth.TokenConfig{Scopes: []string{"c", "ab"}}) == different["scopes"],
		"naming the default grant changes the key":       cfg(oauth.TokenConfig{Grant: oauth.ClientCredentials}) == different["plain"],
		"writing a token type in full changes the key":   exchange(oauth.ExchangeConfig{SubjectTokenType: "urn:ietf:params:oauth:token-type:jwt"}) == different["subject"],
		"naming the default auth method changes the key": client(func(c *oauth.ClientConfig) { c.AuthMethod = oauth.ClientSecretBasic }) == different["plain"],
		"a rotated secret changes the key":               client(func(c *oauth.ClientConfig) { c.Secret = func() (tokens.Secret, error) { return "new", nil } }) == different["plain"],
		"another key of the same issuer changes the key": signed(oauth.AssertionConfig{KeyID: "2"}) == different["signed"],
	} {
		if !same {
			t.Error(name)
		}
	}
}
