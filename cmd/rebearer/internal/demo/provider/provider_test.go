package provider

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/tokens/oauth"
)

// The client's id and secret hold what Basic has to encode (RFC 6749 2.3.1).
const (
	clientID     = "gate way:1"
	clientSecret = "s%cret+/:ä"
	audience     = "api://orders"
)

// start serves a provider with one client until the test ends.
func start(t *testing.T, cfg Config) *Provider {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	cfg.Issuer = "http://" + srv.Listener.Addr().String()
	cfg.Clients = []Client{{ID: clientID, Secret: clientSecret}}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv.Config.Handler = p
	srv.Start()
	t.Cleanup(srv.Close)
	return p
}

// client is x/oauth2's, which rebearer uses too.
func client(p *Provider) clientcredentials.Config {
	return clientcredentials.Config{
		ClientID: clientID, ClientSecret: clientSecret, TokenURL: p.TokenURL(),
		Scopes: []string{"orders.read", "orders.write"}, AuthStyle: oauth2.AuthStyleInHeader,
	}
}

func fetch(t *testing.T, p *Provider) *oauth2.Token {
	t.Helper()
	cfg := client(p)
	token, err := cfg.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestTokenEndpoint(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change   func(*clientcredentials.Config)
		wantCode string
	}{
		"basic":          {change: func(*clientcredentials.Config) {}},
		"post":           {change: func(c *clientcredentials.Config) { c.AuthStyle = oauth2.AuthStyleInParams }},
		"wrong secret":   {change: func(c *clientcredentials.Config) { c.ClientSecret = "other" }, wantCode: "invalid_client"},
		"unknown client": {change: func(c *clientcredentials.Config) { c.ClientID = "other" }, wantCode: "invalid_client"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, Config{TTL: 5 * time.Minute})
			cfg := client(p)
			test.change(&cfg)
			token, err := cfg.Token(t.Context())
			if test.wantCode != "" {
				var refused *oauth2.RetrieveError
				if !errors.As(err, &refused) || refused.ErrorCode != test.wantCode {
					t.Fatalf("got error %v, want code %q", err, test.wantCode)
				}
				if got := refused.Response.Header.Get("WWW-Authenticate"); !strings.HasPrefix(got, "Basic ") {
					t.Errorf("got challenge %q, want Basic", got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !p.Valid(token.AccessToken) {
				t.Error("the issued token is not valid")
			}
			if lifetime := token.Extra("expires_in"); token.TokenType != "Bearer" || lifetime != 300.0 {
				t.Errorf("got type %q and expires_in %v, want Bearer and 300", token.TokenType, lifetime)
			}
			want := Counts{TokenRequests: 1, ByClient: map[string]int{clientID: 1}, Issued: 1}
			if diff := cmp.Diff(want, p.Counts()); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOtherGrantsAreRefused(t *testing.T) {
	t.Parallel()
	p := start(t, Config{})
	cfg := &oauth2.Config{ClientID: clientID, ClientSecret: clientSecret, Endpoint: oauth2.Endpoint{TokenURL: p.TokenURL()}}
	_, err := cfg.PasswordCredentialsToken(t.Context(), "user", "password")
	var refused *oauth2.RetrieveError
	if !errors.As(err, &refused) {
		t.Errorf("got error %v, want a refusal", err)
	}
}

func TestJWT(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []jose.SignatureAlgorithm{jose.ES256, jose.RS256} {
		t.Run(string(algorithm), func(t *testing.T) {
			t.Parallel()
			p := start(t, Config{Tokens: JWT, Algorithm: algorithm, Audiences: []string{audience, "other"}})
			before := fetch(t, p).AccessToken
			verifyJWT(t, p, before)
			if err := p.Restart(); err != nil {
				t.Fatal(err)
			}
			if p.Valid(before) {
				t.Error("a token outlived the restart")
			}
			if _, err := verifier(t, p).Verify(t.Context(), before); err == nil {
				t.Error("the old token's signature is good after the restart")
			}
			verifyJWT(t, p, fetch(t, p).AccessToken)
		})
	}
}

// verifier finds the keys as rebearer does.
func verifier(t *testing.T, p *Provider) *caller.JWT {
	t.Helper()
	server, err := oauth.NewProvider(oauth.ProviderConfig{Name: "demo", Issuer: p.Issuer()})
	if err != nil {
		t.Fatal(err)
	}
	v, err := caller.NewJWT(caller.NewKeySet(server, slog.New(slog.DiscardHandler)),
		caller.JWTConfig{Issuer: p.Issuer(), Audiences: []string{audience}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

func verifyJWT(t *testing.T, p *Provider, raw string) {
	t.Helper()
	who, err := verifier(t, p).Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	if who.ClientID != clientID || !who.Scopes.Has("orders.read") || !who.Scopes.Has("orders.write") || who.JTI == "" || who.Subject != clientID {
		t.Errorf("got %+v", who)
	}
	if lifetime := who.Expires.Sub(who.IssuedAt); lifetime != defaultTTL {
		t.Errorf("got a lifetime of %v, want %v", lifetime, defaultTTL)
	}
	parsed, err := jwt.ParseSigned(raw, []jose.SignatureAlgorithm{p.cfg.Algorithm})
	if err != nil {
		t.Fatal(err)
	}
	if typ := parsed.Headers[0].ExtraHeaders[jose.HeaderType]; typ != "at+jwt" {
		t.Errorf("got typ %v, want at+jwt", typ)
	}
}

func TestSign(t *testing.T) {
	t.Parallel()
	p := start(t, Config{Tokens: JWT})
	raw, err := p.Sign(map[string]any{"iss": p.Issuer(), "aud": audience, "sub": "someone", "exp": 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier(t, p).Verify(t.Context(), raw); !errors.Is(err, caller.ErrExpired) {
		t.Errorf("got error %v, want one about the expiry", err)
	}
	if p.Valid(raw) {
		t.Error("a token that was never issued is valid")
	}
}

// TestRestartIsAtomic restarts while tokens are fetched and checked: a token is
// valid as long as no restart has begun since it was asked for, and void from
// the first restart after it was answered.
func TestRestartIsAtomic(t *testing.T) {
	t.Parallel()
	p := start(t, Config{})
	const restarts = 20
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() { checkEras(ctx, t, p) })
	}
	for i := range restarts {
		waitForRequests(t, p, (i+1)*10)
		if err := p.Restart(); err != nil {
			t.Error(err)
		}
	}
	cancel()
	clients.Wait()
	if got := p.Counts().Restarts; got != restarts {
		t.Errorf("got %d restarts, want %d", got, restarts)
	}
}

// checkEras fetches tokens until ctx ends, and compares what Valid says of the
// last two with the restarts counted around them.
func checkEras(ctx context.Context, t *testing.T, p *Provider) {
	cfg := client(p)
	var last string
	var answered int // restarts when last had been answered
	for ctx.Err() == nil {
		before := p.Counts().Restarts
		token, err := cfg.Token(context.WithoutCancel(ctx))
		if err != nil {
			t.Error(err)
			return
		}
		if before > answered && p.Valid(last) {
			t.Error("a token outlived a restart")
		}
		last, answered = token.AccessToken, p.Counts().Restarts
		valid := p.Valid(last)
		if before == p.Counts().Restarts && !valid {
			t.Error("a token is void without a restart")
		}
	}
}

// waitForRequests returns once the provider has seen so many token requests.
func waitForRequests(t *testing.T, p *Provider, requests int) {
	t.Helper()
	for p.Counts().TokenRequests < requests {
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(time.Millisecond):
		}
	}
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, err := New(Config{Issuer: "http://provider", Clients: []Client{{ID: "id", Secret: "secret"}}})
		if err != nil {
			t.Fatal(err)
		}
		p.SetTTL(2 * time.Second)
		token := fetchDirectly(t, p)
		time.Sleep(2*time.Second - time.Nanosecond)
		if !p.Valid(token) {
			t.Error("the token expired early")
		}
		time.Sleep(2 * time.Nanosecond)
		if p.Valid(token) {
			t.Error("the token outlived its expiry")
		}
	})
}

// TestDelay shows that a delayed request is handled after a restart that
// happens meanwhile, and that the restart does not wait for it.
func TestDelay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, err := New(Config{Issuer: "http://provider", Clients: []Client{{ID: "id", Secret: "secret"}}})
		if err != nil {
			t.Fatal(err)
		}
		p.SetDelay(10 * time.Second)
		began := time.Now()
		answer := make(chan string)
		go func() { answer <- fetchDirectly(t, p) }()
		synctest.Wait()
		if err := p.Restart(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("the restart took %v", took)
		}
		if !p.Valid(<-answer) {
			t.Error("the token of the delayed request is void")
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("the answer took %v, want 10s", took)
		}
	})
}

// fetchDirectly gets a token without a network.
func fetchDirectly(t *testing.T, p *Provider) string {
	t.Helper()
	cfg := clientcredentials.Config{ClientID: "id", ClientSecret: "secret", TokenURL: p.TokenURL(), AuthStyle: oauth2.AuthStyleInHeader}
	ctx := context.WithValue(t.Context(), oauth2.HTTPClient, &http.Client{Transport: direct{p}})
	token, err := cfg.Token(ctx)
	if err != nil {
		t.Error(err)
		return ""
	}
	return token.AccessToken
}

// direct is a transport that calls the handler.
type direct struct{ handler http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	recorder := httptest.NewRecorder()
	d.handler.ServeHTTP(recorder, r)
	return recorder.Result(), nil
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{
		"no issuer":         {},
		"issuer with path":  {Issuer: "http://127.0.0.1/realm"},
		"client without id": {Issuer: "http://127.0.0.1", Clients: []Client{{Secret: "s"}}},
		"no secret":         {Issuer: "http://127.0.0.1", Clients: []Client{{ID: "i"}}},
		"algorithm":         {Issuer: "http://127.0.0.1", Algorithm: jose.HS256},
		"lifetime":          {Issuer: "http://127.0.0.1", TTL: -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := New(cfg); err == nil {
				t.Error("got no error")
			}
		})
	}
}
