package oauth

import (
	"net/http"
	"time"
)

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// NewProviderForTest returns a provider whose exchanges answer serves, so that
// they happen within a synctest bubble.
func NewProviderForTest(issuer string, answer func(*http.Request) (*http.Response, error)) *Provider {
	p := &Provider{name: "test", issuer: issuer}
	p.answers = newClient(transportFunc(answer), 5*time.Second, answerLimit)
	p.keys = newClient(transportFunc(answer), 5*time.Second, keysLimit)
	p.metadata = &discovery{fetch: p.discover, timeout: 5 * time.Second}
	return p
}

// ReadIntrospection is readIntrospection, for the fuzz target.
func ReadIntrospection(body []byte) (Introspection, error) { return readIntrospection(body) }
