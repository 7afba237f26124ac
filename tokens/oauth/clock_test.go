package oauth_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

// Assertions carry the provider's time, as far as its answers tell it.
func TestClockSkew(t *testing.T) {
	t.Parallel()
	key := newKey(t, "P-256")
	file := writeFile(t, pemOf(t, key))
	synctest.Test(t, func(t *testing.T) {
		var ahead time.Duration
		header := http.Header{}
		var issued time.Time // by the last assertion
		provider := oauth.NewProviderForTest("https://idp.example", func(r *http.Request) (*http.Response, error) {
			recorder := httptest.NewRecorder()
			recorder.Header()["Date"] = nil
			for name, values := range header {
				recorder.Header()[name] = values
			}
			if header.Get("Date") == "" {
				recorder.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
			}
			if r.Method == http.MethodGet {
				serveJSON(map[string]any{"issuer": "https://idp.example", "token_endpoint": "https://idp.example/t"})(recorder, r)
				return recorder.Result(), nil
			}
			assertion, err := jwt.ParseSigned(r.PostFormValue("client_assertion"), []jose.SignatureAlgorithm{jose.ES256})
			var claims jwt.Claims
			if err != nil || assertion.Claims(key.Public(), &claims) != nil {
				t.Error("no assertion")
			}
			issued = claims.IssuedAt.Time()
			serveJSON(map[string]any{"access_token": "a"})(recorder, r)
			return recorder.Result(), nil
		})
		source := newSourceAt(t, provider, oauth.ClientConfig{ID: "a", AuthMethod: oauth.PrivateKeyJWT, KeyFile: file}, oauth.TokenConfig{})
		if skew, known := provider.Skew(); skew != 0 || known {
			t.Errorf("before: got %v, %t", skew, known)
		}
		step := func(name string, behind time.Duration) {
			t.Helper()
			time.Sleep(700 * time.Millisecond)
			if _, err := source.Grant(t.Context(), tokens.GrantRequest{}); err != nil {
				t.Fatal(err)
			}
			// Never from the provider's future, and hardly from its past.
			now := time.Now().Add(ahead)
			if age := now.Sub(issued) - behind; age < 0 || age > 2*time.Second {
				t.Errorf("%s: the assertion is %v old, want 0 to 2 s more than %v", name, age+behind, behind)
			}
		}
		ahead = 90 * time.Second
		step("the metadata told", 0)
		if skew, known := provider.Skew(); skew > ahead || skew < ahead-time.Second || !known {
			t.Errorf("got %v, %t; want about %v", skew, known, ahead)
		}
		ahead = -time.Hour
		_, _ = source.Grant(t.Context(), tokens.GrantRequest{})
		step("the answer to another told", 0)
		header = http.Header{"Date": {"Fri, 31 Dec 1999 23:59:59 GMT"}, "Age": {"1"}}
		step("from a cache", 0)
		header = http.Header{"Date": {"today"}}
		step("not a date", 0)
		step("still not", 0)
	})
}
