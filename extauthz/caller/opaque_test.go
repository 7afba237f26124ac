package caller_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

const opaqueIssuer = "https://issuer.example"

func opaqueConfig() caller.OpaqueConfig {
	return caller.OpaqueConfig{
		Issuer: opaqueIssuer, Audiences: []string{"api://orders"}, ClockSkew: 30 * time.Second, CacheBytes: 1 << 20,
	}
}

func newOpaque(t testing.TB, source caller.Introspector, cfg caller.OpaqueConfig) *caller.Opaque {
	t.Helper()
	verifier, err := caller.NewOpaque(source, slog.New(slog.DiscardHandler), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(verifier.Close)
	return verifier
}

// decidedIntrospections says what is done in the cases that the file leaves
// open, and what exactly where it says deny.
func decidedIntrospections() map[string]string {
	return map[string]string{
		"in-005": "token_not_yet_valid", // inactive for now: said so, as for a JWT
		"in-021": "token_issuer",        // another issuer's token
		"in-023": "ok",                  // a list of scopes is not RFC 7662, and cannot be misunderstood
		"in-025": "token_type",          // an ID token is not for resource servers
		"in-035": "token_claims",        // no honest provider has such subjects
	}
}

// security.md D28: TestIntrospectionCases runs the cases through a real
// endpoint, twice each: the verdict on a cached answer must be the same.
func TestIntrospectionCases(t *testing.T) {
	t.Parallel()
	var file struct {
		Count int
		Cases []struct {
			ID          string
			Name        string
			Status      int
			ContentType string `json:"content_type"`
			Body        string
			Expect      string
		}
	}
	text, err := os.ReadFile("testdata/introspection_cases.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &file); err != nil || len(file.Cases) != file.Count || file.Count == 0 {
		t.Fatalf("%d cases of %d, error %v", len(file.Cases), file.Count, err)
	}
	wants := map[string]string{"active": "ok", "inactive": "token_inactive", "error": "unavailable"}
	for _, tt := range file.Cases {
		t.Run(tt.ID+" "+tt.Name, func(t *testing.T) {
			t.Parallel()
			want, ok := decidedIntrospections()[tt.ID]
			if !ok {
				want = wants[tt.Expect]
			}
			calls := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				calls++
				w.Header().Set("Content-Type", tt.ContentType)
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(tt.Status)
				_, _ = w.Write([]byte(tt.Body))
			}))
			defer server.Close()
			verifier := newOpaque(t, newIntrospector(t, server.URL, "gateway"), opaqueConfig())
			for range 2 {
				who, err := verifier.Verify(t.Context(), "2YotnFZFEjr1zCsicMWpAA")
				if got := outcome(err); got != want {
					t.Errorf("got %s (%v), want %s", got, err, want)
				}
				if want == "ok" && (who.Subject != "alice" || who.ClientID != "app1" || !who.Scopes.Has("orders.read")) {
					t.Errorf("got %+v", who)
				}
			}
			// Nothing is cached; who does not know our client is left alone.
			if want == "unavailable" && calls != 2 && tt.Status != http.StatusUnauthorized {
				t.Errorf("%d calls, want 2: nothing is cached", calls)
			}
		})
	}
}

func newIntrospector(t *testing.T, address, id string) *oauth.Client {
	t.Helper()
	provider, err := oauth.NewProvider(oauth.ProviderConfig{Name: "shop", IntrospectionURL: address})
	if err != nil {
		t.Fatal(err)
	}
	introspector, err := oauth.NewClient(provider, oauth.ClientConfig{
		ID: id, Secret: func() (tokens.Secret, error) { return "secret", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return introspector
}

// What the provider says of an active token is judged as a JWT's claims are, but
// an answer of the wrong type is its fault and not the caller's.
func TestIntrospectionMembers(t *testing.T) {
	t.Parallel()
	null := json.RawMessage("null")
	tests := []struct {
		name   string
		change map[string]any
		want   string
	}{
		{"plain", nil, "ok"},
		{"no iss", map[string]any{"iss": nil}, "ok"},
		{"no exp", map[string]any{"exp": nil}, "ok"},
		{"nulls", map[string]any{"exp": null, "nbf": null, "iss": null, "cnf": null, "scope": null}, "ok"},
		{"no client", map[string]any{"client_id": nil}, "ok"},
		{"no subject", map[string]any{"sub": nil}, "ok"},
		{"no token_type", map[string]any{"token_type": nil}, "ok"},
		{"token_type bearer", map[string]any{"token_type": "bearer"}, "ok"},
		{"token_type access_token", map[string]any{"token_type": "access_token"}, "ok"},
		{"token_type refresh_token", map[string]any{"token_type": "refresh_token"}, "token_type"},
		{"Keycloak's refresh token", map[string]any{"typ": "Refresh", "token_type": nil}, "token_type"},
		{"token_type DPoP", map[string]any{"token_type": "DPoP"}, "token_bound"},
		{"cnf", map[string]any{"cnf": map[string]any{"x5t#S256": "x"}}, "token_bound"},
		{"neither subject nor client", map[string]any{"sub": nil, "client_id": nil}, "token_claims"},
		{"another audience", map[string]any{"aud": "api://other"}, "token_audience"},
		{"no audience", map[string]any{"aud": nil}, "token_audience"},
		{"expired", map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}, "token_expired"},
		{"iat ahead", map[string]any{"iat": time.Now().Add(10 * time.Minute).Unix()}, "token_not_yet_valid"},
		{"sub a number", map[string]any{"sub": 1}, "unavailable"},
		{"aud a number", map[string]any{"aud": 1}, "unavailable"},
		{"token_type a number", map[string]any{"token_type": 1}, "unavailable"},
		{"exp beyond all dates", map[string]any{"exp": 1e18}, "unavailable"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			provider := newAuthority(t)
			token := provider.issue("token", tt.change)
			verifier := newOpaque(t, provider, opaqueConfig())
			for range 2 {
				if _, err := verifier.Verify(t.Context(), token); outcome(err) != tt.want {
					t.Errorf("got %v, want %s", err, tt.want)
				}
			}
		})
	}
}

func TestOpaqueAudiencesAreOptional(t *testing.T) {
	t.Parallel()
	provider := newAuthority(t)
	cfg := opaqueConfig()
	cfg.Audiences, cfg.Required, cfg.Claims = nil, []string{"jti"}, []string{"tenant", "groups"}
	verifier := newOpaque(t, provider, cfg)
	who, err := verifier.Verify(t.Context(), provider.issue("a", map[string]any{"aud": nil, "tenant": "blue", "groups": []any{1}}))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"tenant": "blue", "groups": []any{json.Number("1")}}, who.Claims); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
	if _, err := verifier.Verify(t.Context(), provider.issue("b", map[string]any{"jti": nil})); !errors.Is(err, caller.ErrClaims) {
		t.Errorf("without a required member: got %v", err)
	}
	large := map[string]any{"groups": strings.Repeat("g", 17<<10)}
	if _, err := verifier.Verify(t.Context(), provider.issue("c", large)); !errors.Is(err, caller.ErrClaims) {
		t.Errorf("with a claim that is too large: got %v", err)
	}
}

// opaqueTest drives one verifier through time.
type opaqueTest struct {
	t        *testing.T
	provider *authority
	verifier *caller.Opaque
	log      *bytes.Buffer
}

func testOpaque(t *testing.T, change func(*caller.OpaqueConfig), run func(*testing.T, opaqueTest)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg := opaqueConfig()
		if change != nil {
			change(&cfg)
		}
		log := &bytes.Buffer{}
		provider := newAuthority(t)
		verifier, err := caller.NewOpaque(provider, slog.New(slog.NewTextHandler(log, nil)), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(verifier.Close)
		run(t, opaqueTest{t, provider, verifier, log})
	})
}

// verify checks the outcome for a token, and how many calls there were so far.
func (o opaqueTest) verify(name, token, want string, wantCalls int) {
	o.t.Helper()
	_, err := o.verifier.Verify(o.t.Context(), token)
	synctest.Wait() // for ristretto to store it
	if got := outcome(err); got != want {
		o.t.Errorf("%s: got %s, want %s", name, got, want)
	}
	if got := o.provider.count(); got != wantCalls {
		o.t.Errorf("%s: got %d calls, want %d", name, got, wantCalls)
	}
}

func TestOpaqueTokensAreCached(t *testing.T) {
	t.Parallel()
	testOpaque(t, nil, func(_ *testing.T, o opaqueTest) {
		token := o.provider.issue("a", map[string]any{"exp": time.Now().Add(50 * time.Second).Unix()})
		o.verify("first", token, "ok", 1)
		o.verify("again", token, "ok", 1)
		o.provider.revoke(token)
		time.Sleep(30*time.Second - 1)
		o.verify("revoked, and still believed", token, "ok", 1)
		time.Sleep(time.Nanosecond)
		o.verify("asked again", token, "token_inactive", 2)
		o.verify("that is remembered", token, "token_inactive", 2)
		o.provider.issue(token, nil)
		time.Sleep(5 * time.Second)
		o.verify("not for long", token, "ok", 3)
		o.verify("another", "unknown", "token_inactive", 4)
	})
}

// A cached answer ends with the token, and begins with it.
func TestOpaqueTimesAreCheckedOnHits(t *testing.T) {
	t.Parallel()
	testOpaque(t, func(c *caller.OpaqueConfig) { c.TTL = time.Hour }, func(_ *testing.T, o opaqueTest) {
		now := time.Now()
		token := o.provider.issue("a", map[string]any{"nbf": now.Add(time.Minute).Unix(), "exp": now.Add(2 * time.Minute).Unix()})
		o.verify("too early", token, "token_not_yet_valid", 1)
		o.verify("too early, cached", token, "token_not_yet_valid", 1)
		time.Sleep(30 * time.Second)
		o.verify("within the skew", token, "ok", 1)
		time.Sleep(2*time.Minute - 1)
		o.verify("within the skew at its end", token, "ok", 1)
		time.Sleep(time.Nanosecond)
		o.verify("expired", token, "token_expired", 1)
		time.Sleep(time.Second)
		o.verify("expired: the provider is asked, and says active", token, "token_expired", 2)
		o.verify("expired, remembered", token, "token_expired", 2)
	})
}

// security.md D31: a provider in trouble refuses no token, and what is known
// goes on being used.
func TestProviderInTrouble(t *testing.T) {
	t.Parallel()
	testOpaque(t, nil, func(t *testing.T, o opaqueTest) {
		known, other := o.provider.issue("known", nil), o.provider.issue("other", nil)
		o.verify("up", known, "ok", 1)
		o.provider.setError(errors.New("down"))
		for i := range 3 {
			o.verify("down: nothing is cached", other, "unavailable", 2+i)
			o.verify("down: a known one", known, "ok", 2+i)
		}
		time.Sleep(30 * time.Second)
		o.verify("down: no longer than the ttl", known, "unavailable", 5)
		o.provider.setError(nil)
		o.verify("up again", known, "ok", 6)
		if got := strings.Count(o.log.String(), "\n"); got != 3 || strings.Contains(o.log.String(), "known") {
			t.Errorf("got %d lines of log, want one for each change and each 10 s, without tokens:\n%s", got, o.log)
		}
	})
}

// A provider that says when to come back, or does not know our client, is left
// alone; one that dislikes a single token is not.
func TestProviderIsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		status     int
		retryAfter string
		body       string
		calls      int
		least      time.Duration
	}{
		"429":                    {429, "120", ``, 1, time.Minute},
		"503":                    {503, "30", ``, 1, 20 * time.Second},
		"429 without a time":     {429, "", ``, 5, time.Second},
		"our client":             {401, "", `{"error":"invalid_client"}`, 1, 5 * time.Second},
		"one kind of token":      {400, "", `{"error":"unsupported_token_type"}`, 5, time.Second},
		"a request it dislikes":  {400, "", `{"error":"invalid_request"}`, 5, time.Second},
		"a 401 without a reason": {401, "", ``, 5, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				calls++
				if tt.retryAfter != "" {
					w.Header().Set("Retry-After", tt.retryAfter)
				}
				w.WriteHeader(tt.status)
				_, _ = w.Write([]byte(tt.body))
			}))
			defer server.Close()
			verifier := newOpaque(t, newIntrospector(t, server.URL, "gateway"), opaqueConfig())
			for i := range 5 {
				_, err := verifier.Verify(t.Context(), fmt.Sprint("token", i))
				var unavailable *caller.UnavailableError
				if !errors.As(err, &unavailable) || unavailable.Reason != caller.ReasonIntrospection || unavailable.RetryAfter < tt.least {
					t.Errorf("got %#v", err)
				}
			}
			if calls != tt.calls {
				t.Errorf("got %d calls, want %d", calls, tt.calls)
			}
		})
	}
}

// All who bring a token at once share one call, and leave on their own.
func TestIntrospectionIsShared(t *testing.T) {
	t.Parallel()
	testOpaque(t, nil, func(t *testing.T, o opaqueTest) {
		token := o.provider.issue("a", nil)
		release := o.provider.holdCalls()
		first, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := o.verifier.Verify(first, token)
			left <- err
		}()
		synctest.Wait()
		var waiting sync.WaitGroup
		for range 99 {
			waiting.Go(func() {
				if _, err := o.verifier.Verify(t.Context(), token); err != nil {
					t.Errorf("one that waited: %v", err)
				}
			})
		}
		synctest.Wait()
		cancel()
		if got := outcome(<-left); got != "unavailable" {
			t.Errorf("the first left with %s", got)
		}
		release()
		waiting.Wait()
		o.verify("afterwards", token, "ok", 1)
	})
}

// An answer is known at once, even where the cache does not take it.
func TestAnswerIsKnownAtOnce(t *testing.T) {
	t.Parallel()
	for _, closed := range []bool{false, true} {
		testOpaque(t, nil, func(t *testing.T, o opaqueTest) {
			if closed {
				o.verifier.Close() // from now on the cache keeps nothing
			}
			token := o.provider.issue("a", nil)
			for range 200 {
				if _, err := o.verifier.Verify(t.Context(), token); err != nil {
					t.Fatal(err)
				}
			}
			o.verify("afterwards", token, "ok", 1)
			o.provider.revoke(token)
			time.Sleep(30 * time.Second)
			o.verify("revoked", token, "token_inactive", 2)
		})
	}
}

// A caller whose deadline is short finds the answer when it comes back.
func TestLateAnswerIsKept(t *testing.T) {
	t.Parallel()
	testOpaque(t, nil, func(t *testing.T, o opaqueTest) {
		token := o.provider.issue("a", nil)
		release := o.provider.holdCalls()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if _, err := o.verifier.Verify(ctx, token); outcome(err) != "unavailable" {
			t.Errorf("got %v", err)
		}
		release()
		synctest.Wait()
		o.verify("later", token, "ok", 1)
	})
}

// A provider that never answers is given up.
func TestIntrospectionHasADeadline(t *testing.T) {
	t.Parallel()
	testOpaque(t, nil, func(t *testing.T, o opaqueTest) {
		defer o.provider.holdCalls()()
		start := time.Now()
		o.verify("held", o.provider.issue("a", nil), "unavailable", 1)
		if took := time.Since(start); took > 15*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// security.md D29: the same token at two providers, and for two clients of one,
// at the same time: neither sees the other's answer (GHSA-84rm-mhfq-f476,
// CVE-2026-33496).
func TestVerdictsAreNotShared(t *testing.T) {
	t.Parallel()
	active := `{"active":true,"sub":"alice","client_id":"app","aud":"api://orders"}`
	var arrived sync.WaitGroup
	arrived.Add(3)
	serve := func(answer func(client string) string) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			arrived.Done()
			arrived.Wait() // all three calls are under way
			client, _, _ := r.BasicAuth()
			_, _ = w.Write([]byte(answer(client)))
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	one := serve(func(client string) string {
		if client == "first" {
			return active
		}
		return `{"active":false}`
	})
	two := serve(func(string) string { return `{"active":false}` })
	var finished sync.WaitGroup
	for _, tt := range []struct{ name, address, client, want string }{
		{"the client that may see it", one, "first", "ok"},
		{"another client", one, "second", "token_inactive"},
		{"another provider", two, "first", "token_inactive"},
	} {
		verifier := newOpaque(t, newIntrospector(t, tt.address, tt.client), opaqueConfig())
		finished.Go(func() {
			if _, err := verifier.Verify(t.Context(), "shared-token"); outcome(err) != tt.want {
				t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
			}
		})
	}
	finished.Wait()
}

// security.md D30: a flood of made-up tokens costs no more calls than allowed,
// little memory, and leaves tokens alone that are known, even when it is time to
// ask about them.
func TestFloodOfUnknownTokens(t *testing.T) {
	t.Parallel()
	testOpaque(t, func(c *caller.OpaqueConfig) { c.Rate = 20 }, func(t *testing.T, o opaqueTest) {
		good := o.provider.issue("good", nil)
		o.verify("known", good, "ok", 1)
		start, limited := time.Now(), 0
		for i := 0; time.Since(start) < time.Minute; i++ {
			_, err := o.verifier.Verify(t.Context(), fmt.Sprintf("made-up-%d", i))
			var unavailable *caller.UnavailableError
			switch {
			case errors.As(err, &unavailable) && unavailable.Reason == caller.ReasonLimited && unavailable.RetryAfter > 0:
				limited++
			case !errors.Is(err, caller.ErrInactive):
				t.Fatalf("got %v", err)
			}
			if i%10 == 0 {
				if _, err := o.verifier.Verify(t.Context(), good); err != nil {
					t.Fatalf("the good token: %v", err)
				}
			}
			time.Sleep(5 * time.Millisecond)
		}
		// The bucket, what flows into it in a minute, and renewals of good.
		if got, most := o.provider.count(), 20+60*20+1+2; got > most || got < most/2 {
			t.Errorf("got %d calls, want some and at most %d", got, most)
		}
		if limited == 0 {
			t.Error("none was put off")
		}
	})
}

func TestOpaqueShape(t *testing.T) {
	t.Parallel()
	provider := newAuthority(t)
	verifier := newOpaque(t, provider, opaqueConfig())
	for _, token := range []string{"", "=", "a b", "a\x00", "a\r\nb", "a,b", "ä", `a"`, "a=b", strings.Repeat("a", 16<<10+1)} {
		if _, err := verifier.Verify(t.Context(), token); !errors.Is(err, caller.ErrMalformed) {
			t.Errorf("%.20q: got %v", token, err)
		}
	}
	if got := provider.count(); got != 0 {
		t.Errorf("got %d calls", got)
	}
	for _, token := range []string{"a", "a==", "aA0-._~+/=", "a.b.c", strings.Repeat("a", 16<<10)} {
		if _, err := verifier.Verify(t.Context(), provider.issue(token, nil)); err != nil {
			t.Errorf("%.20q: got %v", token, err)
		}
	}
}

type introspectorFunc func() (oauth.Introspection, error)

func (f introspectorFunc) Introspect(context.Context, string) (oauth.Introspection, error) {
	return f()
}

func TestFaultInReadingAnAnswer(t *testing.T) {
	t.Parallel()
	verifier := newOpaque(t, introspectorFunc(func() (oauth.Introspection, error) {
		panic("token canary") //nolint:forbidigo // a fault that must not end the process
	}), opaqueConfig())
	if _, err := verifier.Verify(t.Context(), "a"); outcome(err) != "unavailable" || strings.Contains(err.Error(), "canary") {
		t.Errorf("got %v", err)
	}
}

func TestNewOpaqueRefuses(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*caller.OpaqueConfig){
		"no issuer":      func(c *caller.OpaqueConfig) { c.Issuer = "" },
		"empty audience": func(c *caller.OpaqueConfig) { c.Audiences = []string{""} },
		"skew":           func(c *caller.OpaqueConfig) { c.ClockSkew = 6 * time.Minute },
		"ttl":            func(c *caller.OpaqueConfig) { c.TTL = 2 * time.Hour },
		"negative ttl":   func(c *caller.OpaqueConfig) { c.TTL = -1 },
		"inactive ttl":   func(c *caller.OpaqueConfig) { c.InactiveTTL = 2 * time.Minute },
		"rate":           func(c *caller.OpaqueConfig) { c.Rate = -1 },
		"burst":          func(c *caller.OpaqueConfig) { c.Burst = -1 },
		"cache":          func(c *caller.OpaqueConfig) { c.CacheBytes = -1 },
		"required":       func(c *caller.OpaqueConfig) { c.Required = []string{""} },
	} {
		cfg := opaqueConfig()
		spoil(&cfg)
		if _, err := caller.NewOpaque(nil, nil, cfg); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
