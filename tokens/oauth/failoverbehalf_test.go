package oauth_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

// unusable returns token answers that nothing can be made of.
func unusable() map[string]map[string]any {
	return map[string]map[string]any{
		"too long":         {"access_token": strings.Repeat("a", 8<<10+1)},
		"no b64token":      {"access_token": "a b"},
		"not Bearer":       {"access_token": "a", "token_type": "DPoP"},
		"no such lifetime": {"access_token": "a", "expires_in": -5},
	}
}

// What one caller may not have, or has no use for, costs no other caller anything.
func TestFailoverOnBehalf(t *testing.T) {
	t.Parallel()
	for code, wantAlarm := range map[string]bool{
		"access_denied": false, "invalid_target": false, "invalid_scope": false, "invalid_grant": false,
		"invalid_client": true, "unauthorized_client": true,
	} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			testOnBehalf(t, "mallory", refuse(http.StatusBadRequest, code), wantAlarm)
		})
	}
	for name, answer := range unusable() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testOnBehalf(t, "mallory", serveJSON(answer), false)
		})
	}
	t.Run("no subject", func(t *testing.T) {
		t.Parallel()
		testOnBehalf(t, "", http.NotFound, false)
	})
}

// testOnBehalf has a caller ask who is answered with a failure, and then another.
func testOnBehalf(t *testing.T, caller tokens.Secret, answer http.HandlerFunc, wantAlarm bool) {
	t.Helper()
	server := newAuthorizationServer(t, (*httptest.Server).Start)
	server.handle("/token", func(w http.ResponseWriter, r *http.Request) {
		if r.PostFormValue("subject_token") == caller.Reveal() {
			answer(w, r)
			return
		}
		serveJSON(map[string]any{"access_token": "a"})(w, r)
	})
	f := newSingle(t, newSource(t, server.URL+"/token", testClient(), oauth.TokenConfig{Grant: oauth.TokenExchange}))
	if _, err := f.Grant(t.Context(), tokens.GrantRequest{Subject: caller}); err == nil {
		t.Error("got a token, want a refusal")
	}
	if got := f.Health()[0]; got.Alarm != wantAlarm || (got.Failures > 0) != wantAlarm {
		t.Errorf("alarm: got %+v, want %t", got, wantAlarm)
	}
	_, err := f.Grant(t.Context(), tokens.GrantRequest{Subject: "alice"})
	if got := err != nil; got != wantAlarm {
		t.Errorf("another caller: got error %v", err)
	}
}

// Where the token is for all, an answer that is not usable is the member's.
func TestFailoverUnusableAnswer(t *testing.T) {
	t.Parallel()
	for name, answer := range unusable() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := newAuthorizationServer(t, (*httptest.Server).Start)
			server.handle("/token", serveJSON(answer))
			f := newSingle(t, newSource(t, server.URL+"/token", testClient(), oauth.TokenConfig{}))
			_, err := f.Grant(t.Context(), tokens.GrantRequest{})
			if got := f.Health()[0]; got.Failures != 1 || got.Alarm != (outcomeOf(err) == permanent) {
				t.Errorf("got %+v after %v", got, err)
			}
		})
	}
}
