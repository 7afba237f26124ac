package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/api"
	"github.com/rebearer/rebearer/tokens"
)

// faithful is a provider that answers every token request of a client with the
// same token until that expires or is revoked, as WSO2's does.
type faithful struct {
	url  string
	deaf bool // revoking a token changes nothing

	mu          sync.Mutex
	tokens      int
	asked       int
	revocations int
	voided      int // the last token that backends do not take any more
}

func (f *faithful) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/token":
		f.asked++
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": f.token(f.tokens), "token_type": "Bearer", "expires_in": 3600})
	case "/revoke":
		f.revocations++
		if r.PostFormValue("token") == f.token(f.tokens) && !f.deaf {
			f.tokens++
		}
	default:
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": f.url, "token_endpoint": f.url + "/token", "revocation_endpoint": f.url + "/revoke",
		})
	}
}

func (f *faithful) token(n int) string { return fmt.Sprintf("faithful-%d", n) }

// valid is what a backend says to a token.
func (f *faithful) valid(token string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tokens > f.voided && token == f.token(f.tokens)
}

// void has backends refuse the token of now, of which the provider knows nothing.
func (f *faithful) void() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.voided = f.tokens
}

func (f *faithful) counts() (asked, revocations int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked, f.revocations
}

// A dead token that comes back is revoked, once, and the caller gets an answer to
// the fresh one. One that may be alive is never revoked.
func TestTokenThatComesBack(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		rejection   api.Rejection
		deaf        bool
		want        int // status of the caller's requests
		revocations int
		asked       int // token requests at most
	}{
		"dead": {rejection: api.Challenge, want: http.StatusOK, revocations: 1, asked: 3},
		// The bucket bounds what the further requests cost.
		"dead, and revoking it does not help": {
			rejection: api.Challenge, deaf: true, want: http.StatusServiceUnavailable, revocations: 1, asked: 2 + 6,
		},
		"unclear": {rejection: api.BareForbidden, want: http.StatusForbidden, asked: 1 + 6},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &faithful{tokens: 1, deaf: tt.deaf}
			f.url = serve(t, func(url string) http.Handler { f.url = url; return f }).URL()
			s := newStack(t, newest(), stackOptions{backendURL: f.url, valid: f.valid, rejection: tt.rejection, record: 100})
			s.ask(t).want(t, http.StatusOK)
			f.void()
			for range 10 {
				a := s.ask(t)
				a.want(t, tt.want)
				if tt.want == http.StatusServiceUnavailable {
					a.wantUnavailable(t)
				}
			}
			asked, revocations := f.counts()
			t.Logf("%d token requests, %d revocations", asked, revocations)
			if revocations != tt.revocations || asked > tt.asked {
				t.Errorf("%d revocations and %d token requests, want %d and at most %d", revocations, asked, tt.revocations, tt.asked)
			}
			if n := s.events.count(tokens.EventRevoked); n != tt.revocations {
				t.Errorf("%d revocations are reported, want %d", n, tt.revocations)
			}
			s.checkLogs(t)
		})
	}
}
