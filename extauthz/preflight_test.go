package extauthz_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/extauthz"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
	"github.com/rebearer/rebearer/tokens"
)

// preflight is a CORS preflight, that sends more than a browser would.
func preflight(options ...extauthztest.RequestOption) []extauthztest.RequestOption {
	return append([]extauthztest.RequestOption{
		func(a *attributes) { a.Request.Http.Method = "OPTIONS" },
		extauthztest.WithHeader("origin", "https://shop.example"),
		extauthztest.WithHeader("access-control-request-method", "PUT"),
		extauthztest.WithHeader("authorization", "Bearer x"),
		extauthztest.WithHeader("x-caller", "root"),
		extauthztest.WithHeader("cookie", "a=1"),
	}, options...)
}

func TestPreflight(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	set := func(name, value string) extauthztest.RequestOption { return extauthztest.WithHeader(name, value) }
	tests := map[string]struct {
		options []extauthztest.RequestOption
		passes  bool
	}{
		"a real one":        {preflight(), true},
		"raw":               {[]extauthztest.RequestOption{preflight()[0], extauthztest.WithRawHeaders("Origin", "null", "Access-Control-Request-Method", "GET")}, true},
		"another method":    {preflight(func(a *attributes) { a.Request.Http.Method = "GET" }), false},
		"options, in lower": {preflight(func(a *attributes) { a.Request.Http.Method = "options" }), false},
		"without origin":    {preflight(set("origin", "")), false},
		"without method":    {preflight(set("access-control-request-method", "")), false},
		"two origins":       {[]extauthztest.RequestOption{preflight()[0], extauthztest.WithRawHeaders("origin", "a", "origin", "b", "access-control-request-method", "GET")}, false},
		"method override":   {preflight(func(a *attributes) { a.Request.Http.Method = "POST" }, set("x-http-method-override", "OPTIONS")), false},
		"another host":      {preflight(func(a *attributes) { a.Request.Http.Host = "evil.example" }), false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, allowed := range []bool{true, false} {
				f.setDefault(t, func(p *extauthz.Policy) {
					p.Preflight, p.Hosts = allowed, []string{"orders.example"}
					p.Header, p.Forward.Subject, p.TokenFrom.Cookie = extauthz.Header{Name: "x-api"}, "x-caller", "session"
				})
				response, err := f.client.Check(t.Context(), extauthztest.NewRequest(tt.options...))
				if err != nil {
					t.Fatal(err)
				}
				got := read(t, response)
				if !allowed || !tt.passes {
					if got.Status == 0 {
						t.Errorf("allowed %t: it passed", allowed)
					}
					continue
				}
				// No backend token, and nothing of what the caller sent.
				want := answer{Headers: map[string]string{}, Remove: []string{"authorization", "cookie", "x-api", "x-caller"}}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("answer (-want +got):\n%s", diff)
				}
				metadata := metadataOf(t, response)
				wantMetadata := map[string]any{"policy": "default", "verdict": "allow", "reason": "preflight"}
				if diff := cmp.Diff(wantMetadata, metadata); diff != "" || tokens.UseFromFields(metadata).Credential != "" {
					t.Errorf("metadata (-want +got):\n%s", diff)
				}
			}
		})
	}
	if len(f.credential.attempts) != 0 {
		t.Error("a preflight has cost a backend token")
	}
}

func TestAnonymous(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	good := f.issuer.Token("alice", nil)
	tests := map[string]struct {
		option extauthztest.RequestOption
		// What is answered where tokens can be judged, and where not.
		judged, unjudged int
		caller           bool
	}{
		"no token":       {extauthztest.WithHeader("x", "y"), 0, 0, false},
		"good token":     {extauthztest.WithBearer(good), 0, 0, true},
		"bad token":      {extauthztest.WithBearer("x"), 401, 0, false},
		"expired token":  {extauthztest.WithBearer(f.issuer.Token("alice", map[string]any{"exp": 1})), 401, 0, false},
		"two tokens":     {extauthztest.WithRawHeaders("authorization", "Bearer x", "authorization", "Bearer y"), 400, 0, false},
		"another scheme": {extauthztest.WithHeader("authorization", "Basic YTpi"), 0, 0, false},
		"scheme alone":   {extauthztest.WithHeader("authorization", "Bearer"), 0, 0, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for _, judged := range []bool{true, false} {
				f.setDefault(t, func(p *extauthz.Policy) {
					p.Anonymous, p.Forward.Subject, p.Forward.Token = true, "x-caller", "x-token"
					if !judged {
						p.Callers = nil
					}
				})
				response, err := f.client.Check(t.Context(), extauthztest.NewRequest(tt.option))
				if err != nil {
					t.Fatal(err)
				}
				got, metadata := read(t, response), metadataOf(t, response)
				want := map[bool]int{true: tt.judged, false: tt.unjudged}[judged]
				if got.Status != want {
					t.Errorf("judged %t: got %d, want %d", judged, got.Status, want)
				}
				if want != 0 {
					continue
				}
				known := judged && tt.caller
				if _, told := got.Headers["x-caller"]; told != known || (metadata["caller"] != nil) != known || (metadata["reason"] == "anonymous") == known {
					t.Errorf("judged %t: got %v and %v", judged, got.Headers, metadata)
				}
				if !known && !cmp.Equal(got.Remove, []string{"x-caller", "x-token"}) || got.Headers["authorization"] != "Bearer "+backendToken {
					t.Errorf("judged %t: got %+v", judged, got)
				}
			}
		})
	}
}
