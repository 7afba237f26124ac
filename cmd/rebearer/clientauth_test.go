//go:build unix

package main

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/load"
)

// signer returns a client that proves who it is with a key of its own.
func signer(id string, key *ecdsa.PrivateKey) oidcClient {
	return machine(id, "", oidcClient{
		"token_endpoint_auth_method": "private_key_jwt",
		"jwks":                       jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1"}}},
	})
}

// secureProvider starts oidc-provider behind TLS.
func secureProvider(t testing.TB, ca *authority, clients ...oidcClient) *realProvider {
	t.Helper()
	key := newKey(t)
	cert := ca.certify(t, x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, key)
	p := newOIDCProvider(t, &oidcSetup{
		Clients: clients, Key: pemOfKey(t, key), Cert: pemOfCertificate(cert), CA: pemOfCertificate(ca.cert),
	})
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	p.client.Transport = transport
	p.start(t)
	return p
}

// Each way in which a client can prove who it is gets a token of a real provider
// that the backend accepts; the configuration changes from one to the next while
// requests pass, none of which fails.
func TestClientAuthentication(t *testing.T) {
	t.Parallel()
	newest().Require(t)
	ca, folder := newAuthority(t), t.TempDir()
	file := func(name, content string) string {
		name = filepath.Join(folder, name)
		write(t, name, content)
		return name
	}
	key, certified := newKey(t), newKey(t)
	cert := ca.certify(t, x509.Certificate{DNSNames: []string{"gateway.example"}}, certified)
	const long = "a secret of more than the thirty-two bytes that HS256 wants"
	p := secureProvider(t, ca, append(gatewayAndAPI(),
		machine("post", long, oidcClient{"token_endpoint_auth_method": "client_secret_post"}),
		machine("jwt", long, oidcClient{"token_endpoint_auth_method": "client_secret_jwt"}),
		signer("signer", key),
		machine("tls", "", oidcClient{"token_endpoint_auth_method": "tls_client_auth", "tls_client_auth_san_dns": "gateway.example"}),
	)...)
	asks := p.oidcIntrospection()
	o := stackOptions{
		backendURL: p.issuer, valid: asks.valid, record: 10_000,
		provider: fmt.Sprintf("ca_file: %q", file("ca", pemOfCertificate(ca.cert))),
	}
	s := newStack(t, newest(), o)
	secret := file("secret", long)
	clients := []struct{ id, keys string }{
		{"post", fmt.Sprintf("auth_method: client_secret_post, secret_file: %q", secret)},
		{"jwt", fmt.Sprintf("auth_method: client_secret_jwt, secret_file: %q", secret)},
		{"signer", fmt.Sprintf("auth_method: private_key_jwt, key_id: k1, key_file: %q", file("key", pemOfKey(t, key)))},
		{"tls", fmt.Sprintf("auth_method: tls_client_auth, key_file: %q, cert_file: %q",
			file("certified", pemOfKey(t, certified)), file("cert", pemOfCertificate(cert)))},
	}
	requests := s.traffic(t, load.Config{Rate: 50})
	requests.awaitStatus(t, http.StatusOK, 10)
	for _, client := range clients {
		o.orders = fmt.Sprintf("{clients: [{provider: backend, id: %s, %s}]}", client.id, client.keys)
		write(t, s.config, s.configuration(o, listen{anyPort, anyPort, anyPort}))
		await(t, "a token of the client "+client.id, func() bool { return asks.about(s.lastToken()).Client == client.id })
	}
	if got := requests.end(); got.Failed() > 0 {
		t.Errorf("%d of %d requests failed: %q", got.Failed(), got.Requests, got.Failures)
	}
	if rejected := s.api.Counts().Rejected; rejected > 0 {
		t.Errorf("the backend refused %d requests", rejected)
	}
	s.checkLogs(t, long)
}

// lastToken is the last one that the API saw.
func (s *stack) lastToken() string {
	tries := s.api.Tries()
	if len(tries) == 0 {
		return ""
	}
	return strings.TrimPrefix(strings.Join(tries[len(tries)-1].Authorization, ","), "Bearer ")
}

// A client's secret, or its key, is changed at a real provider and in its file:
// no restart, no failed request, and the token that lives is used until there is
// reason to ask for another.
func TestRotatedSecret(t *testing.T) {
	t.Parallel()
	newest().Require(t)
	before, after := newKey(t), newKey(t)
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	tests := []struct {
		name, keys string
		now, then  string // what the file holds
		old, fresh oidcClient
	}{
		{
			"secret", fmt.Sprintf("secret_file: %q", file), gatewaySecret, "another-secret",
			machine(gatewayID, gatewaySecret, nil), machine(gatewayID, "another-secret", nil),
		},
		{
			"key", fmt.Sprintf("auth_method: private_key_jwt, key_id: k1, key_file: %q", file), pemOfKey(t, before), pemOfKey(t, after),
			signer(gatewayID, before), signer(gatewayID, after),
		},
	}
	p := oidcProvider(t, machine(apiID, apiSecret, nil))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			write(t, file, tt.now)
			p.register(t, tt.old)
			s := newStack(t, newest(), stackOptions{
				backendURL: p.issuer, valid: p.oidcIntrospection().valid, record: 10_000,
				orders: fmt.Sprintf("{clients: [{provider: backend, id: %q, %s}]}", gatewayID, tt.keys),
			})
			requests := s.traffic(t, load.Config{Rate: 100})
			requests.awaitStatus(t, http.StatusOK, 20)
			first := s.lastToken()
			p.register(t, tt.fresh)
			write(t, file, tt.then)
			await(t, "the changed file to be noticed", func() bool { return strings.Contains(s.logs.String(), "the changed configuration is in use") })
			requests.awaitStatus(t, http.StatusOK, 20)
			const asked = `rebearer_token_requests_total{outcome="ok",provider="backend"}`
			if got := s.metric(t, asked); got != 1 || s.lastToken() != first {
				t.Errorf("%v token requests so far, and the token changed: %t; want the first one still", got, s.lastToken() != first)
			}
			rebearer(t, "tokens", "flush", "orders", "--admin", s.admin[0])
			await(t, "a token that was got with the new one", func() bool { return s.lastToken() != first })
			requests.awaitStatus(t, http.StatusOK, 20)
			if got := requests.end(); got.Failed() > 0 {
				t.Errorf("%d of %d requests failed: %q", got.Failed(), got.Requests, got.Failures)
			}
			s.wantMetrics(t, map[string]float64{
				asked: 2,
				`rebearer_token_requests_total{outcome="refused",provider="backend"}`: 0,
				series("rebearer_client_refused", gatewayID, "backend", ""):           0,
			})
			s.checkLogs(t, tt.now, tt.then)
		})
	}
}
