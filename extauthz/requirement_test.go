package extauthz_test

import (
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/rebearer/rebearer/extauthz"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
)

func TestRequirements(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const description = `Bearer realm="rebearer", error="insufficient_scope", error_description="token lacks a scope", scope=`
	claim := func(name string, values ...string) extauthz.Requirement {
		return extauthz.Requirement{Claims: map[string][]string{name: values}}
	}
	tests := map[string]struct {
		require   extauthz.Requirement
		claims    map[string]any
		reason    string // empty: allowed
		challenge string
	}{
		"none":              {extauthz.Requirement{}, map[string]any{"scope": nil}, "", ""},
		"scopes":            {extauthz.Requirement{Scopes: []string{"orders.read", "orders.write"}}, nil, "", ""},
		"scope list":        {extauthz.Requirement{Scopes: []string{"a"}}, map[string]any{"scope": nil, "scp": []string{"b", "a"}}, "", ""},
		"a scope missing":   {extauthz.Requirement{Scopes: []string{"orders.read", "orders.admin"}}, nil, "insufficient_scope", description + `"orders.read orders.admin"`},
		"no scope at all":   {extauthz.Requirement{Scopes: []string{"a"}}, map[string]any{"scope": nil}, "insufficient_scope", description + `"a"`},
		"part of a scope":   {extauthz.Requirement{Scopes: []string{"orders"}}, nil, "insufficient_scope", description + `"orders"`},
		"another case":      {extauthz.Requirement{Scopes: []string{"Orders.read"}}, nil, "insufficient_scope", description + `"Orders.read"`},
		"any scope":         {extauthz.Requirement{AnyScopes: []string{"x", "orders.read"}}, nil, "", ""},
		"none of any":       {extauthz.Requirement{AnyScopes: []string{"x", "y"}}, nil, "insufficient_scope", description + `"x"`},
		"all but none":      {extauthz.Requirement{Scopes: []string{"orders.read"}, AnyScopes: []string{"x", "y"}}, nil, "insufficient_scope", description + `"orders.read x"`},
		"any but not all":   {extauthz.Requirement{Scopes: []string{"z"}, AnyScopes: []string{"orders.read", "y"}}, nil, "insufficient_scope", description + `"z"`},
		"client":            {extauthz.Requirement{Clients: []string{"x", "app"}}, nil, "", ""},
		"client by azp":     {extauthz.Requirement{Clients: []string{"web"}}, map[string]any{"client_id": nil, "azp": "web"}, "", ""},
		"another client":    {extauthz.Requirement{Clients: []string{"x"}}, nil, "client_not_allowed", ""},
		"no client":         {extauthz.Requirement{Clients: []string{"x"}}, map[string]any{"client_id": nil}, "client_not_allowed", ""},
		"claim":             {claim("tenant", "acme", "umbrella"), map[string]any{"tenant": "umbrella"}, "", ""},
		"claim, another":    {claim("tenant", "acme"), map[string]any{"tenant": "acme2"}, "claim_missing", ""},
		"claim, none":       {claim("tenant", "acme"), nil, "claim_missing", ""},
		"claim, null":       {claim("tenant", "null", ""), map[string]any{"tenant": []any{nil}}, "claim_missing", ""},
		"claim, list":       {claim("roles", "admin"), map[string]any{"roles": []string{"user", "admin"}}, "", ""},
		"claim, empty list": {claim("roles", "admin"), map[string]any{"roles": []string{}}, "claim_missing", ""},
		"claim, object":     {claim("org", "acme"), map[string]any{"org": map[string]any{"acme": "acme"}}, "claim_missing", ""},
		"claim, in a list":  {claim("org", "acme"), map[string]any{"org": []any{"acme", map[string]any{}}}, "claim_missing", ""},
		"claim, boolean":    {claim("verified", "true"), map[string]any{"verified": true}, "", ""},
		"claim, number":     {claim("level", "3"), map[string]any{"level": 3}, "", ""},
		"claim, not kept":   {claim("department", "x"), map[string]any{"department": "x"}, "claim_missing", ""},
		"claim, two": {
			extauthz.Requirement{Claims: map[string][]string{"tenant": {"acme"}, "level": {"3"}}},
			map[string]any{"tenant": "acme", "level": 4},
			"claim_missing", "",
		},
		"what no scope mends comes first": {
			extauthz.Requirement{Scopes: []string{"x"}, Clients: []string{"x"}}, nil, "client_not_allowed", "",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f.setDefault(t, func(p *extauthz.Policy) { p.Require = tt.require })
			token := f.issuer.Token("alice", tt.claims)
			// Twice: what is remembered of a token must not go round it.
			for range 2 {
				got := f.check(t, extauthztest.NewRequest(extauthztest.WithBearer(token)))
				if got.Headers["x-ext-auth-reason"] != tt.reason || got.Headers["www-authenticate"] != tt.challenge {
					t.Errorf("got %+v", got)
				}
				if tt.reason != "" && (got.Status != 403 || got.Code != codes.PermissionDenied) {
					t.Errorf("got %d, %v", got.Status, got.Code)
				}
			}
		})
	}
	f.mustNotLog(t, "umbrella", "acme2")
}

// Policies that share callers do not share what those may do.
func TestRequirementsOfTwoPolicies(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	open := extauthz.Policy{Name: "open", Callers: f.callers, Credential: f.credential}
	strict := extauthz.Policy{Name: "strict", Callers: f.callers, Credential: f.credential, Require: extauthz.Requirement{Scopes: []string{"x"}}}
	f.setPolicies(t, open, strict)
	bearer := extauthztest.WithBearer(f.issuer.Token("alice", nil))
	for _, want := range []struct {
		policy string
		status int
	}{{"open", 0}, {"strict", 403}, {"open", 0}, {"strict", 403}} {
		if got := f.check(t, extauthztest.NewRequest(bearer, extauthztest.WithPolicy(want.policy))); got.Status != want.status {
			t.Errorf("%s: got %d, want %d", want.policy, got.Status, want.status)
		}
	}
}

func TestRequirementsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for name, require := range map[string]extauthz.Requirement{
		"empty scope":        {Scopes: []string{""}},
		"two scopes in one":  {Scopes: []string{"a b"}},
		"quote":              {AnyScopes: []string{`a"`}},
		"line break":         {AnyScopes: []string{"a\r\n"}},
		"claim of no value":  {Claims: map[string][]string{"a": nil}},
		"claim of no name":   {Claims: map[string][]string{"": {"a"}}},
		"beside no token":    {Clients: []string{"a"}},
		"beside no token, 2": {Claims: map[string][]string{"a": {"a"}}},
	} {
		policy := extauthz.Policy{Name: "default", Callers: f.callers, Credential: f.credential, Require: require, Anonymous: name[0] == 'b'}
		if err := f.server.SetPolicies([]extauthz.Policy{policy}); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
