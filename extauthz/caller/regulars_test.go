package caller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebearer/rebearer/extauthz/extauthztest"
	"github.com/rebearer/rebearer/tokens"
)

// security.md C22: while made-up tokens use up the fetches for unknown kids, the
// issuer's next key is found by the first token of somebody who is known.
func TestRotationDuringAFlood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		issuer := extauthztest.NewIssuer(t)
		verifier := newTestJWT(t, issuer)
		verify := func(token string) error { _, err := verifier.Verify(t.Context(), token); return err }
		if err := verify(issuer.Token("alice", nil)); err != nil {
			t.Fatal(err)
		}
		other := extauthztest.NewIssuer(t)
		made := func(kid, subject string) string {
			key := other.AddKey(kid)
			return extauthztest.Sign(t, key, nil, issuer.Claims(subject, nil))
		}
		// The flood has guessed the next kid, too.
		if err := verify(made("next", "nobody")); !errors.Is(err, ErrKey) {
			t.Errorf("made up, and looked for: got %v, want %v", err, ErrKey)
		}
		var unavailable *UnavailableError
		if err := verify(made("other", "nobody")); !errors.As(err, &unavailable) {
			t.Errorf("made up, and not looked for: got %v, want an UnavailableError", err)
		}
		issuer.AddKey("next")
		before := issuer.Fetches()
		if err := verify(issuer.Token("alice", map[string]any{"jti": "2"})); err != nil {
			t.Errorf("known caller, new key: %v", err)
		}
		if err := verify(issuer.Token("bob", nil)); err != nil {
			t.Errorf("unknown caller, key that is known now: %v", err)
		}
		// Whoever knows a name has one more fetch in a cool-down, not more.
		for i := range 100 {
			if err := verify(made(fmt.Sprint("made-up-", i), "alice")); err == nil {
				t.Fatal("accepted a made-up token")
			}
		}
		if got := issuer.Fetches() - before; got != 1 {
			t.Errorf("%d fetches, want 1", got)
		}
		time.Sleep(coolDown)
		for i := range 100 {
			_ = verify(made(fmt.Sprint("again", i), "alice"))
		}
		if got := issuer.Fetches() - before; got != 3 {
			t.Errorf("%d fetches after the cool-down, want 3", got)
		}
	})
}

// A kid is not given up because a fetch did not find it that may have read the
// keys before the kid was there.
func TestFetchUnderWaySettlesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		issuer := extauthztest.NewIssuer(t)
		verifier := newTestJWT(t, issuer)
		if _, err := verifier.Verify(t.Context(), issuer.Token("alice", nil)); err != nil {
			t.Fatal(err)
		}
		old, err := issuer.JWKS(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		slow := &slowKeys{answer: old}
		verifier.keys.source = slow
		other := extauthztest.NewIssuer(t)
		go func() {
			_, _ = verifier.Verify(t.Context(), extauthztest.Sign(t, other.AddKey("x"), nil, issuer.Claims("nobody", nil)))
		}()
		synctest.Wait() // it has read the keys, and its answer is on the way
		issuer.AddKey("next")
		var unavailable *UnavailableError
		if _, err := verifier.Verify(t.Context(), issuer.Token("new", nil)); !errors.As(err, &unavailable) {
			t.Errorf("a caller who is not known: got %v, want an UnavailableError", err)
		}
	})
}

func TestRegularsAreBounded(t *testing.T) {
	t.Parallel()
	var r regulars
	for i := range 5 * maxRegulars {
		r.add(tokens.FingerprintOf(fmt.Sprint(i)))
	}
	if n := len(r.recent) + len(r.older); n > 2*maxRegulars {
		t.Errorf("%d are kept", n)
	}
	if r.has(tokens.FingerprintOf("0")) || !r.has(tokens.FingerprintOf(fmt.Sprint(4*maxRegulars))) {
		t.Error("the wrong ones are kept")
	}
}

func newTestJWT(t *testing.T, issuer *extauthztest.Issuer) *JWT {
	t.Helper()
	verifier, err := NewJWT(NewKeySet(issuer, slog.New(slog.DiscardHandler)), JWTConfig{
		Issuer: issuer.URL, Audiences: []string{extauthztest.Audience}, CacheBytes: 1 << 10,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(verifier.Close)
	return verifier
}

// slowKeys is an issuer whose answer takes its time.
type slowKeys struct{ answer []byte }

func (s *slowKeys) JWKS(context.Context) ([]byte, error) {
	time.Sleep(time.Second)
	return s.answer, nil
}
