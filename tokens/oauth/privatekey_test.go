package oauth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/rebearer/rebearer/tokens/oauth"
)

// newKey returns a new private key of a kind: P-224, P-256, P-384, P-521,
// Ed25519, RSA or short RSA.
func newKey(t testing.TB, kind string) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "RSA":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "short RSA":
		key, err = rsa.GenerateKey(rand.Reader, 1024)
	case "Ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		curves := map[string]elliptic.Curve{
			"P-224": elliptic.P224(), "P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521(),
		}
		key, err = ecdsa.GenerateKey(curves[kind], rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// pemOf returns a key as a PKCS #8 block.
func pemOf(t testing.TB, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return block("PRIVATE KEY", der)
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// jwkOf returns a key as a JSON Web Key.
func jwkOf(t testing.TB, key jose.JSONWebKey) []byte {
	t.Helper()
	text, err := json.Marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// writeFile returns the name of a new file.
func writeFile(t testing.TB, content []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	overwrite(t, name, content)
	return name
}

func overwrite(t testing.TB, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestPrivateKeys(t *testing.T) {
	t.Parallel()
	rsaKey := newKey(t, "RSA")
	p256 := newKey(t, "P-256")
	sec1, err := x509.MarshalECPrivateKey(p256.(*ecdsa.PrivateKey)) //nolint:errcheck,forcetypeassert // it is one
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := x509.MarshalPKCS1PrivateKey(rsaKey.(*rsa.PrivateKey)) //nolint:errcheck,forcetypeassert // it is one
	public, err := x509.MarshalPKIXPublicKey(rsaKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	locked := pem.EncodeToMemory(&pem.Block{
		Type: "RSA PRIVATE KEY", Bytes: pkcs1,
		Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"},
	})
	tests := []struct {
		name string
		text []byte
		want string // algorithm, or the start of what is wrong
	}{
		{"PKCS #8 RSA", pemOf(t, rsaKey), "RS256"},
		{"PKCS #8 P-256", pemOf(t, p256), "ES256"},
		{"PKCS #8 P-384", pemOf(t, newKey(t, "P-384")), "ES384"},
		{"PKCS #8 P-521", pemOf(t, newKey(t, "P-521")), "ES512"},
		{"PKCS #8 Ed25519", pemOf(t, newKey(t, "Ed25519")), "EdDSA"},
		{"PKCS #1", block("RSA PRIVATE KEY", pkcs1), "RS256"},
		{"SEC 1", block("EC PRIVATE KEY", sec1), "ES256"},
		{"after a certificate", append(block("CERTIFICATE", []byte("x")), pemOf(t, p256)...), "ES256"},
		{"after the public key", append(block("PUBLIC KEY", public), pemOf(t, rsaKey)...), "RS256"},
		{"after text", append([]byte("Bag Attributes\n"), pemOf(t, p256)...), "ES256"},
		{"JWK", jwkOf(t, jose.JSONWebKey{Key: rsaKey}), "RS256"},
		{"JWK with algorithm", jwkOf(t, jose.JSONWebKey{Key: rsaKey, Algorithm: "PS384"}), "PS384"},
		{"JWK Ed25519", jwkOf(t, jose.JSONWebKey{Key: newKey(t, "Ed25519")}), "EdDSA"},
		{"JWK after a line", append([]byte("\n"), jwkOf(t, jose.JSONWebKey{Key: p256})...), "ES256"},

		{"empty", nil, "holds no private key"},
		{"a secret", []byte(testSecret), "holds no private key"},
		{"certificate", block("CERTIFICATE", []byte("x")), "holds no private key"},
		{"public key", block("PUBLIC KEY", public), "holds a public key"},
		{"public JWK", jwkOf(t, jose.JSONWebKey{Key: rsaKey.Public()}), "holds a public key"},
		{"encrypted PKCS #8", block("ENCRYPTED PRIVATE KEY", []byte("x")), "holds an encrypted key"},
		{"encrypted PKCS #1", locked, "holds an encrypted key"},
		{"damaged", block("PRIVATE KEY", []byte(testSecret)), "holds a damaged private key"},
		{"damaged JWK", []byte(`{"kty":"RSA","n":"` + testSecret + `"}`), "holds a damaged private key"},
		{"other JSON", []byte(`{"a":"` + testSecret + `"}`), "holds a damaged private key"},
		{"secret JWK", []byte(`{"kty":"oct","k":"AAAA"}`), "holds a key that cannot sign"},
		{"X25519 JWK", []byte(`{"kty":"OKP","crv":"X25519","x":"AAAA","d":"AAAA"}`), "holds a key that cannot sign"},
		{"short RSA", pemOf(t, newKey(t, "short RSA")), "holds a key that cannot sign"},
		{"P-224", pemOf(t, newKey(t, "P-224")), "holds a key that cannot sign"},
		{"JWK with another's algorithm", jwkOf(t, jose.JSONWebKey{Key: p256, Algorithm: "RS256"}), "holds a key that does not fit"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := oauth.ReadKey(tt.text)
			if err != nil {
				mustNotLeak(t, err)
				got = err.Error()
			}
			if !strings.HasPrefix(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// FuzzPrivateKey looks for a file that breaks the reader, or that makes a key
// that cannot sign after all.
func FuzzPrivateKey(f *testing.F) {
	f.Add(pemOf(f, newKey(f, "P-256")))
	f.Add(jwkOf(f, jose.JSONWebKey{Key: newKey(f, "Ed25519"), Algorithm: "EdDSA"}))
	f.Add(jwkOf(f, jose.JSONWebKey{Key: newKey(f, "RSA")}))
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := oauth.ReadKey(text); err != nil && !strings.HasPrefix(err.Error(), "holds ") {
			t.Errorf("%q: %v", text, err)
		}
	})
}
