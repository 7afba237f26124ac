package tokens

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// retried is a request that is sent again because of a rejection.
func retried(r Rejection) Retried {
	return Retried{Use: r.Use, Refused: r.Fingerprint, Verdict: r.Verdict, Attempt: r.Attempt + 1}
}

func TestAgain(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		prepare  func(*testing.T, *Credential)
		change   func(*Retried)
		want     uint64 // generation; 0 if there is an error
		err      error
		requests int
	}{
		"a fresh one":             {nil, func(*Retried) {}, 2, nil, 1},
		"another replica's":       {nil, func(r *Retried) { r.Refused = "elsewhere" }, 2, nil, 1},
		"not refused":             {nil, func(r *Retried) { r.Refused = "" }, 1, nil, 0},
		"caller's is not at hand": {nil, func(r *Retried) { r.Use.Subject = "gone" }, 0, ErrNoSubject, 0},
		"no budget, dead":         {spendAll, func(*Retried) {}, 0, errSameToken, 0},
		"no budget, unclear":      {spendAll, func(r *Retried) { r.Verdict = Unclear }, 1, nil, 0},
		"paused, dead":            {func(_ *testing.T, c *Credential) { c.Pause() }, func(*Retried) {}, 0, errSameToken, 0},
		"expired": {
			func(_ *testing.T, c *Credential) {
				c.Pause()
				time.Sleep(time.Hour)
				c.setPaused(false, EventResumed)
			},
			func(*Retried) {}, 2, nil, 1,
		},
		"expired, paused": {
			func(_ *testing.T, c *Credential) {
				c.Pause()
				time.Sleep(time.Hour)
			},
			func(*Retried) {}, 0, errPaused, 0,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				source := numbered(time.Hour, 20*time.Millisecond)
				c, _ := newTestCredential(t, source)
				r := retried(refusalOf(settled(t, c), 1, Dead))
				if tt.prepare != nil {
					tt.prepare(t, c)
				}
				tt.change(&r)
				uses := c.Status().Uses
				token, err := c.Again(t.Context(), r)
				var unavailable *UnavailableError
				if !errors.Is(err, tt.err) || err != nil && !errors.As(err, &unavailable) || token.Generation != tt.want {
					t.Errorf("got generation %d, %v; want %d, %v", token.Generation, err, tt.want, tt.err)
				}
				if n := source.asked() - 1; n != tt.requests {
					t.Errorf("%d token requests, want %d", n, tt.requests)
				}
				if got := c.Status().Uses - uses; (got == 1) != (err == nil) {
					t.Errorf("counted %d uses", got)
				}
			})
		})
	}
}

// spendAll leaves nothing of a credential's budget.
func spendAll(_ *testing.T, c *Credential) {
	for c.spend(time.Now(), 0) {
	}
}

// However many are sent again after one rejection, they cost what that cost.
func TestAgainForMany(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Hour, 20*time.Millisecond)
		c, _ := newTestCredential(t, source)
		token := settled(t, c)
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				r := refusalOf(token, 1, Dead)
				if o := c.Rejected(t.Context(), r); o.Answer != TryAgain {
					t.Errorf("got %+v", o)
				}
				if fresh, err := c.Again(t.Context(), retried(r)); err != nil || fresh.Generation != 2 {
					t.Errorf("got generation %d, %v", fresh.Generation, err)
				}
			})
		}
		wg.Wait()
		if n := source.asked(); n != 2 {
			t.Errorf("%d token requests, want 2", n)
		}
	})
}

// What was flushed is not sent again either.
func TestAgainAfterFlush(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, _ := newTestCredential(t, &provider{life: time.Hour}, onBehalf)
		first := mustTokenOf(t, c, "a")
		time.Sleep(2 * freshFor)
		r := refusalFor("a", first, 1, Dead)
		c.Rejected(t.Context(), r)
		time.Sleep(time.Millisecond)
		if _, err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		if token, err := c.Again(t.Context(), retried(r)); err != nil || token.Generation != 3 {
			t.Errorf("got generation %d, %v", token.Generation, err)
		}
	})
}

// The provider is down: the one token that there is goes out again only where it
// may be alive.
func TestAgainWhileProviderIsDown(t *testing.T) {
	t.Parallel()
	for verdict, passes := range map[Verdict]bool{Dead: false, Unclear: true} {
		t.Run(verdict.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				source := &script{answer: func(_ context.Context, n int) (Grant, error) {
					if n > 1 {
						return Grant{}, errDown
					}
					return Grant{AccessToken: "only", ExpiresIn: time.Hour}, nil
				}}
				c, _ := newTestCredential(t, source)
				token := settled(t, c)
				if got, err := c.Again(t.Context(), retried(refusalOf(token, 1, verdict))); (err == nil) != passes || passes && got != token {
					t.Errorf("got %+v, %v", got, err)
				}
			})
		})
	}
}

// Where nobody can say whether the token was refused, one that was just issued is
// sent again, and another is suspect; but not one that a backend called dead and
// in place of which there is no other.
func TestAgainUnasked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		source := &script{answer: func(_ context.Context, n int) (Grant, error) {
			if down.Load() {
				return Grant{}, errDown
			}
			return Grant{AccessToken: Secret(fmt.Sprint("token ", n)), ExpiresIn: time.Hour}, nil
		}}
		c, _ := newTestCredential(t, source)
		again := func(want uint64) {
			t.Helper()
			got, err := c.Again(t.Context(), Retried{Use: Use{Credential: "orders"}, Attempt: 2, Unasked: true})
			if got.Generation != want || (err == nil) != (want > 0) {
				t.Errorf("got generation %d, %v; want %d", got.Generation, err, want)
			}
		}
		first := mustToken(t, c)
		again(1)
		time.Sleep(2 * freshFor)
		again(2)
		time.Sleep(2 * freshFor)
		down.Store(true)
		token := mustToken(t, c)
		again(2) // it may have been sent again for another reason
		c.Rejected(t.Context(), refusalOf(token, 1, Dead))
		c.Rejected(t.Context(), refusalOf(first, 1, Dead)) // late, and says nothing of the other
		again(0)
	})
}
