package extauthz_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rebearer/rebearer/extauthz/extauthztest"
)

// security.md A2: it never reaches Check. Envoy answers 503 to its caller.
func TestMessageAboveTheLimit(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	_, err := f.client.Check(t.Context(), extauthztest.NewRequest(func(a *attributes) {
		a.Request.Http.RawBody = make([]byte, 5<<20)
	}))
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v, want ResourceExhausted", err)
	}
	if len(f.credential.attempts) != 0 {
		t.Error("it cost a backend token")
	}
}

// security.md A7: which policy, and whether its caller may pass, does not depend
// on how a path is spelled.
func TestPathDecidesNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	bearer := extauthztest.WithBearer(f.issuer.Token("alice", nil))
	for _, path := range []string{
		"/", "//", "/./", "/../", "/orders/../admin", "/orders/..;/admin", "/orders%2Fadmin", "/orders%2fadmin", "/orders%5Cadmin",
		"/orders\\admin", "/orders;x=1", "/orders#x", "/orders?x#y", "/%", "/%zz", "/%2", "/%00", "/\x00", "/ö", "/%c0%af", "/\xff",
		"*", "orders", "http://other.example/orders", "/healthz", "/public", "/favicon.ico", "/.well-known/x", "/metrics", "/login",
		"/orders.css", "/orders/", "/ORDERS", "/orders ", "/ orders", "/orders\t", "/orders%20", "/a//b", "/a/./b", "/a/%2e%2e/b",
		"/a/.%2e/b", "/a/%252e/b", "/?policy=public", "/?access_token=x", "/" + strings.Repeat("a", 60<<10), "/[", "/]", "/{}", "/|", "/^",
	} {
		at := func(a *attributes) { a.Request.Http.Path = strings.ToValidUTF8(path, "!") }
		if got := f.check(t, extauthztest.NewRequest(at)); got.Status != 401 {
			t.Errorf("%.40q without a token: got %d, want 401", path, got.Status)
		}
		if got := f.check(t, extauthztest.NewRequest(bearer, at)); got.Status != 0 {
			t.Errorf("%.40q: got %d, want it to pass", path, got.Status)
		}
	}
}
