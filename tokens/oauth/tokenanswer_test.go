package oauth_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

type outcome string

const (
	gotToken  outcome = "token"
	transient outcome = "transient"
	permanent outcome = "permanent"
	subjects  outcome = "the subject's" // refused for the caller's token
)

func outcomeOf(err error) outcome {
	var (
		refused *tokens.PermanentError
		subject *tokens.SubjectError
	)
	switch isRefused, isSubjects := errors.As(err, &refused), errors.As(err, &subject); {
	case err == nil:
		return gotToken
	case isRefused && isSubjects:
		return "two at once"
	case isSubjects:
		return subjects
	case isRefused:
		return permanent
	}
	return transient
}

// decided says what this package does in the cases that the file leaves open.
func decided() map[string]outcome {
	return map[string]outcome{
		"te-007": gotToken,  // expires_in 0 states no lifetime: the credential's default applies
		"te-011": transient, // beyond 64 bits: x/oauth2 cannot read it, and nor need we
		"te-013": gotToken,  // form-encoded, as x/oauth2 reads it
		"te-017": gotToken,  // no token_type means Bearer
		"te-025": gotToken,  // two access_token members: the last one, as encoding/json reads it
		"te-047": gotToken,  // a backend token is opaque to us: whether it is dead, the backend says
	}
}

func TestTokenEndpointCases(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/token_endpoint_cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Count int
		Cases []struct {
			ID      string            `json:"id"`
			Name    string            `json:"name"`
			Status  int               `json:"status"`
			Headers map[string]string `json:"headers"`
			Body    string            `json:"body"`
			Expect  outcome           `json:"expect"`
			TTL     float64           `json:"ttl_s"`
		}
	}
	if err := json.Unmarshal(text, &file); err != nil || len(file.Cases) != file.Count || file.Count == 0 {
		t.Fatalf("%d cases of %d, error %v", len(file.Cases), file.Count, err)
	}
	for name, way := range ways(t) {
		for _, tt := range file.Cases {
			t.Run(name+" "+tt.ID+" "+tt.Name, func(t *testing.T) {
				t.Parallel()
				server := newAuthorizationServer(t, (*httptest.Server).Start)
				server.handle("/token", serveCase(tt.Status, tt.Headers, tt.Body))
				grant, err := way.ask(t, server.URL+"/token")
				want := tt.Expect
				if want == "either" {
					want = decided()[tt.ID]
				}
				if got := outcomeOf(err); got != want {
					t.Fatalf("got %s (%v), want %s", got, err, want)
				}
				if want != gotToken {
					mustNotLeak(t, err, tt.Body, "oops", "captive", "AT1", "X-Admin", "elsewhere")
					return
				}
				wantLife := time.Duration(tt.TTL) * time.Second
				if tt.ID == "te-047" {
					wantLife = time.Hour
				}
				if grant.AccessToken == "" || grant.ExpiresIn != wantLife {
					t.Errorf("got a token %t, lifetime %v; want lifetime %v", grant.AccessToken != "", grant.ExpiresIn, wantLife)
				}
			})
		}
	}
}

// serveCase answers as a case of the file says.
func serveCase(status int, headers map[string]string, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for name, value := range headers {
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		if body != "(endless)" {
			_, _ = w.Write([]byte(strings.Replace(body, "(a JWT whose exp is 10 s ago)", "eyJ.eyJ.c2ln", 1)))
			return
		}
		for r.Context().Err() == nil {
			if _, err := w.Write([]byte(strings.Repeat("x", 4096))); err != nil {
				return
			}
		}
	}
}

// way is a way of asking for a token.
type way struct {
	cfg     oauth.TokenConfig
	request tokens.GrantRequest
}

func (w way) ask(t *testing.T, address string) (tokens.Grant, error) {
	t.Helper()
	return newSource(t, address, testClient(), w.cfg).Grant(t.Context(), w.request)
}

// ways returns every way of asking for a token.
func ways(t *testing.T) map[string]way {
	t.Helper()
	subject := tokens.GrantRequest{Subject: callersToken}
	return map[string]way{
		"client_credentials": {},
		"token_exchange":     {oauth.TokenConfig{Grant: oauth.TokenExchange}, subject},
		"jwt_bearer":         {oauth.TokenConfig{Grant: oauth.JWTBearer}, subject},
		"signed": {cfg: oauth.TokenConfig{
			Grant: oauth.JWTBearer, Assertion: &oauth.AssertionConfig{KeyFile: writeFile(t, pemOf(t, newKey(t, "P-256")))},
		}},
		"refresh_token": {cfg: oauth.TokenConfig{Grant: oauth.RefreshToken, Store: &memoryStore{token: "canary-refresh"}}},
		"refreshed":     {request: tokens.GrantRequest{Refresh: "canary-refresh"}},
	}
}

// mustNotLeak checks that an error holds neither a secret nor an answer.
func mustNotLeak(t *testing.T, err error, texts ...string) {
	t.Helper()
	shown := fmt.Sprintf("%v %+v %#v", err, err, errors.Unwrap(err))
	for _, text := range append(texts, testSecret, url.QueryEscape(testSecret), callersToken, "canary") {
		if text != "" && strings.Contains(shown, text) {
			t.Errorf("the error shows %q: %s", text, shown)
		}
	}
}

func TestTokenAnswers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		status     int
		body       string
		want       outcome
		life       time.Duration
		retryAfter string
		wantAfter  time.Duration
	}{
		{name: "type in lower case", status: 200, body: `{"access_token":"a","token_type":"bearer","expires_in":59}`, want: gotToken, life: 59 * time.Second},
		{name: "type N_A", status: 200, body: `{"access_token":"a","token_type":"N_A"}`, want: permanent},
		{name: "negative lifetime", status: 200, body: `{"access_token":"a","expires_in":-5}`, want: transient},
		{name: "negative lifetime as text", status: 200, body: `{"access_token":"a","expires_in":"-5"}`, want: transient},
		{name: "lifetime null", status: 200, body: `{"access_token":"a","expires_in":null}`, want: gotToken},
		{name: "lifetime is clamped", status: 200, body: `{"access_token":"a","expires_in":9000000000000000000}`, want: gotToken, life: (1<<31 - 1) * time.Second},
		{name: "lifetime is a word", status: 200, body: `{"access_token":"a","expires_in":"soon"}`, want: transient},
		{name: "lifetime is an object", status: 200, body: `{"access_token":"a","expires_in":{}}`, want: transient},
		{name: "padded token", status: 200, body: `{"access_token":"aA0-._~+/=="}`, want: gotToken},
		{name: "token with padding inside", status: 200, body: `{"access_token":"a=b"}`, want: permanent},
		{name: "token of padding", status: 200, body: `{"access_token":"=="}`, want: permanent},
		{name: "token with a space", status: 200, body: `{"access_token":"a b"}`, want: permanent},
		{name: "8 KiB", status: 200, body: `{"access_token":"` + strings.Repeat("a", 8<<10) + `"}`, want: gotToken},
		{name: "more than 8 KiB", status: 200, body: `{"access_token":"` + strings.Repeat("a", 8<<10+1) + `"}`, want: permanent},
		{name: "more than 64 KiB", status: 200, body: `{"access_token":"a","x":"` + strings.Repeat("a", 64<<10) + `"}`, want: transient},
		{name: "refused by policy", status: 403, body: `{"error":"access_denied","error_description":"canary"}`, want: permanent},
		{name: "no token", status: 200, body: `{}`, want: transient},
		{name: "empty", status: 200, body: ``, want: transient},
		{name: "error with status 200", status: 200, body: `{"error":"invalid_client"}`, want: transient},
		{name: "invalid_scope", status: 400, body: `{"error":"invalid_scope","error_description":"canary"}`, want: permanent},
		{name: "invalid_target", status: 400, body: `{"error":"invalid_target"}`, want: permanent},
		{name: "unknown code", status: 400, body: `{"error":"canary"}`, want: transient},
		{name: "plain 404", status: 404, body: `canary`, want: transient},
		{name: "plain 401", status: 401, body: ``, want: transient},
		{name: "code with 503", status: 503, body: `{"error":"invalid_client"}`, want: transient},
		{name: "code with 429", status: 429, body: `{"error":"invalid_request"}`, retryAfter: "30", want: transient, wantAfter: 30 * time.Second},
		{name: "Retry-After is capped", status: 429, retryAfter: "999999999", want: transient, wantAfter: 5 * time.Minute},
		{name: "Retry-After as a date in the past", status: 503, retryAfter: "Fri, 31 Dec 1999 23:59:59 GMT", want: transient},
		{name: "Retry-After as a date", status: 503, retryAfter: "Fri, 31 Dec 2100 23:59:59 GMT", want: transient, wantAfter: 5 * time.Minute},
		{name: "Retry-After negative", status: 503, retryAfter: "-1", want: transient},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := newAuthorizationServer(t, (*httptest.Server).Start)
			server.handle("/token", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if tt.retryAfter != "" {
					w.Header().Set("Retry-After", tt.retryAfter)
				}
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.body))
			})
			grant, err := newSource(t, server.URL+"/token", testClient(), oauth.TokenConfig{}).Grant(t.Context(), tokens.GrantRequest{})
			if got := outcomeOf(err); got != tt.want {
				t.Fatalf("got %s (%v), want %s", got, err, tt.want)
			}
			if grant.ExpiresIn != tt.life {
				t.Errorf("got lifetime %v, want %v", grant.ExpiresIn, tt.life)
			}
			mustNotLeak(t, err, "canary")
			var response *oauth.ResponseError
			if errors.As(err, &response) && response.RetryAfter() != tt.wantAfter {
				t.Errorf("got Retry-After %v, want %v", response.RetryAfter(), tt.wantAfter)
			}
		})
	}
}

// A refusal of the caller's token is told apart from a refusal of us.
func TestSubjectRefusals(t *testing.T) {
	t.Parallel()
	subject := tokens.GrantRequest{Subject: callersToken}
	theirs := map[string][]string{
		"token_exchange": {"invalid_grant", "invalid_token", "invalid_request"},
		"jwt_bearer":     {"invalid_grant", "invalid_token"},
	}
	codes := []string{
		"invalid_grant", "invalid_token", "invalid_request", "invalid_client", "unauthorized_client",
		"unsupported_grant_type", "invalid_scope", "invalid_target", "access_denied",
	}
	for name, way := range ways(t) {
		for _, code := range codes {
			t.Run(name+" "+code, func(t *testing.T) {
				t.Parallel()
				server := newAuthorizationServer(t, (*httptest.Server).Start)
				server.handle("/token", refuse(http.StatusBadRequest, code))
				_, err := way.ask(t, server.URL+"/token")
				want := permanent
				if slices.Contains(theirs[name], code) {
					want = subjects
				}
				if got := outcomeOf(err); got != want {
					t.Errorf("got %s (%v), want %s", got, err, want)
				}
				var response *oauth.ResponseError
				if !errors.As(err, &response) || response.Code != code {
					t.Errorf("got %v, want one with code %s", err, code)
				}
				mustNotLeak(t, err)
			})
		}
	}

	server := newAuthorizationServer(t, (*httptest.Server).Start)
	server.handle("/token", refuse(http.StatusServiceUnavailable, "invalid_grant"))
	exchange := oauth.TokenConfig{Grant: oauth.TokenExchange}
	if _, err := newSource(t, server.URL+"/token", testClient(), exchange).Grant(t.Context(), subject); outcomeOf(err) != transient {
		t.Errorf("503: got %v", err)
	}
	if _, err := newSource(t, server.URL+"/token", testClient(), exchange).Grant(t.Context(), tokens.GrantRequest{}); outcomeOf(err) != permanent {
		t.Errorf("no subject: got %v", err)
	}
}

// What an exchange may give: a bearer token, or exactly what was asked for (RFC
// 8693 section 2.2.1).
func TestExchangeAnswers(t *testing.T) {
	t.Parallel()
	const idToken = "urn:ietf:params:oauth:token-type:id_token"
	tests := []struct {
		name      string
		requested string
		answer    map[string]any
		want      outcome
	}{
		{"bearer", "", map[string]any{"token_type": "Bearer", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}, gotToken},
		{"bearer of another type", "jwt", map[string]any{"token_type": "Bearer", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}, gotToken},
		{"no issued_token_type", "", map[string]any{"token_type": "bearer"}, gotToken},
		{"N_A as asked", "id_token", map[string]any{"token_type": "N_A", "issued_token_type": idToken}, gotToken},
		{"N_A not asked", "", map[string]any{"token_type": "N_A", "issued_token_type": idToken}, permanent},
		{"N_A of another type", "id_token", map[string]any{"token_type": "N_A", "issued_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, permanent},
		{"N_A of no type", "id_token", map[string]any{"token_type": "N_A"}, permanent},
		{"DPoP", "", map[string]any{"token_type": "DPoP", "issued_token_type": idToken}, permanent},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := newAuthorizationServer(t, (*httptest.Server).Start)
			tt.answer["access_token"] = "canary"
			server.handle("/token", serveJSON(tt.answer))
			_, err := newSource(t, server.URL+"/token", testClient(), oauth.TokenConfig{
				Grant: oauth.TokenExchange, Exchange: oauth.ExchangeConfig{RequestedTokenType: tt.requested},
			}).Grant(t.Context(), tokens.GrantRequest{Subject: callersToken})
			if got := outcomeOf(err); got != tt.want {
				t.Errorf("got %s (%v), want %s", got, err, tt.want)
			}
			if err != nil {
				mustNotLeak(t, err)
			}
		})
	}
}

// Fewer scopes than asked for are told once, and in our words.
func TestNarrowedScopes(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	server := newAuthorizationServer(t, (*httptest.Server).Start)
	logger := slog.New(slog.NewTextHandler(&log, nil))
	source := func(cfg oauth.TokenConfig) *oauth.TokenSource {
		cfg.Scopes = []string{"a", "b", "c"}
		made, err := oauth.NewTokenSource(newClient(t, newProvider(t, oauth.ProviderConfig{
			Name: "shop", TokenURL: server.URL + "/token",
		}), testClient()), logger, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	own, callers := source(oauth.TokenConfig{}), source(oauth.TokenConfig{Grant: oauth.TokenExchange})
	tests := []struct {
		source *oauth.TokenSource
		scope  any
		want   string // what is logged; empty: nothing
	}{
		{own, "a b c", ""},
		{own, "c b a canary", ""},
		{own, "a,b,c", ""},
		{own, "", ""},
		{own, nil, ""},
		{own, []string{"a"}, ""},
		{own, "a canary", "missing=\"[b c]\""},
		{own, "a canary", ""},
		{own, "a b", "missing=[c]"},
		{own, "a b c", ""},
		{own, "a b", "missing=[c]"},
		{callers, "a", ""}, // what one caller may not have is no news
	}
	for _, tt := range tests {
		log.Reset()
		server.handle("/token", serveJSON(map[string]any{"access_token": "a", "scope": tt.scope}))
		if _, err := tt.source.Grant(t.Context(), tokens.GrantRequest{Subject: callersToken}); err != nil {
			t.Fatal(err)
		}
		got := log.String()
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) || strings.Contains(got, "canary") {
			t.Errorf("scope %v: got log %q, want %q", tt.scope, got, tt.want)
		}
	}
}
