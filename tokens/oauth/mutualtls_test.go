package oauth_test

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

// newCertificate returns a self-signed certificate, its key, and the SHA-256 of
// the certificate.
func newCertificate(t *testing.T) (certificate, key []byte, digest string) {
	t.Helper()
	signer := newKey(t, "P-256")
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return block("CERTIFICATE", der), pemOf(t, signer), digestOf(der)
}

func digestOf(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// An assertion names the certificate that stands beside the key, and no other.
func TestAssertionNamesItsCertificate(t *testing.T) {
	t.Parallel()
	certificate, key, digest := newCertificate(t)
	other, _, _ := newCertificate(t)
	for name, tt := range map[string]struct {
		file []byte
		want string
	}{
		"alone":            {key, ""},
		"with another's":   {slices.Concat(other, key), ""},
		"with its own":     {slices.Concat(key, other, certificate), digest},
		"with a false one": {slices.Concat(block("CERTIFICATE", []byte("x")), key), ""},
	} {
		server := newAuthorizationServer(t, (*httptest.Server).Start)
		server.handle("/token", func(w http.ResponseWriter, r *http.Request) {
			parsed, err := jwt.ParseSigned(r.PostFormValue("client_assertion"), []jose.SignatureAlgorithm{jose.ES256})
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			thumbprint, _ := parsed.Headers[0].ExtraHeaders["x5t#S256"].(string)
			got, err := base64.RawURLEncoding.DecodeString(thumbprint)
			if hex.EncodeToString(got) != tt.want || err != nil {
				t.Errorf("%s: got %x, %v; want %s", name, got, err, tt.want)
			}
			serveJSON(map[string]any{"access_token": "a"})(w, r)
		})
		source := newSource(t, server.URL+"/token", oauth.ClientConfig{
			ID: "gateway", AuthMethod: oauth.PrivateKeyJWT, KeyFile: writeFile(t, tt.file),
		}, oauth.TokenConfig{})
		if _, err := source.Grant(t.Context(), tokens.GrantRequest{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The certificate is shown, and a changed one on new connections at once.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	var shown []string
	server := newAuthorizationServer(t, func(s *httptest.Server) {
		s.EnableHTTP2 = true
		s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
		s.StartTLS()
	})
	server.handle("/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		serveJSON(map[string]any{
			"issuer": server.URL, "token_endpoint": server.URL + "/public", "introspection_endpoint": server.URL + "/introspect",
			"mtls_endpoint_aliases": map[string]string{"token_endpoint": server.URL + "/token"},
		})(w, r)
	})
	server.handle("/token", func(w http.ResponseWriter, r *http.Request) {
		want := seen{Form: map[string][]string{"client_id": {"gateway"}, "grant_type": {"client_credentials"}}}
		if diff := cmp.Diff(want, see(r)); diff != "" {
			t.Errorf("request (-want +got):\n%s", diff)
		}
		if len(r.TLS.PeerCertificates) == 0 {
			refuse(http.StatusUnauthorized, "invalid_client")(w, r)
			return
		}
		shown = append(shown, digestOf(r.TLS.PeerCertificates[0].Raw))
		serveJSON(map[string]any{"access_token": "a"})(w, r)
	})
	server.handle("/introspect", func(w http.ResponseWriter, r *http.Request) {
		shown = append(shown, digestOf(r.TLS.PeerCertificates[0].Raw))
		serveText(`{"active":false}`)(w, r)
	})

	provider := newProvider(t, oauth.ProviderConfig{
		Name: "shop", Issuer: server.URL, CAFile: writeFile(t, block("CERTIFICATE", server.Certificate().Raw)),
	})
	oldCertificate, oldKey, oldDigest := newCertificate(t)
	newCertificate, newKey, newDigest := newCertificate(t)
	cfg := oauth.ClientConfig{
		ID: "gateway", AuthMethod: oauth.TLSClientAuth,
		CertFile: writeFile(t, oldCertificate), KeyFile: writeFile(t, oldKey),
	}
	source := newSourceAt(t, provider, cfg, oauth.TokenConfig{})
	ask := func() error {
		_, err := source.Grant(t.Context(), tokens.GrantRequest{})
		return err
	}
	for range 2 {
		if err := ask(); err != nil {
			t.Fatal(err)
		}
	}
	overwrite(t, cfg.CertFile, newCertificate)
	if err := ask(); outcomeOf(err) != transient {
		t.Errorf("half changed: got %v", err)
	}
	overwrite(t, cfg.KeyFile, newKey)
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	if _, err := newClient(t, provider, cfg).Introspect(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{oldDigest, oldDigest, newDigest, newDigest}, shown); diff != "" {
		t.Errorf("certificates (-want +got):\n%s", diff)
	}
	if got := server.count("/public"); got != 0 {
		t.Errorf("the endpoint for others got %d requests", got)
	}

	// Another client of the same provider shows none.
	plain := newSourceAt(t, provider, testClient(), oauth.TokenConfig{})
	if _, err := plain.Grant(t.Context(), tokens.GrantRequest{}); err == nil || server.count("/public") != 1 {
		t.Errorf("got %v, %d requests to the endpoint for others", err, server.count("/public"))
	}
}

// A URL that is configured is the one that is asked.
func TestMutualTLSAliasesYield(t *testing.T) {
	t.Parallel()
	server := newAuthorizationServer(t, (*httptest.Server).Start)
	server.handle("/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		serveJSON(map[string]any{
			"issuer": server.URL, "token_endpoint": server.URL + "/public", "mtls_endpoint_aliases": map[string]string{"token_endpoint": server.URL + "/alias"},
		})(w, r)
	})
	server.handle("/given", serveJSON(map[string]any{"access_token": "a"}))
	certificate, key, _ := newCertificate(t)
	provider := newProvider(t, oauth.ProviderConfig{Issuer: server.URL, TokenURL: server.URL + "/given"})
	source := newSourceAt(t, provider, oauth.ClientConfig{
		ID: "gateway", AuthMethod: oauth.SelfSignedTLSClientAuth, CertFile: writeFile(t, certificate), KeyFile: writeFile(t, key),
	}, oauth.TokenConfig{})
	if _, err := source.Grant(t.Context(), tokens.GrantRequest{}); err != nil {
		t.Error(err)
	}
}
