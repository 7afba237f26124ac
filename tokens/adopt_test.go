package tokens

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A change of settings that is not about which token it is costs none.
func TestAdopt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Hour, time.Millisecond)
		old, _ := newTestCredential(t, source)
		first := mustToken(t, old)
		old.Pause()

		same, _ := newTestCredential(t, source, func(c *Config) { c.Action = Observe })
		same.Adopt(old)
		old.Close()
		if got := mustToken(t, same); got != first || source.asked() != 1 {
			t.Errorf("got %v after %d requests, want the token of the first", got, source.asked())
		}
		if s := same.Status(); !s.Paused || s.Uses != 2 {
			t.Errorf("got %+v, want it paused, with the uses counted on", s)
		}
		other, _ := newTestCredential(t, source, func(c *Config) { c.Key = "other" })
		other.Adopt(same)
		if got := mustToken(t, other); got.Value == first.Value {
			t.Error("the token of another key was taken over")
		}
	})
}

// The renewal of a token that was adopted goes on.
func TestAdoptedTokenIsRenewed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Minute, time.Millisecond)
		old, _ := newTestCredential(t, source)
		mustToken(t, old)
		c, events := newTestCredential(t, source, func(c *Config) { c.Expiry.Margin = 10 * time.Second })
		c.Adopt(old)
		old.Close()
		time.Sleep(59 * time.Second)
		if got := len(events.of(EventRenewed)); got == 0 {
			t.Error("the token was not renewed before its end")
		}
	})
}

// A rejection long ago, of a caller who is not allowed, does not make a renewal
// that is in flight at a restart count as fresh.
func TestOldRejectionDoesNotFreshenARenewal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Minute, 2*time.Second)
		c, _ := newTestCredential(t, source, func(c *Config) { c.Expiry.Margin = 20 * time.Second })
		token := mustToken(t, c)
		r := refusalOf(token, 1, Unclear)
		for range 5 { // a storm: the trials do not help, and it falls silent
			if o := c.Rejected(t.Context(), r); o.Answer == TryAgain {
				token = mustToken(t, c)
				c.Rejected(t.Context(), refusalOf(token, 2, Unclear))
			}
			r = refusalOf(token, 1, Unclear)
		}
		time.Sleep(time.Until(c.Status().Renewal) + time.Second) // the renewal is in flight
		before := source.asked()
		if o := c.Rejected(t.Context(), refusalOf(token, 1, Dead)); o.Answer != TryAgain {
			t.Fatalf("got %+v", o)
		}
		if got := source.asked() - before; got != 1 {
			t.Errorf("%d token requests after the rejection, want 1: the renewal's token is no newer than it", got)
		}
	})
}

// waiting is a failure with Retry-After.
type waiting struct{ error }

func (waiting) RetryAfter() time.Duration { return time.Minute }

// A provider that says when to come back is left alone until then.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := &script{answer: func(_ context.Context, n int) (Grant, error) {
			if n == 1 {
				return Grant{}, waiting{errors.New("429")}
			}
			return Grant{AccessToken: "token"}, nil
		}}
		c, _ := newTestCredential(t, source)
		for range 100 {
			_, err := c.Token(t.Context(), Request{})
			var u *UnavailableError
			if !errors.As(err, &u) || u.RetryAfter <= 0 {
				t.Fatalf("got %v, want when to come back", err)
			}
		}
		if source.asked() != 1 {
			t.Errorf("%d token requests, want 1", source.asked())
		}
		time.Sleep(time.Minute)
		mustToken(t, c)
	})
}

// A provider that gives the same token again, and no longer says when it ends,
// has not given it more time.
func TestSameTokenKeepsItsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := &script{answer: func(_ context.Context, n int) (Grant, error) {
			g := Grant{AccessToken: "token"}
			if n == 1 {
				g.ExpiresIn = time.Minute
			}
			return g, nil
		}}
		c, _ := newTestCredential(t, source, func(c *Config) { c.Expiry.Margin = 10 * time.Second })
		end := mustToken(t, c).Expires
		time.Sleep(55 * time.Second)
		if got := mustToken(t, c).Expires; !got.Equal(end) || source.asked() != 2 {
			t.Errorf("it ends %v later after %d requests", got.Sub(end), source.asked())
		}
	})
}

// Whoever closes first in a chain of reloads, the tokens live as long as one of
// them is open, and not longer.
func TestChainOfReloads(t *testing.T) {
	t.Parallel()
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := &provider{life: time.Hour, refreshes: true}
				cache := newTestCache(t, 1<<20)
				var chain []*Credential
				for i := range 3 {
					c, _ := newCredentialIn(t, cache, p)
					if i > 0 {
						c.Adopt(chain[i-1])
					} else {
						mustToken(t, c)
					}
					chain = append(chain, c)
				}
				for i, n := range order {
					if got := p.count(); got.living != 1 || got.asked != i+1 {
						t.Fatalf("after %d were closed: %+v", i, got)
					}
					last := chain[order[2]]
					if _, err := last.Flush(); err != nil { // by the one who stays: so it can still fetch
						t.Fatal(err)
					}
					mustToken(t, last)
					chain[n].Close()
					synctest.Wait()
				}
				if got := p.later(); got.living != 0 || got.asked != 4 {
					t.Errorf("at last: %+v", got)
				}
				if len(cache.holders) != 0 || cache.Stats().Entries != 0 {
					t.Errorf("%d holders and %+v are left", len(cache.holders), cache.Stats())
				}
				p.check(t)
			})
		})
	}
}

// A fetch in flight goes on when the credential that began it is closed.
func TestAdoptDuringFetch(t *testing.T) {
	t.Parallel()
	for _, behalf := range []bool{false, true} {
		t.Run(fmt.Sprint("on behalf ", behalf), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := &provider{life: time.Hour, slow: time.Second}
				cache := newTestCache(t, 1<<20)
				mend := func(c *Config) { c.OnBehalf = behalf }
				old, _ := newCredentialIn(t, cache, p, mend)
				var wg sync.WaitGroup
				wg.Go(func() { mustTokenOf(t, old, caller(behalf)) })
				time.Sleep(time.Second / 2)
				c, d := newCredentialIn(t, cache, p, mend)
				c.Adopt(old)
				old.Close()
				began := time.Now()
				mustTokenOf(t, c, caller(behalf))
				wg.Wait()
				if waited := time.Since(began); waited != time.Second/2 || p.count().asked != 1 {
					t.Errorf("waited %v for %d token requests", waited, p.count().asked)
				}
				if len(d.of(EventIssued)) != 1 {
					t.Error("the new one's observer was not told")
				}
			})
		})
	}
}

// A credential that now fetches for requests only has no token renewed, and leaves
// the one of before where it is: a configuration that is refused gives it back.
func TestAdoptForBypass(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cache := newTestCache(t, 1<<20)
		source := numbered(time.Hour, 0)
		old, _ := newCredentialIn(t, cache, source)
		token := settled(t, old)
		c, _ := newCredentialIn(t, cache, source, func(c *Config) { c.Bypass = true })
		c.Adopt(old)
		if s := c.Status(); s.Token != (Token{}) || s.Alive || !s.Renewal.IsZero() || !s.OnRequest {
			t.Errorf("got %+v", s)
		}
		c.Close()
		if got := mustToken(t, old); got != token || old.Status().Renewal.IsZero() {
			t.Errorf("given back: got %+v, %+v", got, old.Status())
		}
		c, _ = newCredentialIn(t, cache, source, func(c *Config) { c.Bypass = true })
		c.Adopt(old)
		old.Close()
		time.Sleep(24 * time.Hour)
		if n := source.asked(); n != 1 {
			t.Errorf("%d token requests that nobody wanted", n-1)
		}
	})
}

// Requests that are under way with the old credential count, too.
func TestAdoptedCountsGoOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cache := newTestCache(t, 1<<20)
		old, _ := newCredentialIn(t, cache, numbered(time.Hour, 0))
		c, _ := newCredentialIn(t, cache, numbered(time.Hour, 0))
		mustToken(t, old)
		c.Adopt(old)
		mustToken(t, old)
		mustToken(t, c)
		if _, err := c.Token(t.Context(), Request{Bypass: true}); err != nil {
			t.Error(err)
		}
		old.Close()
		if s := c.Status(); s.Uses != 4 || s.Bypassed != 1 {
			t.Errorf("got %+v", s)
		}
		c.Close()
		if n := cache.Stats().Bypasses; n != 1 {
			t.Errorf("%d bypasses, want those of credentials that are gone too", n)
		}
	})
}

// Callers' tokens come along, and are counted where they are.
func TestAdoptOnBehalf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &provider{life: time.Hour, refreshes: true}
		cache := newTestCache(t, 1<<20)
		old, _ := newCredentialIn(t, cache, p, onBehalf)
		a := mustTokenOf(t, old, "a")
		c, _ := newCredentialIn(t, cache, p, onBehalf)
		c.Adopt(old)
		old.Close()
		if mustTokenOf(t, c, "a") != a || c.Status().Subjects != 1 || p.count().asked != 1 {
			t.Errorf("got %+v after %+v", c.Status(), p.count())
		}
		c.Close()
		synctest.Wait()
		if n := p.later(); n.living != 0 || c.Status().Subjects != 0 {
			t.Errorf("at the provider: %+v, and %+v", n, c.Status())
		}
		p.check(t)
	})
}
