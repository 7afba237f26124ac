package extauthz_test

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/extauthz"
	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
)

func everyIdentityHeader() extauthz.Forward {
	return extauthz.Forward{
		Subject: "X-Subject", Client: "x-client", Scopes: "x-scopes", Token: "x-token",
		Claims: map[string]string{"tenant": "x-tenant", "roles": "X-Roles"},
	}
}

// security.md B10: what a policy does not tell the backend, the caller cannot
// tell it either, to whichever policy he talks.
func TestForward(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.setPolicies(t,
		extauthz.Policy{Name: "default", Callers: f.callers, Credential: f.credential, Forward: everyIdentityHeader()},
		extauthz.Policy{Name: "silent", Callers: f.callers, Credential: f.credential},
		extauthz.Policy{
			Name: "token", Callers: f.callers, Credential: f.credential, Header: extauthz.Header{Name: "x-api"},
			Forward: extauthz.Forward{Token: "authorization"},
		})
	full := f.issuer.Token("alice", map[string]any{"tenant": "acme", "roles": []string{"user", "admin"}})
	poor := f.issuer.Token("", map[string]any{"sub": nil, "scope": nil, "tenant": map[string]any{"a": "b"}, "roles": nil})
	all := []string{"x-client", "x-roles", "x-scopes", "x-subject", "x-tenant", "x-token"}
	const ours = "Bearer " + backendToken
	tests := map[string]struct {
		policy, token string
		want          answer
	}{
		"all": {"default", full, answer{Headers: map[string]string{
			"authorization": ours, "x-subject": "alice", "x-client": "app", "x-scopes": "orders.read orders.write",
			"x-tenant": "acme", "x-roles": "user,admin", "x-token": full,
		}}},
		"what the token has": {"default", poor, answer{
			Headers: map[string]string{"authorization": ours, "x-client": "app", "x-token": poor},
			Remove:  []string{"x-roles", "x-scopes", "x-subject", "x-tenant"},
		}},
		"another policy": {"silent", full, answer{Headers: map[string]string{"authorization": ours}, Remove: all}},
		"token": {"token", full, answer{
			Headers: map[string]string{"authorization": "Bearer " + full, "x-api": backendToken}, Remove: all,
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			options := []extauthztest.RequestOption{extauthztest.WithBearer(tt.token), extauthztest.WithPolicy(tt.policy)}
			for _, header := range all {
				options = append(options, extauthztest.WithHeader(header, "forged"))
			}
			got := f.check(t, extauthztest.NewRequest(options...))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

// security.md B11: a value is visible ASCII, one value, and can be read back;
// what a header should not hold refuses the request.
func TestForwardedValues(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	accepted := map[string]string{
		"auth0|5f7c8ec7":          "auth0|5f7c8ec7",
		"alice@example.org":       "alice@example.org",
		"CN=a,OU=b":               "CN=a%2COU=b",
		"100%":                    "100%25",
		"Jörg Müller":             "J%C3%B6rg%20M%C3%BCller",
		" leading":                "%20leading",
		"日本":                      "%E6%97%A5%E6%9C%AC",
		`"quoted\`:                `"quoted\`,
		"\u2028":                  "%E2%80%A8",
		strings.Repeat("a", 8192): strings.Repeat("a", 8192),
	}
	refused := []string{"a\r\nx-admin: 1", "a\nb", "a\x00", "\x7f", "\t", strings.Repeat("a", 8193), strings.Repeat("é", 1366)}
	var who caller.Identity
	f.setDefault(t, func(p *extauthz.Policy) {
		p.Callers = verifierFunc(func(context.Context, string) (caller.Identity, error) { return who, nil })
		p.Forward = extauthz.Forward{Subject: "x-subject", Scopes: "x-scopes", Claims: map[string]string{"c": "x-claim", "n": "x-number"}}
	})
	check := func() answer { return f.check(t, extauthztest.NewRequest(extauthztest.WithBearer("x"))) }
	for text, want := range accepted {
		who = caller.Identity{
			Subject: text, Scopes: caller.Scopes{"b", text},
			Claims: map[string]any{"c": []any{text, true, text}, "n": json.Number("1e2")},
		}
		if len(text) > 100 {
			who.Scopes, who.Claims = nil, nil
		}
		got := check().Headers
		if got["x-subject"] != want || len(text) <= 100 && (got["x-scopes"] != "b "+want || got["x-claim"] != want+",true,"+want || got["x-number"] != "1e2") {
			t.Errorf("%q: got %q", text, got)
		}
		if back, err := url.PathUnescape(got["x-subject"]); err != nil || back != text {
			t.Errorf("%q is read back as %q, %v", text, back, err)
		}
	}
	for _, text := range refused {
		for _, who = range []caller.Identity{{Subject: text}, {Scopes: caller.Scopes{text}}, {Claims: map[string]any{"c": text}}} {
			if got := check(); got.Status != 403 || got.Headers["x-ext-auth-reason"] != "claim_unforwardable" {
				t.Errorf("%.20q: got %+v", text, got)
			}
		}
	}
}

// A token that is no header's value is not forwarded, whatever a verifier says.
func TestForwardedTokenIsVisible(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.setDefault(t, func(p *extauthz.Policy) {
		p.Callers = verifierFunc(func(context.Context, string) (caller.Identity, error) { return caller.Identity{}, nil })
		p.Forward.Token, p.TokenFrom = "x-token", extauthz.Place{Header: "x-in"}
	})
	for _, token := range []string{"a b", "a\x00", "ü", "a\tb"} {
		if got := f.check(t, extauthztest.NewRequest(extauthztest.WithHeader("x-in", token))); got.Headers["x-ext-auth-reason"] != "claim_unforwardable" {
			t.Errorf("%q: got %+v", token, got)
		}
	}
}

func TestForwardsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, forward := range map[string]extauthz.Forward{
		"authorization":    {Subject: "Authorization"},
		"the backend's":    {Token: "authorization"},
		"cookie":           {Client: "cookie"},
		"pseudo header":    {Scopes: ":path"},
		"twice":            {Subject: "x-a", Client: "X-A"},
		"no claim":         {Claims: map[string]string{"": "x-a"}},
		"no header":        {Claims: map[string]string{"tenant": ""}},
		"not a name":       {Claims: map[string]string{"tenant": "x a"}},
		"line break in it": {Subject: "a\r\nb"},
	} {
		policy := extauthz.Policy{Name: "default", Callers: f.callers, Credential: f.credential, Forward: forward}
		if err := f.server.SetPolicies([]extauthz.Policy{policy}); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
