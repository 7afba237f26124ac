package caller_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
)

// newVerifier returns a verifier of the issuer's tokens and what its key set
// logs.
func newVerifier(t testing.TB, issuer *extauthztest.Issuer) (*caller.JWT, *bytes.Buffer) {
	t.Helper()
	log := &bytes.Buffer{}
	verifier, err := caller.NewJWT(caller.NewKeySet(issuer, slog.New(slog.NewTextHandler(log, nil))), caller.JWTConfig{
		Issuer: issuer.URL, Audiences: []string{extauthztest.Audience}, ClockSkew: 30 * time.Second, CacheBytes: 1 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(verifier.Close)
	return verifier, log
}

// outcome reduces an error to a word.
func outcome(err error) string {
	var unavailable *caller.UnavailableError
	var invalid *caller.InvalidError
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &unavailable):
		return "unavailable"
	case errors.As(err, &invalid):
		return string(invalid.Reason)
	}
	return "unknown error: " + err.Error()
}

// keySetTest drives one verifier through time.
type keySetTest struct {
	t        *testing.T
	issuer   *extauthztest.Issuer
	verifier *caller.JWT
	log      *bytes.Buffer
}

func testKeySet(t *testing.T, run func(*testing.T, keySetTest)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		issuer := extauthztest.NewIssuer(t)
		verifier, log := newVerifier(t, issuer)
		run(t, keySetTest{t, issuer, verifier, log})
	})
}

// verify checks the outcome for a token, and how often the keys were fetched
// once what is in the background has come to rest.
func (k keySetTest) verify(name, token, want string, wantFetches int) {
	k.t.Helper()
	_, err := k.verifier.Verify(k.t.Context(), token)
	synctest.Wait()
	if got := outcome(err); got != want {
		k.t.Errorf("%s: got %s, want %s", name, got, want)
	}
	if got := k.issuer.Fetches(); got != wantFetches {
		k.t.Errorf("%s: got %d fetches, want %d", name, got, wantFetches)
	}
}

func TestKeysAreRefreshedInTheBackground(t *testing.T) {
	t.Parallel()
	testKeySet(t, func(t *testing.T, k keySetTest) {
		token := k.issuer.Token("alice", nil)
		k.verify("first", token, "ok", 1)
		k.verify("again", token, "ok", 1)
		time.Sleep(5*time.Minute - time.Second)
		k.verify("young", token, "ok", 1)
		time.Sleep(time.Second)
		k.verify("due, though the token is cached", token, "ok", 2)
		k.verify("fresh again", token, "ok", 2)
	})
}

func TestIssuerDown(t *testing.T) {
	t.Parallel()
	testKeySet(t, func(t *testing.T, k keySetTest) {
		token := k.issuer.Token("alice", map[string]any{"exp": time.Now().Add(48 * time.Hour).Unix()})
		k.issuer.SetDown(true)
		k.verify("down at start", token, "unavailable", 1)
		k.verify("within the pause", token, "unavailable", 1)
		time.Sleep(time.Second)
		k.verify("after it", token, "unavailable", 2)
		k.issuer.SetDown(false)
		time.Sleep(time.Second)
		k.verify("up", token, "ok", 3)

		k.issuer.SetDown(true)
		time.Sleep(5 * time.Minute)
		k.verify("down: the last good set is used", token, "ok", 4)
		k.verify("within the cool-down", token, "ok", 4)
		time.Sleep(10 * time.Second)
		k.verify("after it", token, "ok", 5)
		if got := strings.Count(k.log.String(), "\n"); got != 3 {
			t.Errorf("got %d lines of log, want one for each change:\n%s", got, k.log)
		}
		time.Sleep(23*time.Hour + 50*time.Minute)
		k.verify("for almost a day", token, "ok", 6)
		time.Sleep(10 * time.Minute)
		// Two fetches: the scheduled one, which fails, and the one for want of keys.
		_, err := k.verifier.Verify(t.Context(), token)
		if got := outcome(err); got != "unavailable" {
			t.Errorf("after a day: got %s", got)
		}
		k.issuer.SetDown(false)
		time.Sleep(time.Minute)
		if _, err := k.verifier.Verify(t.Context(), token); err != nil {
			t.Errorf("up again: %v", err)
		}
	})
}

func TestKeyRotation(t *testing.T) {
	t.Parallel()
	testKeySet(t, func(t *testing.T, k keySetTest) {
		old := k.issuer.Token("alice", nil)
		k.verify("old key", old, "ok", 1)
		k.issuer.AddKey("2")
		k.verify("new key", k.issuer.Token("alice", nil), "ok", 2)
		k.verify("old key again", old, "ok", 2)

		k.issuer.RemoveKeys("1")
		k.verify("removed key, not noticed yet", old, "ok", 2)
		time.Sleep(5 * time.Minute)
		k.verify("noticed in the background", old, "ok", 3)
		// The verified token dies with its key.
		k.verify("removed key", old, "token_key", 4)
	})
}

// A key that was replaced under its kid is found by the signature it fails.
func TestKeyReplacedUnderItsKid(t *testing.T) {
	t.Parallel()
	testKeySet(t, func(t *testing.T, k keySetTest) {
		old := k.issuer.Token("alice", nil)
		k.verify("old key", old, "ok", 1)
		k.issuer.RemoveKeys("1")
		k.issuer.AddKey("1")
		k.verify("new key, same kid", k.issuer.Token("alice", nil), "ok", 2)
		k.verify("old key", old, "token_signature", 2)
	})
}

func TestUnknownKids(t *testing.T) {
	t.Parallel()
	testKeySet(t, func(t *testing.T, k keySetTest) {
		good := k.issuer.Token("alice", nil)
		stranger := extauthztest.NewIssuer(t)
		forge := func(kid string) string {
			stranger.AddKey(kid)
			return stranger.Token("mallory", nil)
		}
		k.verify("unknown at first use: these very keys lack it", forge("a"), "token_key", 1)
		k.verify("unknown: one fetch", forge("b"), "token_key", 2)
		k.verify("the same again", forge("b"), "token_key", 2)
		k.verify("another: nobody looked for it yet", forge("c"), "unavailable", 2)
		k.verify("a good one", good, "ok", 2)
		time.Sleep(10 * time.Second)
		k.verify("another, after the cool-down", forge("c"), "token_key", 3)
		k.issuer.SetDown(true)
		time.Sleep(10 * time.Second)
		k.verify("issuer down", forge("d"), "unavailable", 4)
		k.verify("a good one while it is down", good, "ok", 4)
		k.verify("one that was looked for before", forge("b"), "token_key", 4)
	})
}

// A flood of made-up kids costs one fetch a cool-down, delays a rotation by one
// at most, and has no good token called invalid.
func TestFloodOfUnknownKids(t *testing.T) {
	t.Parallel()
	testKeySet(t, func(t *testing.T, k keySetTest) {
		stranger := extauthztest.NewIssuer(t)
		good := k.issuer.Token("alice", nil)
		accepted := time.Duration(0)
		start := time.Now()
		for i := 0; time.Since(start) < time.Minute; i++ {
			if time.Since(start) == 35*time.Second {
				k.issuer.AddKey("new")
				good = k.issuer.Token("alice", nil)
			}
			forged := extauthztest.Sign(t, stranger.AddKey(fmt.Sprint("x", i)), nil, k.issuer.Claims("mallory", nil))
			for range 3 {
				if _, err := k.verifier.Verify(t.Context(), forged); err == nil {
					t.Fatal("a forged token was accepted")
				}
			}
			_, err := k.verifier.Verify(t.Context(), good)
			if got := outcome(err); got != "ok" && got != "unavailable" {
				t.Fatalf("a good token was called %s", got)
			}
			if err == nil && accepted == 0 && time.Since(start) >= 35*time.Second {
				accepted = time.Since(start) - 35*time.Second
			}
			time.Sleep(100 * time.Millisecond)
		}
		if accepted > 10*time.Second {
			t.Errorf("the new key was accepted after %v", accepted)
		}
		if got := k.issuer.Fetches(); got > 8 {
			t.Errorf("got %d fetches in a minute", got)
		}
	})
}

// Those who wait for a fetch share it, and leave on their own.
func TestFetchIsShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		issuer := extauthztest.NewIssuer(t)
		source := &heldKeys{issuer: issuer, release: make(chan struct{})}
		keys := caller.NewKeySet(source, slog.New(slog.DiscardHandler))
		first, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() { left <- keys.Load(first) }()
		synctest.Wait()
		var waiting sync.WaitGroup
		for range 99 {
			waiting.Go(func() {
				if err := keys.Load(t.Context()); err != nil {
					t.Errorf("a caller that waited: %v", err)
				}
			})
		}
		synctest.Wait()
		cancel()
		if got := outcome(<-left); got != "unavailable" {
			t.Errorf("the first caller left with %s", got)
		}
		close(source.release)
		waiting.Wait()
		if got := issuer.Fetches(); got != 1 {
			t.Errorf("got %d fetches, want 1", got)
		}
	})
}

// A source that never answers is given up.
func TestFetchHasADeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := &heldKeys{issuer: extauthztest.NewIssuer(t), release: make(chan struct{})}
		start := time.Now()
		err := caller.NewKeySet(source, slog.New(slog.DiscardHandler)).Load(t.Context())
		if got := outcome(err); got != "unavailable" || time.Since(start) > time.Minute {
			t.Errorf("got %s after %v", got, time.Since(start))
		}
	})
}

// heldKeys answers when it is released.
type heldKeys struct {
	issuer  *extauthztest.Issuer
	release chan struct{}
}

func (h *heldKeys) JWKS(ctx context.Context) ([]byte, error) {
	select {
	case <-h.release:
		return h.issuer.JWKS(ctx)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// keysFunc is a source of one function.
type keysFunc func() ([]byte, error)

func (f keysFunc) JWKS(context.Context) ([]byte, error) { return f() }

// Whatever a source answers, the last good set stays.
func TestBadKeySetsDoNotReplaceAGoodOne(t *testing.T) {
	t.Parallel()
	many := `{"keys":[` + strings.Repeat(`{"kty":"FUTURE"},`, 100) + `{"kty":"FUTURE"}]}`
	for name, bad := range map[string]string{
		"empty set":     `{"keys":[]}`,
		"no set":        `{}`,
		"null":          `null`,
		"not JSON":      `<html>`,
		"nothing":       ``,
		"keys twice":    `{"keys":[],"keys":[]}`,
		"keys a number": `{"keys":1}`,
		"unusable keys": `{"keys":[{"kty":"FUTURE"},1,null,"x"]}`,
		"too many keys": many,
		"panic":         "panic",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				issuer := extauthztest.NewIssuer(t)
				var spoiled atomic.Bool
				keys := caller.NewKeySet(keysFunc(func() ([]byte, error) {
					switch {
					case spoiled.Load() && bad == "panic":
						panic("token canary") //nolint:forbidigo // a fault that must not end the process
					case spoiled.Load():
						return []byte(bad), nil
					}
					return issuer.JWKS(t.Context())
				}), slog.New(slog.DiscardHandler))
				verifier, err := caller.NewJWT(keys, caller.JWTConfig{Issuer: issuer.URL, Audiences: []string{extauthztest.Audience}, CacheBytes: 1 << 10})
				if err != nil {
					t.Fatal(err)
				}
				defer verifier.Close()
				for range 3 {
					if _, err := verifier.Verify(t.Context(), issuer.Token("alice", nil)); err != nil {
						t.Errorf("got %v", err)
					}
					spoiled.Store(true)
					time.Sleep(6 * time.Minute)
				}
			})
		})
	}
}
