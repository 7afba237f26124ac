package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/provider"
)

// startPolicy starts rebearer and Envoy with another default policy, before a
// backend that answers with the headers that it got.
func startPolicy(t *testing.T, policy string, more ...string) *stack {
	t.Helper()
	s := newStack(t, newest(), stackOptions{})
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	config := strings.Replace(string(text), "default: {callers: [shop], credential: orders}", "default: "+policy, 1)
	write(t, s.config, strings.NewReplacer(more...).Replace(config))
	address, ready, _ := s.startService(t)
	awaitReady(t, ready)
	backend := serve(t, func(string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _ = json.NewEncoder(w).Encode(r.Header) })
	})
	s.startEnvoy(t, newest(), []string{address}, backend.Address())
	return s
}

// seen returns the headers of an answer of that backend.
func (a answer) seen(t *testing.T) http.Header {
	t.Helper()
	a.want(t, http.StatusOK)
	var headers http.Header
	if err := json.Unmarshal([]byte(a.body), &headers); err != nil {
		t.Fatal(err)
	}
	return headers
}

// What rebearer decides by reaches it through a real Envoy, and what it answers
// has its effect.
func TestPolicyOfHeadersAndPreflights(t *testing.T) {
	t.Parallel()
	s := startPolicy(t, `{callers: [shop], credential: orders, preflight: allow, hosts: [orders.example],
    forward: {subject: x-subject, client: x-client, scopes: x-scopes, claims: {tenant: x-tenant}}}`)
	host := func(name string) func(*http.Request) { return func(r *http.Request) { r.Host = name } }
	forged := []func(*http.Request){
		host("Orders.example:80"), with("X-Subject", "forged"), with("X_Subject", "forged"), with("X-Tenant", "forged"), with("x-SCOPES", "a", "b"),
	}
	headers := s.send(t, http.MethodGet, "/", nil, forged...).seen(t)
	if diff := cmp.Diff([]string{callerID}, headers["X-Subject"]); diff != "" {
		t.Errorf("subject (-want +got):\n%s", diff)
	}
	for name, values := range headers {
		if text := strings.Join(values, " "); strings.Contains(text, "forged") || strings.Contains(text, s.token) {
			t.Errorf("the backend sees %s: %q", name, values)
		}
	}
	if len(headers["Authorization"]) != 1 || headers["X-Tenant"] != nil {
		t.Errorf("the backend sees %v", headers)
	}

	preflight := append([]func(*http.Request){with("Origin", "https://shop.example"), with("Access-Control-Request-Method", "PUT")}, forged...)
	headers = s.send(t, http.MethodOptions, "/", nil, preflight...).seen(t)
	for _, name := range []string{"Authorization", "X-Subject", "X-Tenant", "X-Scopes", "X_subject"} {
		if headers[name] != nil {
			t.Errorf("with a preflight the backend sees %s", name)
		}
	}
	s.send(t, http.MethodOptions, "/", nil, without("Authorization"), host("orders.example"), with("Origin", "x")).want(t, http.StatusUnauthorized)

	elsewhere := s.send(t, http.MethodGet, "/", nil, host("evil.example"), with("X-Forwarded-Host", "orders.example"))
	elsewhere.want(t, http.StatusForbidden)
	if got := elsewhere.header.Get("X-Ext-Auth-Reason"); got != "host_not_served" {
		t.Errorf("another host: got %q", got)
	}
	page := s.send(t, http.MethodGet, "/", nil, without("Authorization"), host("orders.example"), with("Accept", "text/html,*/*"))
	if page.want(t, http.StatusUnauthorized); !strings.HasPrefix(page.header.Get("Content-Type"), "text/html") {
		t.Errorf("a browser gets %s:\n%s", page.header.Get("Content-Type"), page.body)
	}
	s.checkLogs(t)
}

func TestPolicyOfCookies(t *testing.T) {
	t.Parallel()
	s := startPolicy(t, `{callers: [shop], credential: orders, token_from: {cookie: session}}`)
	for _, cookies := range [][]string{
		{"session=" + s.token}, {"a=1; session=" + s.token + "; b=2"}, {"a=1", "session=" + s.token + "; b=2"},
	} {
		headers := s.send(t, http.MethodGet, "/", nil, with("Authorization", "Bearer theirs"), with("Cookie", cookies...)).seen(t)
		if text := strings.Join(headers["Cookie"], "; "); strings.Contains(text, s.token) || len(cookies[0]) != len("session="+s.token) && text != "a=1; b=2" {
			t.Errorf("the backend sees the cookies %q", text)
		}
		if got := strings.Join(headers["Authorization"], ""); got == "" || strings.Contains(got, "theirs") {
			t.Error("the backend sees another token than ours")
		}
	}
	s.send(t, http.MethodGet, "/", nil).want(t, http.StatusUnauthorized)
	s.send(t, http.MethodGet, "/", nil, with("Cookie", "session="+s.token, "session=x")).want(t, http.StatusBadRequest)
	s.checkLogs(t)
}

// Tokens that have to be shown to their provider, and JWTs that it may revoke.
func TestPolicyOfIntrospectedTokens(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		form   string
		tokens provider.Format
	}{{"opaque", provider.Opaque}, {"jwt_then_introspect", provider.JWT}} {
		t.Run(tt.form, func(t *testing.T) {
			t.Parallel()
			issuer, _ := newProvider(t, tt.tokens, provider.Client{ID: callerID, Secret: callerSecret})
			s := startPolicy(t, `{callers: [other], credential: orders, forward: {client: x-client}}`,
				"\nproviders:", "\nproviders:\n  other: {issuer: \""+issuer.Issuer()+"\"}",
				"\ncallers:", "\ncallers:\n  other: {provider: other, audiences: [\""+audience+"\"], tokens: "+tt.form+
					", client: {id: "+callerID+", secret_file: "+secretFile(t, callerSecret)+"}, introspection: {ttl: 1s}}")
			theirs := with("Authorization", "Bearer "+fetchToken(t, issuer.TokenURL()))
			if got := s.send(t, http.MethodGet, "/", nil, theirs).seen(t)["X-Client"]; !cmp.Equal(got, []string{callerID}) {
				t.Errorf("client %q", got)
			}
			s.send(t, http.MethodGet, "/", nil, with("Authorization", "Bearer made-up")).want(t, http.StatusUnauthorized)
			if err := issuer.Restart(); err != nil {
				t.Fatal(err)
			}
			await(t, "the revoked token to be refused", func() bool {
				return s.send(t, http.MethodGet, "/", nil, theirs).status == http.StatusUnauthorized
			})
			s.checkLogs(t)
		})
	}
}

// secretFile returns a file that holds a secret.
func secretFile(t *testing.T, secret string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	write(t, file, secret)
	return file
}

// A gRPC caller gets a status whose message is text.
func TestPolicyOfScopesOverGRPC(t *testing.T) {
	t.Parallel()
	s := startPolicy(t, `{callers: [shop], credential: orders, scopes: [orders.admin]}`)
	refused := s.send(t, http.MethodGet, "/", nil)
	refused.want(t, http.StatusForbidden)
	if got := refused.header.Get("Www-Authenticate"); !strings.Contains(got, `scope="orders.admin"`) {
		t.Errorf("challenge %s", got)
	}
	conn, err := grpc.NewClient(strings.TrimPrefix(s.url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for _, tt := range []struct {
		authorization string
		code          codes.Code
		message       string
	}{
		{"Bearer " + s.token, codes.PermissionDenied, "token lacks a scope"},
		{"Bearer x", codes.Unauthenticated, "token invalid"},
		{"", codes.Unauthenticated, "bearer token missing"},
	} {
		var trailer metadata.MD
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", tt.authorization)
		_, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}, grpc.Trailer(&trailer))
		if got := status.Convert(err); got.Code() != tt.code || got.Message() != tt.message {
			t.Errorf("got %v %q, want %v %q", got.Code(), got.Message(), tt.code, tt.message)
		}
		if len(trailer.Get("x-ext-auth-reason")) != 1 {
			t.Error("no reason beside the status")
		}
	}
	s.checkLogs(t)
}
