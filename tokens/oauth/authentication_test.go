package oauth_test

import (
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

const longSecret = "0123456789abcdef0123456789abcdef canary"

// judge verifies assertions as a provider does: signature, claims, time, and
// that each comes once.
type judge struct {
	t         *testing.T
	key       any // public key or secret
	algorithm jose.SignatureAlgorithm
	keyID     string
	want      jwt.Expected
	life      time.Duration

	mu   sync.Mutex
	seen map[string]bool
}

// check returns all claims of an assertion, or nil for one that is refused.
func (j *judge) check(text string) map[string]any {
	j.t.Helper()
	parsed, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{j.algorithm})
	if err != nil {
		j.t.Errorf("assertion: %v", err)
		return nil
	}
	var (
		claims jwt.Claims
		all    map[string]any
	)
	if err := parsed.Claims(j.key, &claims, &all); err != nil {
		j.t.Errorf("signature: %v", err)
		return nil
	}
	if err := claims.ValidateWithLeeway(j.want.WithTime(time.Now()), 0); err != nil {
		j.t.Errorf("claims: %v", err)
	}
	if got := claims.Expiry.Time().Sub(claims.IssuedAt.Time()); got != j.life {
		j.t.Errorf("got a life of %v, want %v", got, j.life)
	}
	if got := parsed.Headers[0]; got.KeyID != j.keyID || got.ExtraHeaders[jose.HeaderType] != "JWT" {
		j.t.Errorf("got header %+v, want kid %q", got, j.keyID)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if claims.ID == "" || j.seen[claims.ID] {
		j.t.Errorf("jti %q is none, or comes twice", claims.ID)
	}
	if j.seen == nil {
		j.seen = map[string]bool{}
	}
	j.seen[claims.ID] = true
	return all
}

// Every endpoint verifies the assertion of every kind of key.
func TestClientAssertions(t *testing.T) {
	t.Parallel()
	rsaKey, p256, ed := newKey(t, "RSA"), newKey(t, "P-256"), newKey(t, "Ed25519")
	secret := func() (tokens.Secret, error) { return longSecret, nil }
	tests := []struct {
		name      string
		cfg       oauth.ClientConfig
		key       any
		algorithm jose.SignatureAlgorithm
		keyID     string
		audience  string // empty: the issuer
	}{
		{
			name: "RSA", cfg: oauth.ClientConfig{KeyFile: writeFile(t, pemOf(t, rsaKey))},
			key: rsaKey.Public(), algorithm: jose.RS256,
		},
		{
			name: "RSA, told how", cfg: oauth.ClientConfig{
				KeyFile: writeFile(t, pemOf(t, rsaKey)), Algorithm: "PS512", KeyID: "k1", AssertionAudience: "https://other.example/",
			},
			key: rsaKey.Public(), algorithm: jose.PS512, keyID: "k1", audience: "https://other.example/",
		},
		{
			name: "P-256", cfg: oauth.ClientConfig{KeyFile: writeFile(t, pemOf(t, p256))},
			key: p256.Public(), algorithm: jose.ES256,
		},
		{
			name: "JWK", cfg: oauth.ClientConfig{KeyFile: writeFile(t, jwkOf(t, jose.JSONWebKey{Key: ed, KeyID: "k2"}))},
			key: ed.Public(), algorithm: jose.EdDSA, keyID: "k2",
		},
		{
			name: "secret", cfg: oauth.ClientConfig{AuthMethod: oauth.ClientSecretJWT, Secret: secret},
			key: []byte(longSecret), algorithm: jose.HS256,
		},
		{
			name: "secret, told how", cfg: oauth.ClientConfig{
				AuthMethod: oauth.ClientSecretJWT, Algorithm: "HS384", KeyID: "k3",
				Secret: func() (tokens.Secret, error) { return longSecret + longSecret, nil },
			},
			key: []byte(longSecret + longSecret), algorithm: jose.HS384, keyID: "k3",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := newAuthorizationServer(t, (*httptest.Server).Start)
			if tt.audience == "" {
				tt.audience = server.URL
			}
			judge := &judge{
				t: t, key: tt.key, algorithm: tt.algorithm, keyID: tt.keyID, life: time.Minute,
				want: jwt.Expected{Issuer: "gate:way", Subject: "gate:way", AnyAudience: jwt.Audience{tt.audience}},
			}
			server.handle("/", func(w http.ResponseWriter, r *http.Request) {
				got := see(r)
				judge.check(got.Form.Get("client_assertion"))
				for name, want := range map[string]string{
					"client_id": "gate:way", "client_secret": "",
					"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
				} {
					if got := got.Form.Get(name); got != want {
						t.Errorf("%s: got %q, want %q", name, got, want)
					}
				}
				if got.ID != "" || got.Secret != "" || len(got.Form["client_assertion"]) != 1 {
					t.Errorf("got an Authorization header of %q, %d assertions", got.ID, len(got.Form["client_assertion"]))
				}
				serveJSON(map[string]any{"access_token": "a", "active": false})(w, r)
			})
			provider := newProvider(t, oauth.ProviderConfig{
				Issuer: server.URL, TokenURL: server.URL + "/", IntrospectionURL: server.URL + "/", RevocationURL: server.URL + "/",
			})
			tt.cfg.ID = "gate:way"
			if tt.cfg.AuthMethod == "" {
				tt.cfg.AuthMethod = oauth.PrivateKeyJWT
			}
			client := newClient(t, provider, tt.cfg)
			source := newSourceAt(t, provider, tt.cfg, oauth.TokenConfig{})
			for range 2 {
				if _, err := source.Grant(t.Context(), tokens.GrantRequest{}); err != nil {
					t.Error(err)
				}
			}
			if _, err := client.Introspect(t.Context(), "a"); err != nil {
				t.Error(err)
			}
			if err := source.Revoke(t.Context(), 0, "a"); err != nil {
				t.Error(err)
			}
			if got := len(judge.seen); got != 4 {
				t.Errorf("got %d assertions, want 4", got)
			}
		})
	}
}

// Without an issuer identifier the token endpoint stands for the provider, and
// without that the endpoint that is asked.
func TestAssertionAudience(t *testing.T) {
	t.Parallel()
	key := newKey(t, "P-256")
	cfg := oauth.ClientConfig{ID: "gate:way", AuthMethod: oauth.PrivateKeyJWT, KeyFile: writeFile(t, pemOf(t, key))}
	server := newAuthorizationServer(t, (*httptest.Server).Start)
	for name, provider := range map[string]oauth.ProviderConfig{
		"/token":      {TokenURL: server.URL + "/token", IntrospectionURL: server.URL + "/introspect"},
		"/introspect": {IntrospectionURL: server.URL + "/introspect"},
	} {
		judge := &judge{
			t: t, key: key.Public(), algorithm: jose.ES256, life: time.Minute,
			want: jwt.Expected{AnyAudience: jwt.Audience{server.URL + name}},
		}
		server.handle("/introspect", func(w http.ResponseWriter, r *http.Request) {
			judge.check(r.PostFormValue("client_assertion"))
			serveText(`{"active":false}`)(w, r)
		})
		if _, err := newClient(t, newProvider(t, provider), cfg).Introspect(t.Context(), "a"); err != nil {
			t.Error(err)
		}
	}
}

// The assertion of a service account is signed by us, and nothing else says who
// we are.
func TestSignedAssertion(t *testing.T) {
	t.Parallel()
	key := newKey(t, "P-256")
	file := writeFile(t, pemOf(t, key))
	tests := []struct {
		name   string
		client oauth.ClientConfig
		cfg    oauth.AssertionConfig
		want   jwt.Expected // without an audience: the token endpoint
		life   time.Duration
		extra  map[string]any
	}{
		{
			name: "as little as can be", client: testClient(),
			want: jwt.Expected{Issuer: "gate:way", Subject: "gate:way"}, life: 5 * time.Minute,
		},
		{
			name: "everything", client: oauth.ClientConfig{AuthMethod: oauth.None},
			cfg: oauth.AssertionConfig{
				Issuer: "robot", Subject: "ann", Audience: "https://idp.example/", KeyID: "7", Lifetime: time.Hour,
				Claims: map[string]any{"scope": "a b", "n": 1},
			},
			want: jwt.Expected{Issuer: "robot", Subject: "ann", AnyAudience: jwt.Audience{"https://idp.example/"}}, life: time.Hour,
			extra: map[string]any{"scope": "a b", "n": 1.0},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := newAuthorizationServer(t, (*httptest.Server).Start)
			if tt.want.AnyAudience == nil {
				tt.want.AnyAudience = jwt.Audience{server.URL + "/token"}
			}
			judge := &judge{t: t, key: key.Public(), algorithm: jose.ES256, keyID: tt.cfg.KeyID, want: tt.want, life: tt.life}
			server.handle("/token", func(w http.ResponseWriter, r *http.Request) {
				got := see(r)
				claims := judge.check(got.Form.Get("assertion"))
				for _, name := range []string{"iss", "sub", "aud", "exp", "iat", "jti"} {
					delete(claims, name)
				}
				if tt.extra == nil {
					tt.extra = map[string]any{}
				}
				if diff := cmp.Diff(tt.extra, claims); diff != "" {
					t.Errorf("further claims (-want +got):\n%s", diff)
				}
				got.Form.Del("assertion")
				want := seen{Form: url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}}}
				if tt.client.ID != "" {
					want.ID, want.Secret = url.QueryEscape(tt.client.ID), url.QueryEscape(testSecret)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("request (-want +got):\n%s", diff)
				}
				serveJSON(map[string]any{"access_token": "a"})(w, r)
			})
			tt.cfg.KeyFile = file
			source := newSource(t, server.URL+"/token", tt.client, oauth.TokenConfig{Grant: oauth.JWTBearer, Assertion: &tt.cfg})
			for range 2 {
				// It is our own assertion, whoever calls.
				if _, err := source.Grant(t.Context(), tokens.GrantRequest{Subject: callersToken}); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// A rotated key is used from the next request on, and a bad one is an error that
// says what to do.
func TestKeyIsReadAgain(t *testing.T) {
	t.Parallel()
	server := newAuthorizationServer(t, (*httptest.Server).Start)
	old, next := newKey(t, "P-256"), newKey(t, "Ed25519")
	file := writeFile(t, pemOf(t, old))
	source := newSource(t, server.URL+"/token", oauth.ClientConfig{
		ID: "gate:way", AuthMethod: oauth.PrivateKeyJWT, KeyFile: file,
	}, oauth.TokenConfig{})
	serve := func(key any, algorithm jose.SignatureAlgorithm) {
		judge := &judge{t: t, key: key, algorithm: algorithm, life: time.Minute}
		server.handle("/token", func(w http.ResponseWriter, r *http.Request) {
			judge.check(r.PostFormValue("client_assertion"))
			serveJSON(map[string]any{"access_token": "a"})(w, r)
		})
	}
	ask := func() error {
		_, err := source.Grant(t.Context(), tokens.GrantRequest{})
		return err
	}
	serve(old.Public(), jose.ES256)
	if err := ask(); err != nil {
		t.Error(err)
	}
	overwrite(t, file, []byte(testSecret))
	err := ask()
	mustNotLeak(t, err)
	if outcomeOf(err) != transient || !strings.Contains(err.Error(), file+" holds no private key: give") {
		t.Errorf("no key: got %v", err)
	}
	overwrite(t, file, pemOf(t, next))
	serve(next.Public(), jose.EdDSA)
	if err := ask(); err != nil {
		t.Error(err)
	}
	if got := server.count("/token"); got != 2 {
		t.Errorf("got %d requests, want 2", got)
	}
}

// What is wrong with secrets and keys is said once they are needed.
func TestCredentialsThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing")
	tests := []struct {
		name string
		cfg  oauth.ClientConfig
		want string
		is   error
	}{
		{"no secret", oauth.ClientConfig{Secret: func() (tokens.Secret, error) { return "", fs.ErrPermission }}, "secret", fs.ErrPermission},
		{
			"no secret to sign with",
			oauth.ClientConfig{AuthMethod: oauth.ClientSecretJWT, Secret: func() (tokens.Secret, error) { return "", fs.ErrPermission }},
			"secret", fs.ErrPermission,
		},
		{
			"short secret",
			oauth.ClientConfig{AuthMethod: oauth.ClientSecretJWT, Secret: func() (tokens.Secret, error) { return testSecret, nil }},
			"HS256 needs 32 bytes", nil,
		},
		{"no key", oauth.ClientConfig{AuthMethod: oauth.PrivateKeyJWT, KeyFile: missing}, missing, fs.ErrNotExist},
		{
			"key of another algorithm", oauth.ClientConfig{
				AuthMethod: oauth.PrivateKeyJWT, KeyFile: writeFile(t, pemOf(t, newKey(t, "P-256"))), Algorithm: "ES384",
			}, "does not fit the algorithm", nil,
		},
		{"no certificate", oauth.ClientConfig{AuthMethod: oauth.TLSClientAuth, CertFile: missing, KeyFile: missing}, missing, fs.ErrNotExist},
		{
			"no certificate in it",
			oauth.ClientConfig{AuthMethod: oauth.TLSClientAuth, CertFile: writeFile(t, []byte(testSecret)), KeyFile: writeFile(t, nil)},
			"are no PEM certificate chain", nil,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := newAuthorizationServer(t, (*httptest.Server).Start)
			tt.cfg.ID = "gate:way"
			source := newSource(t, server.URL+"/token", tt.cfg, oauth.TokenConfig{})
			_, err := source.Grant(t.Context(), tokens.GrantRequest{})
			if outcomeOf(err) != transient || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), `"gate:way"`) {
				t.Errorf("got %v, want a transient error with %q", err, tt.want)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("got %v, want one that is %v", err, tt.is)
			}
			mustNotLeak(t, err)
			if got := server.count("/token"); got != 0 {
				t.Errorf("got %d requests", got)
			}
		})
	}
}

func TestNewClientRefuses(t *testing.T) {
	t.Parallel()
	provider := newProvider(t, oauth.ProviderConfig{IntrospectionURL: "https://idp.example/i"})
	for name, spoil := range map[string]func(*oauth.ClientConfig){
		"no id":               func(c *oauth.ClientConfig) { c.ID = "" },
		"no secret":           func(c *oauth.ClientConfig) { c.Secret = nil },
		"unknown auth method": func(c *oauth.ClientConfig) { c.AuthMethod = "client_secret" },
		"no key file":         func(c *oauth.ClientConfig) { c.AuthMethod = oauth.PrivateKeyJWT },
		"no certificate":      func(c *oauth.ClientConfig) { c.AuthMethod, c.KeyFile = oauth.TLSClientAuth, "/key" },
		"no key beside it":    func(c *oauth.ClientConfig) { c.AuthMethod, c.CertFile = oauth.SelfSignedTLSClientAuth, "/cert" },
		"algorithm of a key":  func(c *oauth.ClientConfig) { c.AuthMethod, c.Algorithm = oauth.ClientSecretJWT, "RS256" },
		"no algorithm": func(c *oauth.ClientConfig) {
			c.AuthMethod, c.KeyFile, c.Algorithm = oauth.PrivateKeyJWT, "/key", "none"
		},
	} {
		client := testClient()
		spoil(&client)
		if _, err := oauth.NewClient(provider, client); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
