package caller_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
	"github.com/rebearer/rebearer/tokens"
)

func TestIdentity(t *testing.T) {
	t.Parallel()
	issuer := extauthztest.NewIssuer(t)
	verifier, _ := newVerifier(t, issuer)
	issued := time.Now().Truncate(time.Second)
	expires := issued.Add(time.Hour)
	base := caller.Identity{
		Issuer: issuer.URL, Subject: "alice", ClientID: "app", Scopes: []string{"orders.read", "orders.write"},
		IssuedAt: issued, Expires: expires,
	}
	with := func(change func(*caller.Identity)) caller.Identity {
		who := base
		change(&who)
		return who
	}
	tests := []struct {
		name   string
		change map[string]any
		want   caller.Identity
	}{
		{"plain", nil, base},
		{"one of several audiences", map[string]any{"aud": []string{"x", extauthztest.Audience}}, base},
		{"azp", map[string]any{"client_id": nil, "azp": "web"}, with(func(i *caller.Identity) { i.ClientID = "web" })},
		{"client_id wins over azp", map[string]any{"azp": "web"}, base},
		{"no subject", map[string]any{"sub": nil}, with(func(i *caller.Identity) { i.Subject = "" })},
		{"no client", map[string]any{"client_id": nil}, with(func(i *caller.Identity) { i.ClientID = "" })},
		{"scp as a list", map[string]any{"scope": nil, "scp": []string{"a", "b"}}, with(func(i *caller.Identity) { i.Scopes = []string{"a", "b"} })},
		{"scopes are a set", map[string]any{"scope": "b a b"}, with(func(i *caller.Identity) { i.Scopes = []string{"a", "b"} })},
		{"jti", map[string]any{"jti": "t-1"}, with(func(i *caller.Identity) { i.JTI = "t-1" })},
		{"no iat", map[string]any{"iat": nil}, with(func(i *caller.Identity) { i.IssuedAt = time.Time{} })},
		{"no scope", map[string]any{"scope": nil}, with(func(i *caller.Identity) { i.Scopes = nil })},
		{"a profile name that could not be read", map[string]any{"name": "Ren\ufffd"}, base},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			change := map[string]any{"iat": issued.Unix(), "exp": expires.Unix()}
			for name, value := range tt.change {
				change[name] = value
			}
			got, err := verifier.Verify(t.Context(), issuer.Token("alice", change))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreUnexported(caller.Identity{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("identity (-want +got):\n%s", diff)
			}
			want := tokens.FingerprintOf(issuer.URL + "\x00alice")
			if tt.want.Subject == "" {
				want = tokens.FingerprintOf(issuer.URL + "\x00\x00app")
			}
			if got.Fingerprint() != want {
				t.Errorf("fingerprint: got %q, want %q", got.Fingerprint(), want)
			}
		})
	}
}

func TestClaimsAreRefused(t *testing.T) {
	t.Parallel()
	issuer := extauthztest.NewIssuer(t)
	verifier, _ := newVerifier(t, issuer)
	tests := []struct {
		name   string
		change map[string]any
		want   error
	}{
		{"sub a number", map[string]any{"sub": 1}, caller.ErrClaims},
		{"client_id null", map[string]any{"client_id": []any{}}, caller.ErrClaims},
		{"neither subject nor client", map[string]any{"sub": nil, "client_id": nil}, caller.ErrClaims},
		{"sub with a line break", map[string]any{"sub": "a\r\nb"}, caller.ErrClaims},
		{"sub with NUL", map[string]any{"sub": "a\x00b"}, caller.ErrClaims},
		{"client_id with DEL", map[string]any{"client_id": "a\x7f"}, caller.ErrClaims},
		{"sub that could not be read", map[string]any{"sub": "a\ufffd"}, caller.ErrClaims},
		{"scope a number", map[string]any{"scope": 1}, caller.ErrClaims},
		{"scope a list with a number", map[string]any{"scope": []any{"a", 1}}, caller.ErrClaims},
		{"aud a number", map[string]any{"aud": 1}, caller.ErrClaims},
		{"nbf text", map[string]any{"nbf": "0"}, caller.ErrClaims},
		{"iat true", map[string]any{"iat": true}, caller.ErrClaims},
		{"exp beyond all dates", map[string]any{"exp": 1e18}, caller.ErrClaims},
		{"exp negative", map[string]any{"exp": -1}, caller.ErrClaims},
		{"jti a number", map[string]any{"jti": 1}, caller.ErrClaims},
		{"cnf", map[string]any{"cnf": map[string]any{"jkt": "x"}}, caller.ErrBound},
		{"Keycloak's ID token", map[string]any{"typ": "ID"}, caller.ErrType},
		{"Keycloak's refresh token", map[string]any{"typ": "Refresh"}, caller.ErrType},
		{"Keycloak's access token", map[string]any{"typ": "Bearer"}, nil},
		{"Cognito's ID token", map[string]any{"token_use": "id"}, caller.ErrType},
		{"Cognito's access token", map[string]any{"token_use": "access"}, nil},
		{"a claim that is not cnf", map[string]any{"Cnf": 1}, nil},
		{"aud empty", map[string]any{"aud": []string{}}, caller.ErrAudience},
		{"iat ahead", map[string]any{"iat": time.Now().Add(10 * time.Minute).Unix()}, caller.ErrNotYetValid},
		{"iat ahead within the skew", map[string]any{"iat": time.Now().Add(20 * time.Second).Unix()}, nil},
		{"expired within the skew", map[string]any{"exp": time.Now().Unix()}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, err := verifier.Verify(t.Context(), issuer.Token("alice", tt.change)); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestHeadersAreRefused(t *testing.T) {
	t.Parallel()
	issuer := extauthztest.NewIssuer(t)
	verifier, _ := newVerifier(t, issuer)
	key := issuer.AddKey("h")
	tests := []struct {
		name   string
		header map[string]any
		want   error
	}{
		{"no typ", nil, nil},
		{"typ JWT", map[string]any{"typ": "JWT"}, nil},
		{"typ in another case", map[string]any{"typ": "AT+JWT"}, nil},
		{"jku is not used", map[string]any{"jku": "http://127.0.0.1:1/keys"}, nil},
		{"typ empty", map[string]any{"typ": ""}, caller.ErrType},
		{"typ id_token", map[string]any{"typ": "id_token"}, caller.ErrType},
		{"typ a number", map[string]any{"typ": 1}, caller.ErrMalformed},
		{"crit empty", map[string]any{"crit": []string{}}, caller.ErrType},
		{"crit null", map[string]any{"crit": nil}, caller.ErrType},
		{"kid longer than any", map[string]any{"kid": strings.Repeat("k", 1025)}, caller.ErrMalformed},
		{"b64 true", map[string]any{"b64": true}, caller.ErrType},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			token := extauthztest.Sign(t, key, tt.header, issuer.Claims("alice", nil))
			if _, err := verifier.Verify(t.Context(), token); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// A verified token is remembered, ends when it expires, and is looked at again
// when the clock does not fit.
func TestVerifiedTokensEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		issuer := extauthztest.NewIssuer(t)
		verifier, _ := newVerifier(t, issuer)
		token := issuer.Token("alice", map[string]any{"exp": time.Now().Add(time.Minute).Unix()})
		for _, step := range []struct {
			wait time.Duration
			want error
		}{
			{0, nil},
			{59 * time.Second, nil},
			{30 * time.Second, nil}, // within the clock skew
			{time.Second, caller.ErrExpired},
			{time.Hour, caller.ErrExpired},
		} {
			time.Sleep(step.wait)
			if _, err := verifier.Verify(t.Context(), token); !errors.Is(err, step.want) {
				t.Errorf("got %v, want %v", err, step.want)
			}
			synctest.Wait() // for ristretto to store it
		}
	})
}

func TestVerifyAfterClose(t *testing.T) {
	t.Parallel()
	issuer := extauthztest.NewIssuer(t)
	verifier, _ := newVerifier(t, issuer)
	verifier.Close()
	for range 2 {
		if _, err := verifier.Verify(t.Context(), issuer.Token("alice", nil)); err != nil {
			t.Error(err)
		}
	}
}

func TestRequiredAndKeptClaims(t *testing.T) {
	t.Parallel()
	issuer := extauthztest.NewIssuer(t)
	verifier, err := caller.NewJWT(caller.NewKeySet(issuer, slog.New(slog.DiscardHandler)), caller.JWTConfig{
		Issuer: issuer.URL, Audiences: []string{extauthztest.Audience}, CacheBytes: 1 << 20,
		Required: []string{"jti", "tenant"}, Claims: []string{"tenant", "groups", "level", "absent"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer verifier.Close()
	for name, missing := range map[string]map[string]any{
		"no jti":      {"tenant": "blue"},
		"no tenant":   {"jti": "t"},
		"tenant null": {"jti": "t", "tenant": json.RawMessage("null")},
	} {
		if _, err := verifier.Verify(t.Context(), issuer.Token("alice", missing)); !errors.Is(err, caller.ErrClaims) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	token := issuer.Token("alice", map[string]any{
		"jti": "t", "tenant": "blue", "groups": []string{"a", "b"}, "level": json.RawMessage("12345678901234567890"), "email": "a@example",
	})
	want := map[string]any{"tenant": "blue", "groups": []any{"a", "b"}, "level": json.Number("12345678901234567890")}
	for range 2 {
		who, err := verifier.Verify(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, who.Claims); diff != "" {
			t.Errorf("claims (-want +got):\n%s", diff)
		}
	}
}

func TestScopes(t *testing.T) {
	t.Parallel()
	scopes := caller.Scopes{"a", "b", "c"}
	for scope, want := range map[string]bool{"a": true, "c": true, "": false, "d": false, "a b": false} {
		if got := scopes.Has(scope); got != want {
			t.Errorf("%q: got %t", scope, got)
		}
	}
	if caller.Scopes(nil).Has("a") {
		t.Error("no scopes have one")
	}
}

func TestNewJWTRefuses(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*caller.JWTConfig){
		"no issuer":           func(c *caller.JWTConfig) { c.Issuer = "" },
		"no audience":         func(c *caller.JWTConfig) { c.Audiences = nil },
		"empty audience":      func(c *caller.JWTConfig) { c.Audiences = []string{""} },
		"symmetric algorithm": func(c *caller.JWTConfig) { c.Algorithms = []string{"ES256", "HS256"} },
		"algorithm none":      func(c *caller.JWTConfig) { c.Algorithms = []string{"none"} },
		"skew":                func(c *caller.JWTConfig) { c.ClockSkew = 6 * time.Minute },
		"negative skew":       func(c *caller.JWTConfig) { c.ClockSkew = -1 },
		"cache":               func(c *caller.JWTConfig) { c.CacheBytes = -1 },
		"required claim":      func(c *caller.JWTConfig) { c.Required = []string{""} },
		"kept claim":          func(c *caller.JWTConfig) { c.Claims = []string{"a", ""} },
		"many kept claims":    func(c *caller.JWTConfig) { c.Claims = make([]string, 33) },
	} {
		cfg := caller.JWTConfig{Issuer: "https://issuer.example", Audiences: []string{"a"}}
		spoil(&cfg)
		if _, err := caller.NewJWT(nil, cfg); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func TestAlgorithmsCanBeNarrowed(t *testing.T) {
	t.Parallel()
	issuer := extauthztest.NewIssuer(t)
	keys := caller.NewKeySet(issuer, slog.New(slog.DiscardHandler))
	verifier, err := caller.NewJWT(keys, caller.JWTConfig{Issuer: issuer.URL, Audiences: []string{extauthztest.Audience}, Algorithms: []string{"RS256"}})
	if err != nil {
		t.Fatal(err)
	}
	defer verifier.Close()
	if _, err := verifier.Verify(t.Context(), issuer.Token("alice", nil)); !errors.Is(err, caller.ErrAlgorithm) {
		t.Errorf("got %v, want %v", err, caller.ErrAlgorithm)
	}
	if got := issuer.Fetches(); got != 0 {
		t.Errorf("keys were fetched %d times for an algorithm that is not allowed", got)
	}
}

// Keys of every kind sign tokens that are accepted.
func TestRSAKeys(t *testing.T) {
	t.Parallel()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	issuer := extauthztest.NewIssuer(t)
	public := jose.JSONWebKey{Key: private.Public(), KeyID: "r"}
	set, err := public.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	keys := caller.NewKeySet(keysFunc(func() ([]byte, error) {
		return slices.Concat([]byte(`{"keys":[`), set, []byte(`]}`)), nil
	}), slog.New(slog.DiscardHandler))
	verifier, err := caller.NewJWT(keys, caller.JWTConfig{Issuer: issuer.URL, Audiences: []string{extauthztest.Audience}})
	if err != nil {
		t.Fatal(err)
	}
	defer verifier.Close()
	for _, algorithm := range []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512} {
		key := jose.JSONWebKey{Key: private, KeyID: "r", Algorithm: string(algorithm)}
		token := extauthztest.Sign(t, key, nil, issuer.Claims("alice", nil))
		if _, err := verifier.Verify(t.Context(), token); err != nil {
			t.Errorf("%s: %v", algorithm, err)
		}
		if _, err := verifier.Verify(t.Context(), token[:len(token)-4]+"AAAA"); err == nil {
			t.Errorf("%s: a changed signature was accepted", algorithm)
		}
	}
}

// The parts that a hostile caller makes large cost little. It does not run in
// parallel, because allocations are counted for the whole process.
func TestHostileTokensAreCheap(t *testing.T) { //nolint:paralleltest // see above
	verifier, _ := newVerifier(t, extauthztest.NewIssuer(t))
	for name, token := range map[string]string{
		"dots":       strings.Repeat(".", 100_000),
		"long":       strings.Repeat("A", 1<<20),
		"three long": strings.Repeat("A", 1<<20) + "." + strings.Repeat("A", 1<<20) + ".A",
	} {
		allocations := testing.AllocsPerRun(10, func() {
			if _, err := verifier.Verify(context.Background(), token); err == nil {
				t.Error("accepted")
			}
		})
		if allocations > 0 {
			t.Errorf("%s: got %v allocations, want none", name, allocations)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	issuer := extauthztest.NewIssuer(b)
	verifier, _ := newVerifier(b, issuer)
	token := issuer.Token("alice", nil)
	for _, bench := range []struct {
		name  string
		token func() string
	}{
		{"cached", func() string { return token }},
		{"garbage", func() string { return "a.b.c" }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			b.ReportMetric(float64(len(bench.token())), "token-bytes")
			for b.Loop() {
				_, _ = verifier.Verify(b.Context(), bench.token())
			}
		})
	}
	b.Run("uncached", func(b *testing.B) {
		b.ReportAllocs()
		closed, _ := newVerifier(b, issuer)
		closed.Close()
		for b.Loop() {
			if _, err := closed.Verify(b.Context(), token); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkCached measures what is on every request, by the kind of verifier.
func BenchmarkCached(b *testing.B) {
	issuer, provider := extauthztest.NewIssuer(b), newAuthority(b)
	revocations := caller.NewRevocations(0)
	newSigned := func() *caller.JWT {
		v, err := caller.NewJWT(caller.NewKeySet(issuer, slog.New(slog.DiscardHandler)), caller.JWTConfig{
			Issuer: issuer.URL, Audiences: []string{extauthztest.Audience}, Claims: []string{"tenant"}, Revocations: revocations,
		})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(v.Close)
		return v
	}
	cfg := opaqueConfig()
	cfg.Revocations, cfg.TTL = revocations, time.Hour
	opaque := newOpaque(b, provider, cfg)
	then, err := caller.NewJWTThenIntrospect(newSigned(), newOpaque(b, provider, cfg), slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	group, err := caller.NewGroup(opaque, newSigned())
	if err != nil {
		b.Fatal(err)
	}
	token := issuer.Token("alice", map[string]any{"tenant": "blue"})
	provider.issue(token, map[string]any{"scope": "orders.read orders.write"})
	for name, verifier := range map[string]interface {
		Verify(ctx context.Context, token string) (caller.Identity, error)
	}{"jwt": newSigned(), "opaque": opaque, "then": then, "group": group} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := verifier.Verify(b.Context(), token); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
