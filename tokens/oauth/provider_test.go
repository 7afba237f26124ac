package oauth_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebearer/rebearer/tokens/oauth"
)

// authorizationServer is a provider whose answers a test can change.
type authorizationServer struct {
	*httptest.Server

	mu       sync.Mutex
	handlers map[string]http.HandlerFunc
	asked    map[string]int
}

func newAuthorizationServer(t *testing.T, start func(*httptest.Server)) *authorizationServer {
	t.Helper()
	s := &authorizationServer{handlers: map[string]http.HandlerFunc{}, asked: map[string]int{}}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	start(s.Server)
	t.Cleanup(s.Close)
	return s
}

func (s *authorizationServer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked[r.URL.Path]++
	handler := s.handlers[r.URL.Path]
	s.mu.Unlock()
	if handler == nil {
		http.NotFound(w, r)
		return
	}
	handler(w, r)
}

func (s *authorizationServer) handle(path string, handler http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handlers[path] = handler
}

func (s *authorizationServer) count(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[path]
}

func serveJSON(value any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(value)
	}
}

func serveText(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }
}

func newProvider(t *testing.T, cfg oauth.ProviderConfig) *oauth.Provider {
	t.Helper()
	provider, err := oauth.NewProvider(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return provider
}

func TestNewProviderRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		cfg  oauth.ProviderConfig
		want string // empty: accepted
	}{
		{"https", oauth.ProviderConfig{Issuer: "https://idp.example/realms/shop"}, ""},
		{"loopback", oauth.ProviderConfig{Issuer: "http://127.0.0.1:8080"}, ""},
		{"loopback by name", oauth.ProviderConfig{Issuer: "http://localhost:8080"}, ""},
		{"loopback v6", oauth.ProviderConfig{Issuer: "http://[::1]:8080"}, ""},
		{"endpoint alone", oauth.ProviderConfig{TokenURL: "https://idp.example/token?tenant=a"}, ""},
		{"http and insecure", oauth.ProviderConfig{Issuer: "http://idp:8080", Insecure: true}, ""},
		{"http", oauth.ProviderConfig{Issuer: "http://idp.example"}, "https"},
		{"http endpoint", oauth.ProviderConfig{Issuer: "https://idp.example", JWKSURL: "http://idp.example/k"}, "https"},
		{"name that begins like loopback", oauth.ProviderConfig{Issuer: "http://localhost.evil.example"}, "https"},
		{"nothing", oauth.ProviderConfig{}, "neither"},
		{"other scheme", oauth.ProviderConfig{Issuer: "file:///etc/passwd"}, "absolute"},
		{"relative", oauth.ProviderConfig{Issuer: "idp.example"}, "absolute"},
		{"password", oauth.ProviderConfig{Issuer: "https://a:b@idp.example"}, "password"},
		{"fragment", oauth.ProviderConfig{Issuer: "https://idp.example#x"}, "fragment"},
		{"query", oauth.ProviderConfig{Issuer: "https://idp.example?x=y"}, "query"},
		{"timeout", oauth.ProviderConfig{Issuer: "https://idp.example", Timeout: -1}, "negative"},
		{"no CA file", oauth.ProviderConfig{Issuer: "https://idp.example", CAFile: "/does/not/exist"}, "ca_file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := oauth.NewProvider(tt.cfg)
			if tt.want == "" && err != nil {
				t.Fatalf("got error %v, want none", err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Fatalf("got error %v, want one about %q", err, tt.want)
			}
		})
	}
}

func TestEndpointIsDiscovered(t *testing.T) {
	t.Parallel()
	for _, path := range []string{
		"/realms/shop/.well-known/openid-configuration",
		"/.well-known/oauth-authorization-server/realms/shop",
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			server := newAuthorizationServer(t, (*httptest.Server).Start)
			issuer := server.URL + "/realms/shop"
			server.handle(path, serveJSON(map[string]any{
				"issuer": issuer, "token_endpoint": server.URL + "/t", "jwks_uri": server.URL + "/k", "other": 1,
			}))
			server.handle("/k", serveText(`{"keys":[]}`))
			provider := newProvider(t, oauth.ProviderConfig{Issuer: issuer})

			got, err := provider.Endpoint(t.Context(), oauth.TokenEndpoint)
			if want := server.URL + "/t"; got != want || err != nil {
				t.Errorf("token endpoint: got %q, %v; want %q", got, err, want)
			}
			if _, err := provider.Endpoint(t.Context(), oauth.RevocationEndpoint); err == nil {
				t.Error("an endpoint that the metadata does not name: got no error")
			}
			keys, err := provider.JWKS(t.Context())
			if string(keys) != `{"keys":[]}` || err != nil {
				t.Errorf("keys: got %q, %v", keys, err)
			}
			if got := server.count(path); got != 1 {
				t.Errorf("metadata was asked for %d times, want once", got)
			}
		})
	}
}

func TestMetadataIsRefused(t *testing.T) {
	t.Parallel()
	const path = "/.well-known/openid-configuration"
	tests := []struct {
		name string
		body string // %s is the issuer
		want string
	}{
		{"issuer with a slash more", `{"issuer":"%s/","token_endpoint":"https://x.example/t"}`, "issuer"},
		{"no issuer", `{"token_endpoint":"https://x.example/t","x":"%s"}`, "issuer"},
		{"issuer in another case", `{"Issuer":"%s","token_endpoint":"https://x.example/t"}`, "issuer"},
		{"http beyond loopback", `{"issuer":"%s","token_endpoint":"http://x.example/t"}`, "https"},
		{"not a URL", `{"issuer":"%s","token_endpoint":"t"}`, "absolute"},
		{"number", `{"issuer":"%s","token_endpoint":1}`, "string"},
		{"list", `["%s"]`, "object"},
		{"more after it", `{"issuer":"%s"}{}`, "object"},
		{"HTML", `<html>%s</html>`, "object"},
		{"too large", `{"issuer":"%s","x":"` + strings.Repeat("x", 64<<10) + `"}`, "larger"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := newAuthorizationServer(t, (*httptest.Server).Start)
			server.handle(path, serveText(fmt.Sprintf(tt.body, server.URL)))
			provider := newProvider(t, oauth.ProviderConfig{Issuer: server.URL})
			_, err := provider.Endpoint(t.Context(), oauth.TokenEndpoint)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want one about %q", err, tt.want)
			}
		})
	}
}

// A provider asked over https cannot send the client secret to http.
func TestMetadataCannotLeaveHTTPS(t *testing.T) {
	t.Parallel()
	server := newAuthorizationServer(t, (*httptest.Server).StartTLS)
	server.handle("/.well-known/openid-configuration", serveJSON(map[string]string{
		"issuer": server.URL, "token_endpoint": "http://127.0.0.1:1/t",
	}))
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	provider := newProvider(t, oauth.ProviderConfig{Issuer: server.URL, CAFile: ca, Insecure: true})
	_, err := provider.Endpoint(t.Context(), oauth.TokenEndpoint)
	if err == nil || !strings.Contains(err.Error(), "as the issuer is") {
		t.Errorf("got error %v, want a refusal of http", err)
	}

	untrusting := newProvider(t, oauth.ProviderConfig{Issuer: server.URL})
	_, err = untrusting.Endpoint(t.Context(), oauth.TokenEndpoint)
	if err == nil || !strings.Contains(err.Error(), "x509") {
		t.Errorf("unknown authority: got error %v", err)
	}
}

// A CA file without a certificate would trust no one; say so at once.
func TestEmptyCAFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte("not a certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := oauth.NewProvider(oauth.ProviderConfig{Issuer: "https://idp.example", CAFile: file}); err == nil {
		t.Error("got no error")
	}
}

func TestJWKSLimits(t *testing.T) {
	t.Parallel()
	server := newAuthorizationServer(t, (*httptest.Server).Start)
	canary := newAuthorizationServer(t, (*httptest.Server).Start)
	provider := newProvider(t, oauth.ProviderConfig{JWKSURL: server.URL + "/k", Timeout: time.Minute})

	server.handle("/k", serveText(strings.Repeat("x", 512<<10)))
	if _, err := provider.JWKS(t.Context()); err != nil {
		t.Errorf("512 KiB: got error %v", err)
	}
	server.handle("/k", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil { // without end
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
	if _, err := provider.JWKS(t.Context()); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("endless: got error %v", err)
	}
	for _, status := range []int{301, 302, 303, 307, 308} {
		server.handle("/k", http.RedirectHandler(canary.URL+"/k", status).ServeHTTP)
		if _, err := provider.JWKS(t.Context()); err == nil {
			t.Errorf("redirect %d: got no error", status)
		}
	}
	if got := canary.count("/k"); got != 0 {
		t.Errorf("%d redirects were followed", got)
	}
}

// One fetch serves all who wait, and outlives the first of them.
func TestMetadataIsFetchedOnce(t *testing.T) {
	t.Parallel()
	const path = "/.well-known/openid-configuration"
	server := newAuthorizationServer(t, (*httptest.Server).Start)
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	document := serveJSON(map[string]string{"issuer": server.URL, "token_endpoint": server.URL + "/t"})
	server.handle(path, func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-release
		document(w, r)
	})
	provider := newProvider(t, oauth.ProviderConfig{Issuer: server.URL})

	first, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := provider.Endpoint(first, oauth.TokenEndpoint)
		left <- err
	}()
	<-arrived
	var waiting sync.WaitGroup
	var failures atomic.Int64
	for range 50 {
		waiting.Go(func() {
			if _, err := provider.Endpoint(t.Context(), oauth.TokenEndpoint); err != nil {
				failures.Add(1)
			}
		})
	}
	cancel()
	if err := <-left; err == nil {
		t.Error("the first caller left without an error")
	}
	close(release)
	waiting.Wait()
	if got := failures.Load(); got != 0 {
		t.Errorf("%d of 50 callers failed", got)
	}
	if got := server.count(path); got != 1 {
		t.Errorf("metadata was asked for %d times, want once", got)
	}
}

// Metadata is kept, refreshed, and not lost when its provider is.
func TestMetadataLife(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var fetches atomic.Int64
		var down atomic.Bool
		down.Store(true)
		provider := oauth.NewProviderForTest("https://idp.example", func(r *http.Request) (*http.Response, error) {
			recorder := httptest.NewRecorder()
			if !strings.HasSuffix(r.URL.Path, "openid-configuration") {
				http.NotFound(recorder, r)
				return recorder.Result(), nil
			}
			fetches.Add(1)
			if down.Load() {
				http.Error(recorder, "down", http.StatusBadGateway)
				return recorder.Result(), nil
			}
			serveJSON(map[string]string{"issuer": "https://idp.example", "token_endpoint": "https://idp.example/t"})(recorder, r)
			return recorder.Result(), nil
		})
		ask := func() error {
			_, err := provider.Endpoint(t.Context(), oauth.TokenEndpoint)
			synctest.Wait()
			return err
		}
		step := func(name string, wait time.Duration, isDown, wantError bool, wantFetches int64) {
			t.Helper()
			time.Sleep(wait)
			down.Store(isDown)
			if err := ask(); (err != nil) != wantError {
				t.Errorf("%s: got error %v, want one: %t", name, err, wantError)
			}
			if got := fetches.Load(); got != wantFetches {
				t.Errorf("%s: got %d fetches, want %d", name, got, wantFetches)
			}
		}
		step("down at start", 0, true, true, 1)
		step("asked again at once", 0, true, true, 1)
		step("comes up", 2*time.Second, false, false, 2)
		step("cached", 59*time.Minute, false, false, 2)
		step("old: refreshed in the background", 2*time.Minute, false, false, 3)
		step("old and down: the last one is kept", 61*time.Minute, true, false, 4)
		step("still down", time.Hour, true, false, 5)
		step("up again", time.Hour, false, false, 6)
		step("cached again", time.Minute, false, false, 6)
	})
}
