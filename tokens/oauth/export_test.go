package oauth

import (
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"
)

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// NewProviderForTest returns a provider whose exchanges answer serves, so that
// they happen within a synctest bubble.
func NewProviderForTest(issuer string, answer func(*http.Request) (*http.Response, error)) *Provider {
	p := &Provider{name: "test", issuer: issuer, timeout: 5 * time.Second}
	p.answers = p.newAnswers(transportFunc(answer))
	p.keys = newClient(transportFunc(answer), 5*time.Second, keysLimit)
	p.metadata = &discovery{fetch: p.discover, timeout: 5 * time.Second}
	return p
}

// ReadIntrospection is readIntrospection, for the fuzz target.
func ReadIntrospection(body []byte) (Introspection, error) { return readIntrospection(body) }

// ReadKey returns the algorithm that a file's key signs with, having signed.
func ReadKey(text []byte) (string, error) {
	key, err := parsePrivateKey(text)
	if err != nil {
		return "", err
	}
	signer, err := keySigner(key, "", "")
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign([]byte("{}"))
	if err != nil {
		return "", err
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		return "", err
	}
	parsed, err := jose.ParseSignedCompact(compact, keyAlgorithms())
	if err != nil {
		return "", err
	}
	return parsed.Signatures[0].Header.Algorithm, nil
}
