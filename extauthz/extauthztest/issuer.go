package extauthztest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Audience is the audience of an Issuer's tokens.
const Audience = "api://orders"

// Issuer is an issuer of callers' tokens, with metadata and keys as a real one
// has. It is safe for concurrent use.
type Issuer struct {
	// URL is the issuer identifier.
	URL string

	t  testing.TB
	mu sync.Mutex
	// keys are what the key set has; the last one signs.
	keys    []jose.JSONWebKey
	down    bool
	fetches int
}

// NewIssuer returns an issuer with one key, whose kid is "1". It has no server:
// [Issuer.JWKS] is its key set, unless [Issuer.Serve] is called.
func NewIssuer(t testing.TB) *Issuer {
	t.Helper()
	i := &Issuer{URL: "https://issuer.example", t: t}
	i.AddKey("1")
	return i
}

// Serve makes the issuer a real HTTP server on loopback, until the test ends.
func (i *Issuer) Serve() *Issuer {
	i.t.Helper()
	server := httptest.NewServer(http.HandlerFunc(i.serve))
	i.t.Cleanup(server.Close)
	i.URL = server.URL
	return i
}

func (i *Issuer) serve(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": i.URL, "jwks_uri": i.URL + "/jwks"})
	case "/jwks":
		keys, err := i.JWKS(r.Context())
		if err != nil {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		_, _ = w.Write(keys)
	default:
		http.NotFound(w, r)
	}
}

// JWKS returns the key set as it is served.
func (i *Issuer) JWKS(context.Context) ([]byte, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fetches++
	if i.down {
		return nil, errors.New("issuer is down")
	}
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, key := range i.keys {
		set.Keys = append(set.Keys, key.Public())
	}
	return json.Marshal(set)
}

// Fetches returns how often the key set was asked for.
func (i *Issuer) Fetches() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches
}

// SetDown makes the key set fail, or work again.
func (i *Issuer) SetDown(down bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.down = down
}

// AddKey adds an ES256 key that signs from now on, and returns it.
func (i *Issuer) AddKey(kid string) jose.JSONWebKey {
	i.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = append(i.keys, jose.JSONWebKey{Key: private, KeyID: kid, Algorithm: string(jose.ES256), Use: "sig"})
	return i.keys[len(i.keys)-1]
}

// RemoveKeys removes all keys of that kid.
func (i *Issuer) RemoveKeys(kid string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var kept []jose.JSONWebKey
	for _, key := range i.keys {
		if key.KeyID != kid {
			kept = append(kept, key)
		}
	}
	i.keys = kept
}

// Claims returns the claims of a good token for subject: it lives for an hour
// and is meant for [Audience]. Those of change replace them; nil removes one.
func (i *Issuer) Claims(subject string, change map[string]any) map[string]any {
	now := time.Now()
	claims := map[string]any{
		"iss": i.URL, "sub": subject, "aud": Audience, "client_id": "app", "scope": "orders.read orders.write",
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	maps.Copy(claims, change)
	maps.DeleteFunc(claims, func(_ string, value any) bool { return value == nil })
	return claims
}

// Token returns a token with these claims, signed by the issuer's last key.
func (i *Issuer) Token(subject string, change map[string]any) string {
	i.t.Helper()
	i.mu.Lock()
	key := i.keys[len(i.keys)-1]
	i.mu.Unlock()
	return Sign(i.t, key, map[string]any{"typ": "at+jwt"}, i.Claims(subject, change))
}

// Sign returns claims as a token that key signed. The header has alg, kid if
// the key has one, and what header names.
func Sign(t testing.TB, key jose.JSONWebKey, header, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	options := &jose.SignerOptions{}
	for name, value := range header {
		options.WithHeader(jose.HeaderKey(name), value)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(key.Algorithm), Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}
