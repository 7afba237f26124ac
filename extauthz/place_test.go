package extauthz_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/extauthz"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
)

// security.md A3, A4: the token is where the policy says and nowhere else, and
// is there once.
func TestTokenFrom(t *testing.T) {
	t.Parallel()
	good := newFixture(t).issuer.Token("alice", nil)
	header := func(name, value string) extauthztest.RequestOption { return extauthztest.WithHeader(name, value) }
	raw := extauthztest.WithRawHeaders
	var (
		bare   = extauthz.Place{Header: "X-Token"}
		scheme = extauthz.Place{Header: "x-token", Scheme: "Token"}
		inside = extauthz.Place{Cookie: "session"}
	)
	tests := map[string]struct {
		place  extauthz.Place
		option extauthztest.RequestOption
		want   int
		reason string
	}{
		"header":                              {bare, header("x-token", good), 0, ""},
		"header, spaces around":               {bare, header("x-token", " "+good+" "), 0, ""},
		"header, raw in mixed case":           {bare, raw("X-ToKen", good), 0, ""},
		"header, in authorization":            {bare, header("authorization", "Bearer "+good), 401, "token_missing"},
		"header, with a scheme nobody wants":  {bare, header("x-token", "Bearer "+good), 401, "token_invalid"},
		"header, empty":                       {bare, header("x-token", ""), 401, "token_missing"},
		"header, joined":                      {bare, header("x-token", good+","+good), 400, "authorization_repeated"},
		"header, twice":                       {bare, raw("x-token", good, "x-token", good), 400, "authorization_repeated"},
		"header, underscore":                  {bare, header("x_token", good), 401, "token_missing"},
		"header, another case in the map":     {bare, header("X-Token", good), 401, "token_missing"},
		"scheme":                              {scheme, header("x-token", "tOkEn "+good), 0, ""},
		"scheme, another":                     {scheme, header("x-token", "Bearer "+good), 401, "token_missing"},
		"scheme, none":                        {scheme, header("x-token", good), 401, "token_missing"},
		"scheme, alone":                       {scheme, header("x-token", "Token"), 401, "token_missing"},
		"cookie":                              {inside, header("cookie", "session="+good), 0, ""},
		"cookie, quoted":                      {inside, header("cookie", `session="`+good+`"`), 0, ""},
		"cookie, among others":                {inside, header("cookie", "a=1; session="+good+";b=2"), 0, ""},
		"cookie, second header":               {inside, raw("cookie", "a=1", "cookie", "session="+good), 0, ""},
		"cookie, twice":                       {inside, header("cookie", "session="+good+"; session="+good), 400, "authorization_repeated"},
		"cookie, twice in two headers":        {inside, raw("cookie", "session="+good, "cookie", "session=x"), 400, "authorization_repeated"},
		"cookie, joined by a comma":           {inside, header("cookie", "a=1,session="+good), 400, "authorization_repeated"},
		"cookie, joined by a comma and space": {inside, header("cookie", "session="+good+", session=x"), 400, "authorization_repeated"},
		"cookie, another case":                {inside, header("cookie", "Session="+good), 401, "token_missing"},
		"cookie, prefix of a name":            {inside, header("cookie", "xsession="+good+"; session2="+good), 401, "token_missing"},
		"cookie, empty":                       {inside, header("cookie", "session="), 401, "token_missing"},
		"cookie, without a value":             {inside, header("cookie", "session"), 401, "token_missing"},
		"cookie, not UTF-8":                   {inside, raw("cookie", "session=\xff\xfe"), 401, "token_invalid"},
		"cookie, in authorization":            {inside, header("authorization", "Bearer "+good), 401, "token_missing"},
		"never the query": {extauthz.Place{}, func(a *attributes) {
			a.Request.Http.Path += "?access_token=" + good
			a.Request.Http.Query = "access_token=" + good
		}, 401, "token_missing"},
		"never the body": {extauthz.Place{}, func(a *attributes) {
			a.Request.Http.Body = "access_token=" + good
			a.Request.Http.RawBody = []byte("access_token=" + good)
		}, 401, "token_missing"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.setDefault(t, func(p *extauthz.Policy) {
				p.TokenFrom = tt.place
				p.Callers = onlyToken(good)
			})
			got := f.check(t, extauthztest.NewRequest(tt.option))
			if got.Status != tt.want || got.Headers["x-ext-auth-reason"] != tt.reason {
				t.Errorf("got %d %q, want %d %q", got.Status, got.Headers["x-ext-auth-reason"], tt.want, tt.reason)
			}
			f.mustNotLog(t, good)
		})
	}
}

// security.md B9: wherever the caller's token was, the backend does not see it.
func TestCallersTokenIsStripped(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	good := f.issuer.Token("alice", nil)
	ours := "Bearer " + backendToken
	tests := map[string]struct {
		place  extauthz.Place
		header extauthz.Header
		option extauthztest.RequestOption
		want   answer
	}{
		"authorization": {
			extauthz.Place{},
			extauthz.Header{},
			extauthztest.WithBearer(good),
			answer{Headers: map[string]string{"authorization": ours}},
		},
		"header": {
			extauthz.Place{Header: "x-token"},
			extauthz.Header{},
			extauthztest.WithHeader("x-token", good),
			answer{Headers: map[string]string{"authorization": ours}, Remove: []string{"x-token"}},
		},
		"header, and the backend's elsewhere": {
			extauthz.Place{Header: "x-token"},
			extauthz.Header{Name: "x-api"},
			extauthztest.WithHeader("x-token", good),
			answer{Headers: map[string]string{"x-api": backendToken}, Remove: []string{"authorization", "x-token"}},
		},
		"the same header": {
			extauthz.Place{Header: "x-api"},
			extauthz.Header{Name: "x-api"},
			extauthztest.WithHeader("x-api", good),
			answer{Headers: map[string]string{"x-api": backendToken}, Remove: []string{"authorization"}},
		},
		"cookie": {
			extauthz.Place{Cookie: "s"},
			extauthz.Header{},
			extauthztest.WithHeader("cookie", "s="+good),
			answer{Headers: map[string]string{"authorization": ours}, Remove: []string{"cookie"}},
		},
		"cookie among others": {
			extauthz.Place{Cookie: "s"},
			extauthz.Header{},
			extauthztest.WithRawHeaders("cookie", "a=1; s="+good+" ;", "cookie", "b=x=y;flag"),
			answer{Headers: map[string]string{"authorization": ours, "cookie": "a=1; b=x=y; flag"}},
		},
		"cookies that cannot be sent on": {
			extauthz.Place{Cookie: "s"},
			extauthz.Header{},
			extauthztest.WithRawHeaders("cookie", "a=\xff; s="+good+"; b=\x01; c=é"),
			answer{Headers: map[string]string{"authorization": ours, "cookie": "c=é"}},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f.setDefault(t, func(p *extauthz.Policy) { p.TokenFrom, p.Header = tt.place, tt.header })
			if diff := cmp.Diff(tt.want, f.check(t, extauthztest.NewRequest(tt.option))); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPlacesRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, place := range []extauthz.Place{
		{Header: "cookie"},
		{Header: ":path"},
		{Header: "x token"},
		{Header: "host"},
		{Header: "x-envoy-x"},
		{Header: "x", Scheme: "a b"},
		{Cookie: "a b"},
		{Cookie: "a", Header: "x"},
		{Cookie: "a", Scheme: "x"},
		{Cookie: strings.Repeat("=", 3)},
	} {
		policy := extauthz.Policy{Name: "default", Callers: f.callers, Credential: f.credential, TokenFrom: place}
		if err := f.server.SetPolicies([]extauthz.Policy{policy}); err == nil {
			t.Errorf("%+v: got no error", place)
		}
	}
}
