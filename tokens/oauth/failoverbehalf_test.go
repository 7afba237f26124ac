package oauth_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

// What one caller may not have costs no other caller anything.
func TestFailoverOnBehalf(t *testing.T) {
	t.Parallel()
	for code, wantAlarm := range map[string]bool{
		"access_denied": false, "invalid_target": false, "invalid_scope": false, "invalid_grant": false,
		"invalid_client": true, "unauthorized_client": true,
	} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			server := newAuthorizationServer(t, (*httptest.Server).Start)
			server.handle("/token", func(w http.ResponseWriter, r *http.Request) {
				if r.PostFormValue("subject_token") == "mallory" {
					refuse(http.StatusBadRequest, code)(w, r)
					return
				}
				serveJSON(map[string]any{"access_token": "a"})(w, r)
			})
			f := newSingle(t, newSource(t, server.URL+"/token", testClient(), oauth.TokenConfig{Grant: oauth.TokenExchange}))
			if _, err := f.Grant(t.Context(), tokens.GrantRequest{Subject: "mallory"}); err == nil {
				t.Error("got a token, want a refusal")
			}
			if got := f.Health()[0].Alarm; got != wantAlarm {
				t.Errorf("alarm: got %t, want %t", got, wantAlarm)
			}
			_, err := f.Grant(t.Context(), tokens.GrantRequest{Subject: "alice"})
			if got := err != nil; got != wantAlarm {
				t.Errorf("another caller: got error %v", err)
			}
		})
	}
}
