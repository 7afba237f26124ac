package caller_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
)

func newGroup(t *testing.T, verifiers ...caller.Verifier) *caller.Group {
	t.Helper()
	group, err := caller.NewGroup(verifiers...)
	if err != nil {
		t.Fatal(err)
	}
	return group
}

func TestGroup(t *testing.T) {
	t.Parallel()
	one, two, stranger := extauthztest.NewIssuer(t), extauthztest.NewIssuer(t), extauthztest.NewIssuer(t)
	two.URL, stranger.URL = "https://two.example", "https://stranger.example"
	verifierOf := func(issuer *extauthztest.Issuer, audience string) *caller.JWT {
		keys := caller.NewKeySet(issuer, slog.New(slog.DiscardHandler))
		v, err := caller.NewJWT(keys, caller.JWTConfig{Issuer: issuer.URL, Audiences: []string{audience}, CacheBytes: 1 << 16})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(v.Close)
		return v
	}
	group, err := caller.NewGroup(verifierOf(one, "api://other"), verifierOf(one, extauthztest.Audience), verifierOf(two, extauthztest.Audience))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		token string
		want  string
	}{
		{"first issuer, second audience", one.Token("a", nil), "ok"},
		{"first issuer, first audience", one.Token("a", map[string]any{"aud": "api://other"}), "ok"},
		{"second issuer", two.Token("a", nil), "ok"},
		{"stranger", stranger.Token("a", nil), "token_issuer"},
		{"no issuer", one.Token("a", map[string]any{"iss": nil}), "token_issuer"},
		{"issuer a number", one.Token("a", map[string]any{"iss": 1}), "token_issuer"},
		// Both have a key with the kid 1.
		{"signed by the one, issued by the other", one.Token("a", map[string]any{"iss": two.URL}), "token_signature"},
		{"no one's audience", one.Token("a", map[string]any{"aud": "x"}), "token_audience"},
		{"expired for the one, another's audience", one.Token("a", map[string]any{"exp": 1}), "token_expired"},
		{"malformed", "a.b.c", "token_malformed"},
		{"too long", strings.Repeat("a", 17<<10), "token_malformed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for range 3 {
				who, err := group.Verify(t.Context(), tt.token)
				if got := outcome(err); got != tt.want {
					t.Errorf("got %s, want %s", got, tt.want)
				}
				if err == nil && who.Subject != "a" {
					t.Errorf("got subject %q", who.Subject)
				}
			}
		})
	}
	two.SetDown(true)
	broken, err := caller.NewGroup(verifierOf(two, extauthztest.Audience), verifierOf(one, extauthztest.Audience))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := broken.Verify(t.Context(), two.Token("a", nil)); outcome(err) != "unavailable" {
		t.Errorf("an issuer that is down: got %v", err)
	}
	if _, err := broken.Verify(t.Context(), one.Token("a", nil)); err != nil {
		t.Errorf("the other issuer meanwhile: got %v", err)
	}
	if _, err := caller.NewGroup(); err == nil {
		t.Error("an empty group: got no error")
	}
}

// issuedBy is the configuration for opaque tokens of another issuer.
func issuedBy(issuer string) caller.OpaqueConfig {
	cfg := opaqueConfig()
	cfg.Issuer = issuer
	return cfg
}

// mixed is a group of one issuer of JWTs and two providers of opaque tokens.
type mixed struct {
	group  *caller.Group
	signed *extauthztest.Issuer
	a, b   *authority
}

func newMixed(t *testing.T) mixed {
	t.Helper()
	m := mixed{signed: extauthztest.NewIssuer(t), a: newAuthority(t), b: newAuthority(t)}
	m.signed.URL = "https://signed.example"
	jwt, _ := newVerifier(t, m.signed)
	m.group = newGroup(t, newOpaque(t, m.a, issuedBy("https://a.example")), jwt, newOpaque(t, m.b, issuedBy("https://b.example")))
	return m
}

// calls returns how often a and b were asked.
func (m mixed) calls() [2]int { return [2]int{m.a.count(), m.b.count()} }

// A single provider of opaque tokens is not shown another issuer's JWT either.
func TestLoneProviderSeesNoStrangersJWT(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMixed(t)
		lone := newGroup(t, newOpaque(t, m.a, issuedBy("https://a.example")))
		if _, err := lone.Verify(t.Context(), m.signed.Token("alice", nil)); outcome(err) != "token_issuer" {
			t.Errorf("got %v, want token_issuer", err)
		}
		if got := m.calls(); got != [2]int{} {
			t.Errorf("got calls %v, want none", got)
		}
	})
}

// What an introspecting member knows of a JWT, from another policy, does not
// spare it the checks of the member that verifies signatures.
func TestCacheDoesNotDecideWhoJudges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMixed(t)
		jwt, _ := newVerifier(t, m.signed)
		opaque := newOpaque(t, m.a, issuedBy(m.signed.URL))
		token := m.a.issue(m.signed.Token("alice", map[string]any{"aud": "api://other"}), map[string]any{"iss": nil})
		for range 2 {
			if _, err := newGroup(t, jwt, opaque).Verify(t.Context(), token); outcome(err) != "token_audience" {
				t.Errorf("got %v, want token_audience", err)
			}
			if _, err := newGroup(t, opaque).Verify(t.Context(), token); err != nil {
				t.Errorf("the introspecting policy: %v", err)
			}
			synctest.Wait()
		}
	})
}

// A token is shown to those whom it concerns, and to nobody else.
func TestWhoSeesAToken(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		token func(mixed) string
		want  string
		calls [2]int
	}{
		{"a JWT of the issuer", func(m mixed) string { return m.signed.Token("alice", nil) }, "ok", [2]int{0, 0}},
		{"one that is expired", func(m mixed) string { return m.signed.Token("alice", map[string]any{"exp": 1}) }, "token_expired", [2]int{0, 0}},
		{"a forged one", func(m mixed) string { return m.signed.Token("alice", nil) + "A" }, "token_signature", [2]int{0, 0}},
		{"a stranger's JWT", func(m mixed) string {
			return m.signed.Token("alice", map[string]any{"iss": "https://stranger.example"})
		}, "token_issuer", [2]int{0, 0}},
		{"a JWT of a, which introspects", func(m mixed) string {
			return m.a.issue(m.signed.Token("alice", map[string]any{"iss": "https://a.example"}), map[string]any{"iss": nil})
		}, "ok", [2]int{1, 0}},
		{"a JWT of b", func(m mixed) string {
			return m.b.issue(m.signed.Token("alice", map[string]any{"iss": "https://b.example"}), map[string]any{"iss": nil})
		}, "ok", [2]int{0, 1}},
		{"a JWT without issuer", func(m mixed) string { return m.signed.Token("alice", map[string]any{"iss": nil}) }, "token_inactive", [2]int{1, 1}},
		{"of a", func(m mixed) string { return m.a.issue("opaque", map[string]any{"iss": nil}) }, "ok", [2]int{1, 0}},
		{"of b", func(m mixed) string { return m.b.issue("opaque", map[string]any{"iss": nil}) }, "ok", [2]int{1, 1}},
		{"of a, for another audience", func(m mixed) string {
			return m.a.issue("opaque", map[string]any{"iss": nil, "aud": "x"})
		}, "token_audience", [2]int{1, 0}},
		{"of nobody", func(mixed) string { return "opaque" }, "token_inactive", [2]int{1, 1}},
		{"looks like a JWE", func(m mixed) string { return m.b.issue("e30.a.b.c.d", map[string]any{"iss": nil}) }, "ok", [2]int{1, 1}},
		{"no token", func(mixed) string { return "a b" }, "token_malformed", [2]int{0, 0}},
		{"too long", func(mixed) string { return strings.Repeat("a", 17<<10) }, "token_malformed", [2]int{0, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := newMixed(t)
				token := tt.token(m)
				for range 2 {
					if _, err := m.group.Verify(t.Context(), token); outcome(err) != tt.want {
						t.Errorf("got %v, want %s", err, tt.want)
					}
					synctest.Wait()
				}
				if got := m.calls(); got != tt.calls {
					t.Errorf("got calls %v, want %v", got, tt.calls)
				}
			})
		})
	}
}

// Refused by one and not judged by the other is not refused.
func TestUnavailableMembers(t *testing.T) {
	t.Parallel()
	down := errors.New("down")
	for _, tt := range []struct {
		name         string
		aDown, bDown bool
		activeAt     string
		want         string
	}{
		{"a down, b accepts", true, false, "b", "ok"},
		{"a accepts, b down", false, true, "a", "ok"},
		{"a down, b refuses", true, false, "", "unavailable"},
		{"a refuses, b down", false, true, "", "unavailable"},
		{"both down", true, true, "", "unavailable"},
		{"both refuse", false, false, "", "token_inactive"},
		{"a knows it for another audience, b down", false, true, "a, other audience", "token_audience"},
		{"a down, b knows it as nobody's", true, false, "b, nobody's", "token_claims"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMixed(t)
			if tt.aDown {
				m.a.setError(down)
			}
			if tt.bDown {
				m.b.setError(down)
			}
			switch tt.activeAt {
			case "a":
				m.a.issue("opaque", map[string]any{"iss": nil})
			case "b":
				m.b.issue("opaque", map[string]any{"iss": nil})
			case "b, nobody's":
				m.b.issue("opaque", map[string]any{"iss": nil, "sub": nil, "client_id": nil})
			case "a, other audience":
				m.a.issue("opaque", map[string]any{"iss": nil, "aud": "x"})
			}
			for range 2 {
				if _, err := m.group.Verify(t.Context(), "opaque"); outcome(err) != tt.want {
					t.Errorf("got %v, want %s", err, tt.want)
				}
			}
		})
	}
}

// Two clients of one provider, for two audiences: a token needs to satisfy one.
func TestTwoAudiencesOfOneProvider(t *testing.T) {
	t.Parallel()
	provider, stranger := newAuthority(t), newAuthority(t)
	other := opaqueConfig()
	other.Audiences = []string{"api://other"}
	group := newGroup(t, newOpaque(t, provider, other), newOpaque(t, stranger, issuedBy("https://x.example")), newOpaque(t, provider, opaqueConfig()))
	if _, err := group.Verify(t.Context(), provider.issue("a", nil)); err != nil {
		t.Errorf("got %v", err)
	}
	if got := stranger.count(); got != 0 {
		t.Errorf("the token was shown to a stranger %d times", got)
	}
}

// One of two clients of a provider cannot ask, and would perhaps have accepted.
func TestOneOfTwoAudiencesIsUnavailable(t *testing.T) {
	t.Parallel()
	down, up := newAuthority(t), newAuthority(t)
	down.setError(errors.New("down"))
	other := opaqueConfig()
	other.Audiences = []string{"api://other"}
	up.issue("a", nil)
	for range 2 {
		for _, group := range []*caller.Group{
			newGroup(t, newOpaque(t, down, opaqueConfig()), newOpaque(t, up, other)),
			newGroup(t, newOpaque(t, up, other), newOpaque(t, down, opaqueConfig())),
		} {
			if _, err := group.Verify(t.Context(), "a"); outcome(err) != "unavailable" {
				t.Errorf("got %v", err)
			}
		}
	}
}

// thenTest has a verifier of JWTs that may be revoked at their provider.
type thenTest struct {
	issuer   *extauthztest.Issuer
	provider *authority
	verifier *caller.JWTThenIntrospect
	log      *strings.Builder
}

func testThen(t *testing.T, run func(*testing.T, thenTest)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		tt := thenTest{issuer: extauthztest.NewIssuer(t), provider: newAuthority(t), log: &strings.Builder{}}
		jwt, _ := newVerifier(t, tt.issuer)
		cfg := opaqueConfig()
		cfg.Audiences = nil
		var err error
		tt.verifier, err = caller.NewJWTThenIntrospect(jwt, newOpaque(t, tt.provider, cfg), slog.New(slog.NewTextHandler(tt.log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		run(t, tt)
	})
}

func (tt thenTest) verify(t *testing.T, name, token, want string, wantCalls int) caller.Identity {
	t.Helper()
	who, err := tt.verifier.Verify(t.Context(), token)
	synctest.Wait()
	if got := outcome(err); got != want {
		t.Errorf("%s: got %s, want %s", name, got, want)
	}
	if got := tt.provider.count(); got != wantCalls {
		t.Errorf("%s: got %d calls, want %d", name, got, wantCalls)
	}
	return who
}

func TestJWTThenIntrospect(t *testing.T) {
	t.Parallel()
	testThen(t, func(t *testing.T, tt thenTest) {
		token := tt.issuer.Token("alice", map[string]any{"iat": time.Now().Add(-time.Hour).Unix()})
		tt.provider.issue(token, map[string]any{"aud": nil})
		tt.verify(t, "first", token, "ok", 1)
		tt.verify(t, "again", token, "ok", 1)
		tt.provider.revoke(token)
		tt.verify(t, "revoked, and still believed", token, "ok", 1)
		time.Sleep(30 * time.Second)
		tt.verify(t, "asked again", token, "token_inactive", 2)
		tt.verify(t, "that is remembered", token, "token_inactive", 2)
		tt.provider.setError(errors.New("down"))
		time.Sleep(5 * time.Second)
		tt.verify(t, "provider down", token, "unavailable", 3)
		tt.provider.setError(nil)
		tt.provider.issue(token, nil)
		tt.verify(t, "active again", token, "ok", 4)

		// What the issuer did not sign costs no call, and no key outlives its set.
		stranger := extauthztest.NewIssuer(t)
		tt.verify(t, "forged", stranger.Token("alice", nil), "token_signature", 4)
		tt.verify(t, "another audience", tt.issuer.Token("alice", map[string]any{"aud": "x"}), "token_audience", 4)
		tt.verify(t, "opaque", tt.provider.issue("opaque", nil), "token_malformed", 4)
		tt.issuer.AddKey("2")
		tt.issuer.RemoveKeys("1")
		time.Sleep(5 * time.Minute)
		tt.verify(t, "the key was removed, not noticed yet", token, "ok", 5)
		tt.verify(t, "noticed", token, "token_key", 5)
		if tt.log.Len() > 0 {
			t.Errorf("logged: %s", tt.log)
		}
	})
}

// The answer can narrow what the JWT says, and never widen it.
func TestJWTAndAnswerMustAgree(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		answer map[string]any
		want   string
		scopes caller.Scopes
	}{
		{"the least", map[string]any{"sub": nil, "client_id": nil, "scope": nil, "iss": nil, "aud": nil, "exp": nil}, "ok", caller.Scopes{"orders.read", "orders.write"}},
		{"the same", map[string]any{"scope": "orders.write orders.read"}, "ok", caller.Scopes{"orders.read", "orders.write"}},
		{"fewer scopes", map[string]any{"scope": "orders.read"}, "ok", caller.Scopes{"orders.read"}},
		{"more scopes", map[string]any{"scope": "admin orders.read"}, "ok", caller.Scopes{"orders.read"}},
		{"no scopes", map[string]any{"scope": ""}, "ok", caller.Scopes{}},
		{"another subject", map[string]any{"sub": "bob"}, "token_claims", nil},
		{"another client", map[string]any{"client_id": "other"}, "token_claims", nil},
		{"another issuer", map[string]any{"iss": "https://other.example"}, "token_issuer", nil},
		{"expired", map[string]any{"exp": 1}, "token_expired", nil},
		{"bound", map[string]any{"cnf": map[string]any{}}, "token_bound", nil},
		{"not valid yet", map[string]any{"nbf": 4102444800}, "token_not_yet_valid", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			testThen(t, func(t *testing.T, then thenTest) {
				token := then.issuer.Token("alice", nil)
				then.provider.issue(token, tt.answer)
				for range 2 {
					who := then.verify(t, tt.name, token, tt.want, 1)
					if diff := cmp.Diff(tt.scopes, who.Scopes); diff != "" {
						t.Errorf("scopes (-want +got):\n%s", diff)
					}
				}
			})
		})
	}
}

// A provider that calls its newest tokens inactive does not know our client.
func TestInactiveThoughJustIssued(t *testing.T) {
	t.Parallel()
	testThen(t, func(t *testing.T, tt thenTest) {
		for i := range 3 {
			tt.verify(t, "just issued", tt.issuer.Token("alice", map[string]any{"n": i}), "token_inactive", i+1)
		}
		if got := strings.Count(tt.log.String(), "audience"); got != 1 {
			t.Errorf("got %d lines of advice, want 1: %s", got, tt.log)
		}
	})
}

func TestNewJWTThenIntrospectRefuses(t *testing.T) {
	t.Parallel()
	jwt, _ := newVerifier(t, extauthztest.NewIssuer(t))
	if _, err := caller.NewJWTThenIntrospect(jwt, newOpaque(t, nil, issuedBy("https://x.example")), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("two issuers: got no error")
	}
	cfg := opaqueConfig()
	cfg.Revocations = caller.NewRevocations(0)
	if _, err := caller.NewJWTThenIntrospect(jwt, newOpaque(t, nil, cfg), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("two sets of revocations: got no error")
	}
}
