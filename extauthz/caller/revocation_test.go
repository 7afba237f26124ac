package caller_test

import (
	"context"
	"crypto/elliptic"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
)

// revocationTest has a caller's token, its verifiers, and the revocations that
// they share.
type revocationTest struct {
	*caller.Revocations

	issuer   *extauthztest.Issuer
	provider *authority
	verifyBy map[string]caller.Verifier // by the kind of token
	tokens   map[string]string
}

func newRevocationTest(t *testing.T) *revocationTest {
	t.Helper()
	r := &revocationTest{Revocations: caller.NewRevocations(0), issuer: extauthztest.NewIssuer(t), provider: newAuthority(t)}
	log := slog.New(slog.DiscardHandler)
	signed := func() *caller.JWT {
		v, err := caller.NewJWT(caller.NewKeySet(r.issuer, log), caller.JWTConfig{
			Issuer: r.issuer.URL, Audiences: []string{extauthztest.Audience}, CacheBytes: 1 << 20, Revocations: r.Revocations,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(v.Close)
		return v
	}
	cfg := opaqueConfig()
	cfg.Revocations = r.Revocations
	then, err := caller.NewJWTThenIntrospect(signed(), newOpaque(t, r.provider, cfg), log)
	if err != nil {
		t.Fatal(err)
	}
	r.verifyBy = map[string]caller.Verifier{"jwt": signed(), "opaque": newOpaque(t, r.provider, cfg), "both": then}
	r.tokens = map[string]string{
		"jwt":    r.issuer.Token("alice", map[string]any{"jti": "jti of jwt"}),
		"opaque": r.provider.issue("opaque", nil),
		"both":   r.issuer.Token("alice", map[string]any{"jti": "jti of both"}),
	}
	// The least that a provider may answer: what is revoked, the JWT says.
	r.provider.issue(r.tokens["both"], map[string]any{"sub": nil, "client_id": nil, "jti": nil, "iat": nil, "scope": nil})
	return r
}

func (r *revocationTest) add(t *testing.T, kind caller.RevocationKind, value string) {
	t.Helper()
	if err := r.Add(caller.Revocation{Issuer: opaqueIssuer, Kind: kind, Value: value, Until: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
}

// verify checks the outcome for the token of each kind.
func (r *revocationTest) verify(t *testing.T, name, want string) {
	t.Helper()
	for kind, verifier := range r.verifyBy {
		if _, err := verifier.Verify(t.Context(), r.tokens[kind]); outcome(err) != want {
			t.Errorf("%s, %s: got %v, want %s", name, kind, err, want)
		}
	}
	synctest.Wait() // for ristretto to store it
}

// A revocation counts whenever it comes: before a token is first seen, after it
// was cached, and twice.
func TestRevocationOrders(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		kind   caller.RevocationKind
		values []string
	}{
		{caller.RevokedToken, []string{"jti of jwt", "jti of opaque", "jti of both"}},
		{caller.RevokedSubject, []string{"alice"}},
		{caller.RevokedClient, []string{"app"}},
	} {
		t.Run(string(tt.kind), func(t *testing.T) {
			t.Parallel()
			for _, cached := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					r := newRevocationTest(t)
					if cached {
						r.verify(t, "first seen", "ok")
						r.verify(t, "cached", "ok")
					}
					for range 2 {
						for _, value := range tt.values {
							r.add(t, tt.kind, value)
						}
						r.verify(t, "revoked", "token_revoked")
						r.verify(t, "revoked, seen again", "token_revoked")
					}
					if got := r.Len(); got != len(tt.values) {
						t.Errorf("got %d revocations, want %d", got, len(tt.values))
					}
				})
			}
		})
	}
}

// One that is extended is as safe as any other that ends late.
func TestExtendedRevocations(t *testing.T) {
	t.Parallel()
	r := caller.NewRevocations(2)
	now := time.Now()
	for _, step := range []struct {
		value string
		life  time.Duration
		want  error
	}{
		{"a", time.Hour, nil},
		{"b", 2 * time.Hour, nil},
		{"a", 3 * time.Hour, nil},
		{"c", 4 * time.Hour, nil}, // in place of b
		{"b", 2 * time.Hour, caller.ErrRevocationsFull},
	} {
		err := r.Add(caller.Revocation{Issuer: opaqueIssuer, Kind: caller.RevokedSubject, Value: step.value, Until: now.Add(step.life)})
		if !errors.Is(err, step.want) {
			t.Errorf("%s for %v: got %v, want %v", step.value, step.life, err, step.want)
		}
	}
}

// A revocation ends when it was said to, even if nothing has been added since.
func TestRevocationsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRevocationTest(t)
		if err := r.Add(caller.Revocation{Issuer: opaqueIssuer, Kind: caller.RevokedSubject, Value: "alice", Until: time.Now().Add(time.Minute)}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute - time.Nanosecond)
		r.verify(t, "before its end", "token_revoked")
		time.Sleep(time.Nanosecond)
		r.verify(t, "at its end", "ok")
	})
}

// Only what a revocation names is revoked.
func TestRevocationsOfOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRevocationTest(t)
		r.verify(t, "first seen", "ok")
		r.add(t, caller.RevokedToken, "alice")
		r.add(t, caller.RevokedSubject, "app")
		r.add(t, caller.RevokedClient, "jti of jwt")
		r.add(t, caller.RevokedSubject, "ALICE")
		r.add(t, caller.RevokedSubject, "*")
		later := time.Now().Add(time.Hour)
		for _, other := range []caller.Revocation{
			{Issuer: "https://other.example", Kind: caller.RevokedSubject, Value: "alice", Until: later},
			{Issuer: opaqueIssuer + "alice", Kind: caller.RevokedSubject, Value: "alice", Until: later},
			{Issuer: opaqueIssuer, Kind: caller.RevokedSubject, Value: "alice", At: time.Now().Add(-time.Minute), Until: later},
			{Issuer: opaqueIssuer, Kind: caller.RevokedSubject, Value: "alice", Until: time.Now()},
		} {
			if err := r.Add(other); err != nil {
				t.Fatal(err)
			}
		}
		r.verify(t, "others are revoked", "ok")
	})
}

// Whoever logs in again after the event gets in again.
func TestTokensIssuedAfterARevocation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRevocationTest(t)
		r.add(t, caller.RevokedSubject, "alice")
		r.verify(t, "old", "token_revoked")
		time.Sleep(time.Second)
		for kind, token := range map[string]string{
			"jwt": r.issuer.Token("alice", nil), "opaque": r.provider.issue("new", nil), "both": r.issuer.Token("alice", map[string]any{"jti": "x"}),
		} {
			if kind == "both" {
				r.provider.issue(token, map[string]any{"iat": nil})
			}
			if _, err := r.verifyBy[kind].Verify(t.Context(), token); err != nil {
				t.Errorf("%s, new: got %v", kind, err)
			}
		}
		// A token that is named is revoked whenever that was.
		if err := r.Add(caller.Revocation{
			Issuer: opaqueIssuer, Kind: caller.RevokedToken, Value: "jti of new", At: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Hour),
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.verifyBy["opaque"].Verify(t.Context(), "new"); !errors.Is(err, caller.ErrRevoked) {
			t.Errorf("a named token: got %v", err)
		}
		timeless := r.issuer.Token("alice", map[string]any{"iat": nil})
		if _, err := r.verifyBy["jwt"].Verify(t.Context(), timeless); !errors.Is(err, caller.ErrRevoked) {
			t.Errorf("without a time of issue: got %v", err)
		}
		// An older event that comes late takes nothing back.
		if err := r.Add(caller.Revocation{
			Issuer: opaqueIssuer, Kind: caller.RevokedSubject, Value: "alice", At: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Minute),
		}); err != nil {
			t.Fatal(err)
		}
		r.verify(t, "old, after a late event", "token_revoked")
		time.Sleep(30 * time.Minute)
		r.verify(t, "old, after the end of the late event", "token_revoked")
	})
}

// A revocation that comes while keys are fetched or the provider is asked counts.
func TestRevocationDuringVerification(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		revocations := caller.NewRevocations(0)
		issuer, provider := extauthztest.NewIssuer(t), newAuthority(t)
		source := &heldKeys{issuer: issuer, release: make(chan struct{})}
		signed, err := caller.NewJWT(caller.NewKeySet(source, slog.New(slog.DiscardHandler)), caller.JWTConfig{
			Issuer: issuer.URL, Audiences: []string{extauthztest.Audience}, CacheBytes: 1 << 20, Revocations: revocations,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer signed.Close()
		cfg := opaqueConfig()
		cfg.Revocations = revocations
		release := provider.holdCalls()
		results := make(chan error, 2)
		jwt, opaque := issuer.Token("alice", nil), provider.issue("a", nil)
		for token, v := range map[string]caller.Verifier{jwt: signed, opaque: newOpaque(t, provider, cfg)} {
			go func() {
				_, err := v.Verify(t.Context(), token)
				results <- err
			}()
		}
		synctest.Wait() // both are on their way
		if err := revocations.Add(caller.Revocation{Issuer: issuer.URL, Kind: caller.RevokedSubject, Value: "alice", Until: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		close(source.release)
		release()
		for range 2 {
			if err := <-results; !errors.Is(err, caller.ErrRevoked) {
				t.Errorf("got %v", err)
			}
		}
	})
}

func TestRevocationDuringIntrospectionOfAJWT(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRevocationTest(t)
		release := r.provider.holdCalls()
		result := make(chan error, 1)
		go func() {
			_, err := r.verifyBy["both"].Verify(t.Context(), r.tokens["both"])
			result <- err
		}()
		synctest.Wait()
		r.add(t, caller.RevokedToken, "jti of both")
		release()
		if err := <-result; !errors.Is(err, caller.ErrRevoked) {
			t.Errorf("got %v", err)
		}
		calls := r.provider.count()
		if _, err := r.verifyBy["both"].Verify(t.Context(), r.tokens["both"]); !errors.Is(err, caller.ErrRevoked) || r.provider.count() != calls {
			t.Errorf("again: got %v after %d calls", err, r.provider.count()-calls)
		}
	})
}

// security.md C25: a signature of ECDSA has a second form, which everybody can
// compute: the token has another hash then, and is revoked all the same.
func TestSecondFormOfARevokedToken(t *testing.T) {
	t.Parallel()
	r := newRevocationTest(t)
	token := r.tokens["jwt"]
	at := strings.LastIndexByte(token, '.') + 1
	signature, err := base64.RawURLEncoding.DecodeString(token[at:])
	if err != nil {
		t.Fatal(err)
	}
	s := new(big.Int).SetBytes(signature[32:])
	s.Sub(elliptic.P256().Params().N, s).FillBytes(signature[32:])
	second := token[:at] + base64.RawURLEncoding.EncodeToString(signature)
	if _, err := r.verifyBy["jwt"].Verify(t.Context(), second); err != nil {
		t.Fatalf("before: got %v", err)
	}
	r.add(t, caller.RevokedToken, "jti of jwt")
	for _, form := range []string{token, second} {
		if _, err := r.verifyBy["jwt"].Verify(t.Context(), form); !errors.Is(err, caller.ErrRevoked) {
			t.Errorf("got %v", err)
		}
	}
}

// Revocations end, and what ends first makes room.
func TestRevocationsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := caller.NewRevocations(3)
		add := func(value string, life time.Duration) error {
			return r.Add(caller.Revocation{Issuer: opaqueIssuer, Kind: caller.RevokedSubject, Value: value, Until: time.Now().Add(life)})
		}
		for i, life := range []time.Duration{3 * time.Minute, time.Minute, 2 * time.Minute} {
			if err := add(fmt.Sprint(i), life); err != nil {
				t.Fatal(err)
			}
		}
		if err := add("3", time.Minute/2); !errors.Is(err, caller.ErrRevocationsFull) || r.Len() != 3 || r.Dropped() != 1 {
			t.Errorf("one that ends first: got %v, %d held, %d dropped", err, r.Len(), r.Dropped())
		}
		if err := add("4", time.Hour); err != nil || r.Len() != 3 || r.Dropped() != 2 {
			t.Errorf("one that ends last: got %v, %d held, %d dropped", err, r.Len(), r.Dropped())
		}
		if err := add("0", 2*time.Hour); err != nil || r.Len() != 3 {
			t.Errorf("one that is held already, for longer: got %v, %d held", err, r.Len())
		}
		time.Sleep(2 * time.Minute)
		if err := add("5", time.Hour); err != nil || r.Len() != 3 || r.Dropped() != 2 {
			t.Errorf("in place of one that ended: got %v, %d held, %d dropped", err, r.Len(), r.Dropped())
		}
		// The longest are left: 0 for two hours, 4 and 5 for one.
		if err := add("6", 30*time.Minute); !errors.Is(err, caller.ErrRevocationsFull) {
			t.Errorf("one that ends before all others: got %v", err)
		}
		for i := range 10_000 {
			_ = add(strings.Repeat("x", i%1000)+fmt.Sprint(i), time.Hour+time.Duration(i))
		}
		if r.Len() != 3 {
			t.Errorf("%d held after a flood", r.Len())
		}
	})
}

func TestAddRefuses(t *testing.T) {
	t.Parallel()
	r := caller.NewRevocations(0)
	later := time.Now().Add(time.Hour)
	for name, bad := range map[string]caller.Revocation{
		"no issuer": {Kind: caller.RevokedSubject, Value: "a", Until: later},
		"no value":  {Issuer: "i", Kind: caller.RevokedSubject, Until: later},
		"no kind":   {Issuer: "i", Value: "a", Until: later},
		"no end":    {Issuer: "i", Kind: caller.RevokedSubject, Value: "a"},
	} {
		if err := r.Add(bad); err == nil || r.Len() != 0 {
			t.Errorf("%s: got no error, or something was revoked", name)
		}
	}
	var none *caller.Revocations
	if none.Len() != 0 || none.Dropped() != 0 {
		t.Error("a nil set is not empty")
	}
}

// Revocations and verifications at the same time: once Add has returned, the
// token is refused.
func TestRevocationsRace(t *testing.T) {
	t.Parallel()
	issuer := extauthztest.NewIssuer(t)
	revocations := caller.NewRevocations(64)
	verifier, err := caller.NewJWT(caller.NewKeySet(issuer, slog.New(slog.DiscardHandler)), caller.JWTConfig{
		Issuer: issuer.URL, Audiences: []string{extauthztest.Audience}, CacheBytes: 1 << 20, Revocations: revocations,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer verifier.Close()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	busy := issuer.Token("busy", nil)
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_, _ = verifier.Verify(t.Context(), busy)
		}
	}()
	for i := range 50 {
		subject := fmt.Sprint("s", i)
		token := issuer.Token(subject, nil)
		if _, err := verifier.Verify(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		if err := revocations.Add(caller.Revocation{Issuer: issuer.URL, Kind: caller.RevokedSubject, Value: subject, Until: time.Now().Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		if _, err := verifier.Verify(t.Context(), token); !errors.Is(err, caller.ErrRevoked) {
			t.Errorf("%s: got %v", subject, err)
		}
	}
	stop()
	<-done
}
