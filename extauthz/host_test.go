package extauthz_test

import (
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/rebearer/rebearer/extauthz"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
)

// security.md A8: the authority that Envoy states decides, and no header.
func TestHosts(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.setDefault(t, func(p *extauthz.Policy) {
		p.Hosts = []string{"Orders.Example", "*.api.example", "10.0.0.1", "[2001:DB8::1]"}
	})
	bearer := extauthztest.WithBearer(f.issuer.Token("alice", nil))
	tests := map[string]bool{
		"orders.example":               true,
		"ORDERS.example:8443":          true,
		"orders.example:":              true,
		"a.api.example":                true,
		"b.a.API.example:80":           true,
		"10.0.0.1:1":                   true,
		"[2001:db8::1]:443":            true,
		"[2001:db8::1]":                true,
		"":                             false,
		":443":                         false,
		"orders.example.":              false,
		"orders.example.evil.example":  false,
		"evil-orders.example":          false,
		"api.example":                  false,
		".api.example":                 false,
		"a..api.example":               false,
		"evil/.api.example":            false,
		"evil@a.api.example":           false,
		"evil.example#.api.example":    false,
		"evil.example%2f.api.example":  false,
		"evil.example\\.api.example":   false,
		"evil.example:80.api.example":  false,
		"orders.example:80:80":         false,
		"orders.example:x":             false,
		"orders.example, a.b":          false,
		"2001:db8::1":                  false,
		"[2001:db8::1":                 false,
		"10.0.0.1.":                    false,
		"orders.example\x00":           false,
		"örders.example":               false,
		" orders.example":              false,
		"orders.example ":              false,
		"\u212arders.example":          false, // a K to some who fold case
		"orders.exampl\u0435":          false,
		"a.api.example.":               false,
		"xn--rders-kua.api.example":    true,
		"under_score.api.example:8080": true,
	}
	for host, want := range tests {
		response := f.check(t, extauthztest.NewRequest(bearer, func(a *attributes) { a.Request.Http.Host = host },
			extauthztest.WithHeader("x-forwarded-host", "orders.example"), extauthztest.WithHeader("host", "orders.example")))
		if got := response.Code == codes.OK; got != want {
			t.Errorf("%q: served: got %t, want %t", host, got, want)
		}
		if reason := response.Headers["x-ext-auth-reason"]; !want && (response.Status != 403 || reason != "host_not_served") {
			t.Errorf("%q: got %d %q", host, response.Status, reason)
		}
	}
	for _, host := range []string{"", "*", "*.", ".example", "a.*.example", "*a.example", "a:80", "a/b", "a..b", "[]", "[x]", "*.[::1]"} {
		policy := extauthz.Policy{Name: "default", Callers: f.callers, Credential: f.credential, Hosts: []string{host}}
		if err := f.server.SetPolicies([]extauthz.Policy{policy}); err == nil {
			t.Errorf("host %q: got no error", host)
		}
	}
}
