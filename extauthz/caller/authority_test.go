package caller_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/rebearer/rebearer/tokens/oauth"
	"github.com/rebearer/rebearer/tokens/oauth/strictjson"
)

// authority is a provider that introspects tokens. It calls every token active
// that was issued, until it is revoked.
type authority struct {
	t testing.TB

	mu     sync.Mutex
	issued map[string]string // the answers
	err    error
	hold   chan struct{} // calls wait until it is closed, if it is there
	calls  int
	asked  map[string]int
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	return &authority{t: t, issued: map[string]string{}, asked: map[string]int{}}
}

// issue makes a token active, with these members changed; nil removes one.
func (a *authority) issue(token string, change map[string]any) string {
	a.t.Helper()
	members := map[string]any{
		"active": true, "iss": opaqueIssuer, "sub": "alice", "client_id": "app", "scope": "orders.read",
		"aud": "api://orders", "token_type": "Bearer", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(), "jti": "jti of " + token,
	}
	for name, value := range change {
		members[name] = value
		if value == nil {
			delete(members, name)
		}
	}
	text, err := json.Marshal(members)
	if err != nil {
		a.t.Fatal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.issued[token] = string(text)
	return token
}

func (a *authority) revoke(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.issued, token)
}

func (a *authority) setError(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
}

// holdCalls makes calls wait until the function that it returns is called.
func (a *authority) holdCalls() (release func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	hold := make(chan struct{})
	a.hold = hold
	return func() {
		a.mu.Lock()
		a.hold = nil
		a.mu.Unlock()
		close(hold)
	}
}

func (a *authority) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls
}

func (a *authority) Introspect(ctx context.Context, token string) (oauth.Introspection, error) {
	a.mu.Lock()
	a.calls++
	a.asked[token]++
	answer, err, hold := a.issued[token], a.err, a.hold
	a.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return oauth.Introspection{}, ctx.Err()
		}
	}
	if err != nil || answer == "" {
		return oauth.Introspection{}, err
	}
	members, err := strictjson.Parse([]byte(answer))
	return oauth.Introspection{Active: true, Members: members}, err
}
