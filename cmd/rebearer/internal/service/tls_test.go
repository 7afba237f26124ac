package service

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"
)

// authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	template := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, key := a.sign(t, template)
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{certificate, key}
}

// sign completes and signs a certificate, by itself if there is no authority yet.
func (a *authority) sign(t *testing.T, template *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber, template.Subject = serial, pkix.Name{CommonName: "test"}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.certificate, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return der, key
}

// pair is a certificate and its key, in PEM.
type pair struct{ certificate, key []byte }

// issue signs a certificate for DNS names and URIs.
func (a *authority) issue(t *testing.T, names ...string) pair {
	t.Helper()
	template := &x509.Certificate{
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		if u, err := url.Parse(name); err == nil && u.Scheme != "" {
			template.URIs = append(template.URIs, u)
			continue
		}
		template.DNSNames = append(template.DNSNames, name)
	}
	der, key := a.sign(t, template)
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}),
	}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

const serverName = "rebearer.example"

// client is the transport of a client that trusts trusted and presents a pair,
// if it is given one.
func client(t *testing.T, trusted *authority, present *pair) credentials.TransportCredentials {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(trusted.certificate)
	cfg := &tls.Config{RootCAs: pool, ServerName: serverName, MinVersion: tls.VersionTLS12}
	if present != nil {
		certificate, err := tls.X509KeyPair(present.certificate, present.key)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Certificates = []tls.Certificate{certificate}
	}
	return credentials.NewTLS(cfg)
}

// secure starts a service that only peers may call, and returns the folder of
// its certificates.
func secure(t *testing.T, ours, theirs *authority) (*stage, string) {
	t.Helper()
	folder := t.TempDir()
	certificates(t, folder, ours.issue(t, serverName), theirs)
	at := func(name string) string { return filepath.Join(folder, name) }
	return start(t, settings{timeout: slow, grpc: "{address: 127.0.0.1:0, tls: {cert_file: " + at("cert") + ", key_file: " + at("key") +
		", client_ca_file: " + at("ca") + "}, peers: [envoy.example, 'spiffe://mesh.example/envoy']}"}), folder
}

func certificates(t *testing.T, folder string, server pair, clients *authority) {
	t.Helper()
	for name, data := range map[string][]byte{"cert": server.certificate, "key": server.key, "ca": clients.pem()} {
		if err := os.WriteFile(filepath.Join(folder, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPeers(t *testing.T) {
	t.Parallel()
	ours, theirs, strangers := newAuthority(t), newAuthority(t), newAuthority(t)
	s, _ := secure(t, ours, theirs)
	caller := s.provider.caller(t)
	issue := func(a *authority, names ...string) *pair { p := a.issue(t, names...); return &p }
	for name, tt := range map[string]struct {
		present *pair
		passes  bool
	}{
		"its DNS name":         {issue(theirs, "envoy.example"), true},
		"its URI":              {issue(theirs, "spiffe://mesh.example/envoy"), true},
		"one of several":       {issue(theirs, "other.example", "envoy.example"), true},
		"another name":         {issue(theirs, "other.example"), false},
		"another URI":          {issue(theirs, "spiffe://mesh.example/envoy/2"), false},
		"a wildcard":           {issue(theirs, "*.example"), false},
		"another case":         {issue(theirs, "Envoy.example"), false},
		"no name":              {issue(theirs), false},
		"an unknown authority": {issue(strangers, "envoy.example"), false},
		"the server's own":     {issue(ours, "envoy.example"), false},
		"no certificate":       {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			token, err := check(t.Context(), s.dial(t, client(t, ours, tt.present)), caller)
			switch {
			case tt.passes && (err != nil || token == ""):
				t.Errorf("refused: %v", err)
			case !tt.passes && !refusedBy(err):
				t.Errorf("not refused: %v", err)
			}
		})
	}
	if _, err := check(t.Context(), s.dial(t, nil), caller); !refusedBy(err) {
		t.Errorf("plain text: got %v", err)
	}
}

// Certificates are renewed without a restart, on both sides; a renewal that is
// half done harms no connection that lives.
func TestRenewedCertificates(t *testing.T) {
	t.Parallel()
	ours, theirs, ourNew, theirNew := newAuthority(t), newAuthority(t), newAuthority(t), newAuthority(t)
	s, folder := secure(t, ours, theirs)
	caller := s.provider.caller(t)
	oldPeer, newPeer := theirs.issue(t, "envoy.example"), theirNew.issue(t, "envoy.example")
	living := s.dial(t, client(t, ours, &oldPeer))
	mustCheck(t, living, caller)

	certificates(t, folder, ourNew.issue(t, serverName), theirNew)
	mustCheck(t, living, caller)
	mustCheck(t, s.dial(t, client(t, ourNew, &newPeer)), caller)
	if _, err := check(t.Context(), s.dial(t, client(t, ourNew, &oldPeer)), caller); !refusedBy(err) {
		t.Errorf("a peer of the old authority: got %v", err)
	}
	if _, err := check(t.Context(), s.dial(t, client(t, ours, &newPeer)), caller); !refusedBy(err) {
		t.Errorf("the old certificate is still presented: %v", err)
	}

	if err := os.WriteFile(filepath.Join(folder, "key"), []byte("half written"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustCheck(t, living, caller)
	if _, err := check(t.Context(), s.dial(t, client(t, ourNew, &newPeer)), caller); !refusedBy(err) {
		t.Errorf("a broken key: got %v", err)
	}
	certificates(t, folder, ourNew.issue(t, serverName), theirNew)
	mustCheck(t, s.dial(t, client(t, ourNew, &newPeer)), caller)
}
