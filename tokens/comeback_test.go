package tokens

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// stubborn is a provider that gives the same token until that is revoked, if
// that helps at all.
type stubborn struct {
	helps   bool  // a revocation
	err     error // of a revocation
	asked   int
	revoked []Secret
}

func (s *stubborn) Grant(context.Context, GrantRequest) (Grant, error) {
	s.asked++
	g := Grant{AccessToken: "token-0", ExpiresIn: time.Hour, Client: 2}
	if s.helps {
		g.AccessToken = Secret(fmt.Sprint("token-", len(s.revoked)))
	}
	return g, nil
}

func (s *stubborn) Revoke(_ context.Context, client int, token Secret) error {
	if client != 2 {
		return fmt.Errorf("revoked by client %d", client)
	}
	if s.err == nil {
		s.revoked = append(s.revoked, token)
	}
	return s.err
}

// A provider that answers with the very token that was refused: one that is said
// to be dead is revoked, once, and another asked for; one that may be alive never
// is.
func TestDeadTokenComesBack(t *testing.T) {
	t.Parallel()
	unable := fmt.Errorf("no endpoint: %w", errors.ErrUnsupported)
	tests := map[string]struct {
		source                *stubborn
		verdict               Verdict
		want                  Outcome
		asked, revoked, spent int
		failed                []Reason
	}{
		"dead, revoking helps": {
			&stubborn{helps: true}, Dead, Outcome{Answer: TryAgain, Reason: ReasonDead}, 2, 1, 2, nil,
		},
		"dead, it stays": {
			&stubborn{}, Dead, Outcome{Unavailable, ReasonSameToken, defaultCoolDown}, 2, 1, 2, []Reason{ReasonSameToken},
		},
		"dead, provider cannot revoke": {
			&stubborn{err: unable}, Dead, Outcome{Unavailable, ReasonSameToken, defaultCoolDown}, 1, 0, 2, []Reason{ReasonSameToken},
		},
		"dead, revoking fails": {
			&stubborn{err: errDown}, Dead, Outcome{Unavailable, ReasonSameToken, defaultCoolDown}, 1, 0, 2, []Reason{ReasonDead, ReasonSameToken},
		},
		"unclear": {&stubborn{helps: true}, Unclear, Outcome{Reason: ReasonSameToken}, 1, 0, 1, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c, d := newTestCredential(t, tt.source)
				token := settled(t, c)
				if tt.want.Answer == Pass {
					tt.want.RetryAfter = 0
				}
				if o := c.Rejected(t.Context(), refusalOf(token, 1, tt.verdict)); o != tt.want {
					t.Errorf("got %+v, want %+v", o, tt.want)
				}
				if got := tt.source.asked - 1; got != tt.asked || len(tt.source.revoked) != tt.revoked {
					t.Errorf("%d token requests, want %d; %d revocations, want %d", got, tt.asked, len(tt.source.revoked), tt.revoked)
				}
				if got := trialBurst - c.Status().Trials; got != tt.spent {
					t.Errorf("spent %d trials, want %d", got, tt.spent)
				}
				var failed []Reason
				for _, ev := range d.of(EventFailed) {
					failed = append(failed, ev.Reason)
				}
				if fmt.Sprint(failed) != fmt.Sprint(tt.failed) {
					t.Errorf("failed: got %v, want %v", failed, tt.failed)
				}
				if fresh := mustToken(t, c); (fresh.Fingerprint != token.Fingerprint) != (tt.want.Answer == TryAgain) {
					t.Errorf("got generation %d", fresh.Generation)
				}
			})
		})
	}
}

// A storm of rejections of a token that always comes back stays in the budget,
// and revokes it once.
func TestDeadTokenAlwaysComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const lasts = 10 * time.Minute
		s := &stubborn{}
		c, _ := newTestCredential(t, s)
		token := settled(t, c)
		for end := time.Now().Add(lasts); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			if o := c.Rejected(t.Context(), refusalOf(token, 1, Dead)); o.Answer != Unavailable {
				t.Fatalf("got %+v", o)
			}
		}
		if most := 1 + trialBurst + int(lasts/defaultCoolDown); s.asked > most || len(s.revoked) != 1 {
			t.Errorf("%d token requests, want at most %d; %d revocations, want 1", s.asked, most, len(s.revoked))
		}
	})
}

// Where the budget has nothing left for it the revocation waits for better days.
func TestDeadTokenComesBackWithoutBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &stubborn{helps: true}
		c, _ := newTestCredential(t, s)
		token := settled(t, c)
		for c.spend(time.Now(), 1) { // one is left
		}
		if o := c.Rejected(t.Context(), refusalOf(token, 1, Dead)); o.Answer != Unavailable {
			t.Errorf("got %+v", o)
		}
		for range enoughRefused { // several in a row spend the last
			c.Rejected(t.Context(), refusalOf(token, 1, Dead))
		}
		if len(s.revoked) != 0 {
			t.Fatalf("%d revocations without budget", len(s.revoked))
		}
		time.Sleep(time.Hour / 2)
		if o := c.Rejected(t.Context(), refusalOf(token, 1, Dead)); o.Answer != TryAgain || len(s.revoked) != 1 {
			t.Errorf("got %+v after %d revocations", o, len(s.revoked))
		}
	})
}
