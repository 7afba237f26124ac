package extauthz_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/rebearer/rebearer/extauthz"
	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
	"github.com/rebearer/rebearer/tokens"
)

func TestCheckAllows(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	token := f.issuer.Token("alice", nil)
	response, err := f.client.Check(t.Context(), extauthztest.NewRequest(extauthztest.WithBearer(token)))
	if err != nil {
		t.Fatal(err)
	}
	want := answer{Headers: map[string]string{"authorization": "Bearer " + backendToken}}
	if diff := cmp.Diff(want, read(t, response)); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
	use := tokens.UseFromFields(metadataOf(t, response))
	if use.Age < 3*time.Second || use.Age > time.Minute {
		t.Errorf("age: got %v", use.Age)
	}
	use.Age = 0
	wantUse := tokens.Use{
		Policy: "default", Credential: "orders", Generation: 7, Caller: tokens.FingerprintOf(f.issuer.URL + "\x00alice"),
	}
	if diff := cmp.Diff(wantUse, use); diff != "" {
		t.Errorf("dynamic metadata (-want +got):\n%s", diff)
	}
}

func TestCheckWithAnotherHeader(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	got := f.check(t, extauthztest.NewRequest(
		extauthztest.WithPolicy("orders"), extauthztest.WithBearer(f.issuer.Token("alice", nil))))
	want := answer{Headers: map[string]string{"x-api-token": backendToken}, Remove: []string{"authorization"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

// The answer follows the token when that changes.
func TestCheckGivesTheNewToken(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	request := extauthztest.NewRequest(extauthztest.WithBearer(f.issuer.Token("alice", nil)))
	for _, value := range []tokens.Secret{"first", "first", "second", "first"} {
		f.credential.value = value
		if got, want := f.check(t, request).Headers["authorization"], "Bearer "+value.Reveal(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestAuthorizationHeader(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	good := f.issuer.Token("alice", nil)
	header := func(value string) extauthztest.RequestOption {
		return extauthztest.WithHeader("authorization", value)
	}
	tests := []struct {
		name   string
		option extauthztest.RequestOption
		want   int // 0: allowed
		reason string
	}{
		{"bearer", header("bearer " + good), 0, ""},
		{"BEARER", header("BEARER " + good), 0, ""},
		{"two spaces (RFC 9110 section 11.4)", header("Bearer  " + good), 0, ""},
		{"raw", extauthztest.WithRawHeaders("authorization", "Bearer "+good), 0, ""},
		{"raw in mixed case", extauthztest.WithRawHeaders("Authorization", "Bearer "+good), 0, ""},
		{"none", header(""), 401, "token_missing"},
		{"tab", header("Bearer\t" + good), 401, "token_missing"},
		{"scheme alone", header("Bearer"), 401, "token_missing"},
		{"scheme and space", header("Bearer  "), 401, "token_missing"},
		{"Bearerx", header("Bearerx " + good), 401, "token_missing"},
		{"Basic", header("Basic YTpi"), 401, "token_missing"},
		{"token alone", header(good), 401, "token_missing"},
		{"underscore", extauthztest.WithHeader("authorization_", "Bearer "+good), 401, "token_missing"},
		{"cookie", extauthztest.WithHeader("cookie", "authorization="+good), 401, "token_missing"},
		{"other header", extauthztest.WithHeader("x-forwarded-authorization", "Bearer "+good), 401, "token_missing"},
		{"joined", header("Bearer " + good + ", Bearer " + good), 400, "authorization_repeated"},
		{"joined without space", header("Bearer " + good + ",Bearer " + good), 400, "authorization_repeated"},
		{"joined after another scheme", header("Basic YTpi, Bearer " + good), 401, "token_missing"},
		{"raw twice", extauthztest.WithRawHeaders("authorization", "Bearer "+good, "authorization", "Bearer "+good), 400, "authorization_repeated"},
		{"raw twice, one empty", extauthztest.WithRawHeaders("authorization", "Bearer "+good, "Authorization", ""), 400, "authorization_repeated"},
		{"raw, not UTF-8", extauthztest.WithRawHeaders("authorization", "Bearer \xff\xfe", "x-request-id", "\xff"), 401, "token_invalid"},
		{"garbage", header("Bearer x"), 401, "token_invalid"},
		{"space inside", header("Bearer " + good + " x"), 401, "token_invalid"},
		{"too long", header("Bearer " + strings.Repeat("a", 17<<10)), 401, "token_invalid"},
		{"dots", header("Bearer " + strings.Repeat(".", 100_000)), 401, "token_invalid"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := f.check(t, extauthztest.NewRequest(tt.option))
			if got.Status != tt.want || got.Headers["x-ext-auth-reason"] != tt.reason {
				t.Errorf("got %d %q, want %d %q", got.Status, got.Headers["x-ext-auth-reason"], tt.want, tt.reason)
			}
			if tt.want == 0 && got.Headers["authorization"] != "Bearer "+backendToken {
				t.Error("allowed without the backend token")
			}
		})
	}
}

func TestRefusedTokens(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	other := extauthztest.NewIssuer(t)
	past := time.Now().Add(-time.Minute).Unix()
	tests := []struct {
		name          string
		token         string
		public        string
		description   string
		metricsReason string
	}{
		{"expired", f.issuer.Token("a", map[string]any{"exp": past}), "token_expired", "token expired", "token_expired"},
		{"not yet", f.issuer.Token("a", map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}), "token_not_yet_valid", "token not yet valid", "token_not_yet_valid"},
		{"audience", f.issuer.Token("a", map[string]any{"aud": "api://other"}), "token_audience", "token is for another audience", "token_audience"},
		{"bound", f.issuer.Token("a", map[string]any{"cnf": map[string]any{"jkt": "x"}}), "token_bound", "token is bound to a key", "token_bound"},
		{"issuer", f.issuer.Token("a", map[string]any{"iss": "https://other.example"}), "token_invalid", "token invalid", "token_issuer"},
		{"claims", f.issuer.Token("a", map[string]any{"exp": nil}), "token_invalid", "token invalid", "token_claims"},
		{"signature", other.Token("a", map[string]any{"iss": f.issuer.URL}), "token_invalid", "token invalid", "token_signature"},
		{"malformed", "a.b.c", "token_invalid", "token invalid", "token_malformed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := f.check(t, extauthztest.NewRequest(extauthztest.WithBearer(tt.token)))
			want := answer{Code: codes.Unauthenticated, Status: 401, Headers: map[string]string{
				"content-type": "application/problem+json", "cache-control": "no-store", "x-ext-auth-reason": tt.public,
				"www-authenticate": fmt.Sprintf(`Bearer realm="rebearer", error="invalid_token", error_description=%q`, tt.description),
			}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			wantMetric := fmt.Sprintf("rebearer_checks_total{decision=\"deny\",policy=\"default\",reason=%q} 1\n", tt.metricsReason)
			if text := f.metricsText(t); !strings.Contains(text, wantMetric) {
				t.Errorf("metrics lack %s:\n%s", wantMetric, text)
			}
		})
	}
	f.mustNotLog(t, append(tokensOf(tests, func(i int) string { return tests[i].token }), "alice")...)
}

func tokensOf[T any](list []T, token func(int) string) (texts []string) {
	for i := range list {
		texts = append(texts, token(i))
	}
	return texts
}

func TestNoTokenGetsABareChallenge(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	response, err := f.client.Check(t.Context(), extauthztest.NewRequest())
	if err != nil {
		t.Fatal(err)
	}
	want := answer{Code: codes.Unauthenticated, Status: 401, Headers: map[string]string{
		"content-type": "application/problem+json", "cache-control": "no-store",
		"x-ext-auth-reason": "token_missing", "www-authenticate": `Bearer realm="rebearer"`,
	}}
	if diff := cmp.Diff(want, read(t, response)); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
	wantBody := `{"title":"Unauthorized","status":401,"detail":"bearer token missing","reason":"token_missing"}`
	if got := response.GetDeniedResponse().GetBody(); got != wantBody {
		t.Errorf("body: got %s, want %s", got, wantBody)
	}
}

func TestUnusableRequests(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	bearer := extauthztest.WithBearer(f.issuer.Token("alice", nil))
	many := map[string]string{}
	for i := range 10_000 {
		many[fmt.Sprintf("x-%d", i)] = "y"
	}
	tests := []struct {
		name    string
		request *authv3.CheckRequest
		want    int
		reason  string
	}{
		{"empty", &authv3.CheckRequest{}, 503, "request_incomplete"},
		{"no request", &authv3.CheckRequest{Attributes: &authv3.AttributeContext{}}, 503, "request_incomplete"},
		{"no http", &authv3.CheckRequest{Attributes: &authv3.AttributeContext{Request: &authv3.AttributeContext_Request{}}}, 503, "request_incomplete"},
		{"no headers", extauthztest.NewRequest(func(a *authv3.AttributeContext) { a.Request.Http.Headers = nil }), 401, "token_missing"},
		{"many headers", extauthztest.NewRequest(func(a *authv3.AttributeContext) { a.Request.Http.Headers = many }), 401, "token_missing"},
		{"CONNECT", extauthztest.NewRequest(bearer, func(a *authv3.AttributeContext) { a.Request.Http.Method = "CONNECT" }), 400, "request_unusable"},
		{"no path", extauthztest.NewRequest(bearer, func(a *authv3.AttributeContext) { a.Request.Http.Path = "" }), 400, "request_unusable"},
		{"unknown policy", extauthztest.NewRequest(bearer, extauthztest.WithPolicy("oders")), 503, "policy_unknown"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := f.check(t, tt.request)
			if got.Status != tt.want || got.Headers["x-ext-auth-reason"] != tt.reason {
				t.Errorf("got %d %q, want %d %q", got.Status, got.Headers["x-ext-auth-reason"], tt.want, tt.reason)
			}
		})
	}
	// gRPC never hands over a nil request, but a direct call may.
	response, err := f.server.Check(t.Context(), nil)
	if got := read(t, response); err != nil || got.Status != 503 {
		t.Errorf("nil request: got %d, %v", got.Status, err)
	}
	if !strings.Contains(f.log.String(), `policy \"oders\" is not declared`) {
		t.Errorf("the log does not name the unknown policy:\n%s", f.log)
	}
}

// However many names callers of a wrong route have, they are one label.
func TestUnknownPoliciesAreOneLabel(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for i := range 50 {
		f.check(t, extauthztest.NewRequest(extauthztest.WithPolicy(strings.Repeat("x", 1000*i)+fmt.Sprint(i))))
	}
	want := "rebearer_checks_total{decision=\"unavailable\",policy=\"unknown\",reason=\"policy_unknown\"} 50\n"
	if got := f.metricsText(t); !strings.HasSuffix(got, want) || strings.Count(got, "\n") > 3 {
		t.Errorf("metrics:\n%s", got)
	}
	if len(f.log.String()) > 4<<10 {
		t.Errorf("%d bytes of log", len(f.log.String()))
	}
}

// Without a policy of the name default, a route that names none is denied.
func TestDefaultPolicyMustBeDeclared(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	request := extauthztest.NewRequest(extauthztest.WithBearer(f.issuer.Token("alice", nil)))
	verifier := verifierFunc(func(context.Context, string) (caller.Identity, error) { return caller.Identity{}, nil })
	f.setPolicies(t, extauthz.Policy{Name: "orders", Callers: verifier, Credential: f.credential})
	if got := f.check(t, request); got.Status != 503 || got.Headers["x-ext-auth-reason"] != "policy_unknown" {
		t.Errorf("got %d %q", got.Status, got.Headers["x-ext-auth-reason"])
	}
	f.setPolicies(t, extauthz.Policy{Name: "default", Callers: verifier, Credential: f.credential})
	if got := f.check(t, request); got.Code != codes.OK {
		t.Errorf("got %d", got.Status)
	}
}

func TestAttemptIsPassedOn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	bearer := extauthztest.WithBearer(f.issuer.Token("alice", nil))
	for _, value := range []string{"1", "2", "", "x", "-1", "99999999999999999999", "5000"} {
		f.check(t, extauthztest.NewRequest(bearer, extauthztest.WithHeader("x-envoy-attempt-count", value)))
	}
	if diff := cmp.Diff([]int{1, 2, 1, 1, 1, 1, 1000}, f.credential.attempts); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
}

// What a client sends beside the token decides nothing.
func TestOtherHeadersDecideNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, name := range []string{
		"x-forwarded-uri", "x-forwarded-host", "x-forwarded-method", "x-original-url", "x-http-method-override",
		"x-envoy-original-path", "x-envoy-decorator-operation", "policy", "x-rebearer-retry",
	} {
		if got := f.check(t, extauthztest.NewRequest(extauthztest.WithHeader(name, "orders"))); got.Status != 401 {
			t.Errorf("%s: got %d, want 401", name, got.Status)
		}
	}
}

func TestDenialsAreSampledInTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := &logBuffer{}
		server, err := extauthz.New(slog.New(slog.NewJSONHandler(log, nil)), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		flood := func(n int) int {
			before := strings.Count(log.String(), "\n")
			for range n {
				if _, err := server.Check(t.Context(), extauthztest.NewRequest()); err != nil {
					t.Fatal(err)
				}
			}
			return strings.Count(log.String(), "\n") - before
		}
		if got := flood(1000); got != 5 {
			t.Errorf("got %d lines for a flood, want 5", got)
		}
		time.Sleep(10 * time.Second)
		if got := flood(1); got != 1 || !strings.Contains(log.String(), `"lines_left_out_before":995`) {
			t.Errorf("got %d lines after the flood:\n%s", got, log)
		}
		if _, err := server.Check(t.Context(), &authv3.CheckRequest{}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(log.String(), "request_incomplete") {
			t.Error("a flood for one reason hides another")
		}
	})
}

func TestSetPoliciesRefuses(t *testing.T) {
	t.Parallel()
	good := extauthz.Policy{
		Name: "orders", Credential: &credential{},
		Callers: verifierFunc(func(context.Context, string) (caller.Identity, error) { return caller.Identity{}, nil }),
	}
	spoiled := func(spoil func(*extauthz.Policy)) extauthz.Policy {
		p := good
		spoil(&p)
		return p
	}
	named := func(name string) extauthz.Policy {
		return spoiled(func(p *extauthz.Policy) { p.Header.Name = name })
	}
	f := newFixture(t)
	for name, policies := range map[string][]extauthz.Policy{
		"no name":          {spoiled(func(p *extauthz.Policy) { p.Name = "" })},
		"reserved name":    {spoiled(func(p *extauthz.Policy) { p.Name = "unknown" })},
		"no callers":       {spoiled(func(p *extauthz.Policy) { p.Callers = nil })},
		"no credential":    {spoiled(func(p *extauthz.Policy) { p.Credential = nil })},
		"twice":            {good, good},
		"pseudo header":    {named(":path")},
		"host":             {named("Host")},
		"envoy's own":      {named("x-envoy-retry-on")},
		"not a name":       {named("x token")},
		"not a scheme":     {spoiled(func(p *extauthz.Policy) { p.Header = extauthz.Header{Name: "a", Scheme: "B x"} })},
		"line break in it": {named("a\r\nb")},
	} {
		if err := f.server.SetPolicies(policies); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	// The old policies still stand.
	if got := f.check(t, extauthztest.NewRequest(extauthztest.WithBearer(f.issuer.Token("alice", nil)))); got.Code != codes.OK {
		t.Errorf("after refused policies: got %d", got.Status)
	}
}

// Policies may be replaced, and their verifiers closed, under load.
func TestReloadUnderLoad(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	keys := caller.NewKeySet(f.issuer, slog.New(slog.DiscardHandler))
	request := extauthztest.NewRequest(extauthztest.WithBearer(f.issuer.Token("alice", nil)))
	done := make(chan struct{})
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if response, _ := f.server.Check(t.Context(), request); response.GetOkResponse() == nil {
					t.Error("a good token was denied during a reload")
					return
				}
			}
		})
	}
	var old *caller.JWT
	for range 50 {
		next, err := caller.NewJWT(keys, caller.JWTConfig{Issuer: f.issuer.URL, Audiences: []string{extauthztest.Audience}, CacheBytes: 1 << 16})
		if err != nil {
			t.Fatal(err)
		}
		f.setPolicies(t, extauthz.Policy{Name: "default", Callers: next, Credential: f.credential})
		if old != nil {
			old.Close()
		}
		old = next
	}
	close(done)
	load.Wait()
	old.Close()
}
