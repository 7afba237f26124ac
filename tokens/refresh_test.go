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

// A refresh token is used before a new grant is asked for, and what is used is
// never revoked.
func TestRefreshTokenIsUsed(t *testing.T) {
	t.Parallel()
	for _, keeps := range []bool{false, true} {
		t.Run(fmt.Sprint("stays good ", keeps), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := &provider{life: time.Hour, refreshes: true, keeps: keeps, client: 3}
				c, _ := newTestCredential(t, p, func(c *Config) { c.Expiry.Margin = time.Minute })
				mustToken(t, c)
				time.Sleep(24 * time.Hour)
				if n := p.count(); n.asked != 1+n.refreshed || n.refreshed < 24 || n.living != 1 || n.revoked != 0 {
					t.Errorf("at the provider: %+v", n)
				}
				c.Close()
				c.Close()
				synctest.Wait()
				if n := p.later(); n.living != 0 || n.revoked != 1 {
					t.Errorf("after Close: %+v", n)
				}
				p.check(t)
			})
		})
	}
}

// A refresh token that its provider lets live for ever ends here, counted from
// its last use.
func TestRefreshTokenExpires(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		stated, configured time.Duration
		unused             time.Duration // time without a use
		refreshed          int
	}{
		"stated, in time":     {2 * time.Hour, 0, 2*time.Hour - 1, 2},
		"stated, late":        {2 * time.Hour, 0, 2 * time.Hour, 1},
		"stated, not ours":    {2 * time.Hour, time.Hour, 2*time.Hour - 1, 2},
		"configured, in time": {0, 3 * time.Hour, 3*time.Hour - 1, 2},
		"configured, late":    {0, 3 * time.Hour, 3 * time.Hour, 1},
		"default, in time":    {0, 0, defaultRefreshLifetime - 1, 2},
		"default, late":       {0, 0, defaultRefreshLifetime, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := &provider{life: time.Hour, refreshes: true, refreshLife: tt.stated}
				c, _ := newTestCredential(t, p, func(c *Config) { c.Expiry.Refresh = tt.configured })
				mustToken(t, c)
				time.Sleep(time.Hour) // it is used
				synctest.Wait()
				if n := p.count(); n.refreshed != 1 {
					t.Fatalf("at the provider: %+v", n)
				}
				c.Pause()
				time.Sleep(tt.unused)
				c.Resume()
				mustToken(t, c)
				synctest.Wait()
				if n := p.later(); n.refreshed != tt.refreshed || n.living != 1 || n.revoked != 2-tt.refreshed {
					t.Errorf("at the provider: %+v", n)
				}
				p.check(t)
			})
		})
	}
}

// An answer that is thrown away, since a rejection or a flush came meanwhile,
// brought a refresh token that is used or revoked like any other; the one that
// was used up for it is not used again.
func TestRefreshTokenOfAnswerThatIsThrownAway(t *testing.T) {
	t.Parallel()
	for name, meanwhile := range map[string]func(*testing.T, *Credential, Token){
		"flush": func(t *testing.T, c *Credential, _ Token) {
			if _, err := c.Flush(); err != nil {
				t.Error(err)
			}
		},
		"rejection": func(t *testing.T, c *Credential, token Token) {
			if o := c.Rejected(t.Context(), refusalOf(token, 1, Dead)); o.Answer != TryAgain {
				t.Errorf("got %+v", o)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := &provider{life: time.Hour, refreshes: true, slow: time.Second}
				c, _ := newTestCredential(t, p, func(c *Config) { c.Expiry.Margin = time.Minute })
				token := mustToken(t, c)
				time.Sleep(time.Until(c.Status().Renewal) + time.Second/2) // the renewal is in flight
				meanwhile(t, c, token)
				time.Sleep(5 * time.Second)
				if n := p.count(); n.asked != 3 || n.refreshed != 2 || n.living != 1 {
					t.Errorf("at the provider: %+v", n)
				}
				c.Close()
				synctest.Wait()
				if n := p.later(); n.living != 0 {
					t.Errorf("after Close: %+v", n)
				}
				p.check(t)
			})
		})
	}
}

// A token that expired on its way brought a refresh token that is good.
func TestRefreshTokenOfTokenThatExpiredOnItsWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &provider{life: time.Second, refreshes: true, slow: 2 * time.Second}
		c, _ := newTestCredential(t, p)
		if _, err := c.Token(t.Context(), Request{}); !errors.Is(err, errOutlived) {
			t.Errorf("got %v", err)
		}
		c.Close()
		synctest.Wait()
		if n := p.later(); n.living != 0 {
			t.Errorf("at the provider: %+v", n)
		}
		p.check(t)
	})
}

// Where another client takes over, the first one's refresh token is revoked by
// the first one.
func TestRefreshTokenOfAnotherClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &provider{life: time.Hour, refreshes: true}
		c, _ := newTestCredential(t, p)
		mustToken(t, c)
		// The source fails over: the other client asks for a new grant.
		source := &script{answer: func(context.Context, int) (Grant, error) {
			return Grant{AccessToken: "other", ExpiresIn: time.Hour, Client: 1}, nil
		}}
		c.cfg.Source = failover{source, p}
		if _, err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		mustToken(t, c)
		synctest.Wait()
		if n := p.later(); n.living != 0 || n.revoked != 1 {
			t.Errorf("at the first provider: %+v", n)
		}
		p.check(t)
	})
}

// failover grants at one and revokes at another.
type failover struct{ grants, revokes Source }

func (f failover) Grant(ctx context.Context, r GrantRequest) (Grant, error) {
	return f.grants.Grant(ctx, r)
}

func (f failover) Revoke(ctx context.Context, client int, token Secret) error {
	return f.revokes.Revoke(ctx, client, token)
}

// A fetch that fails keeps the refresh token.
func TestRefreshTokenSurvivesAFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		down := false
		p := &provider{life: time.Hour, refreshes: true, refuses: func(GrantRequest) error {
			if down {
				return errDown
			}
			return nil
		}}
		c, _ := newTestCredential(t, p, onBehalf)
		mustTokenOf(t, c, "a")
		time.Sleep(2 * time.Hour)
		p.set(func() { down = true })
		if _, err := c.Token(t.Context(), behalfOf("a")); !errors.Is(err, errDown) {
			t.Errorf("got %v", err)
		}
		p.set(func() { down = false })
		mustTokenOf(t, c, "a")
		if n := p.count(); n.refreshed != n.asked-1 || n.living != 1 || n.revoked != 0 {
			t.Errorf("at the provider: %+v", n)
		}
		p.check(t)
	})
}

// Close drops what is held on behalf of callers too.
func TestCloseOnBehalf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const callers = 500
		p := &provider{life: time.Hour, refreshes: true, slow: 20 * time.Millisecond}
		cache := newTestCache(t, 1<<20)
		c, _ := newCredentialIn(t, cache, p, onBehalf)
		other := &provider{life: time.Hour, refreshes: true}
		stays, _ := newCredentialIn(t, cache, other, onBehalf)
		mustTokenOf(t, stays, "a")
		for i := range callers {
			mustTokenOf(t, c, fmt.Sprint("caller-", i))
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Token(t.Context(), behalfOf("late")); err == nil {
				t.Error("a fetch in flight at Close: got no error")
			}
		})
		synctest.Wait()
		c.Close()
		wg.Wait()
		synctest.Wait()
		if n := p.later(); n.living != 0 || n.revoked != callers {
			t.Errorf("at the provider: %+v", n)
		}
		if n := c.Status().Subjects; n != 0 || len(cache.busy) != 0 || cache.Stats().Entries != 1 {
			t.Errorf("%d entries, %d busy, %+v", n, len(cache.busy), cache.Stats())
		}
		mustTokenOf(t, stays, "a")
		if n := other.count(); n.asked != 1 || n.living != 1 {
			t.Errorf("at the other provider: %+v", n)
		}
		if _, err := c.Token(t.Context(), behalfOf("caller-1")); !errors.Is(err, errClosed) {
			t.Errorf("after Close: got %v", err)
		}
		p.check(t)
	})
}

// A service that stops closes its credentials, and the cache right after: what
// is in flight ends without harm.
func TestCacheClosesDuringFetches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for range 20 {
			p := &provider{life: time.Hour, refreshes: true, slow: time.Millisecond}
			cache := newTestCache(t, 1<<20)
			c, _ := newCredentialIn(t, cache, p, onBehalf)
			var wg sync.WaitGroup
			for i := range 200 {
				wg.Go(func() { _, _ = c.Token(t.Context(), behalfOf(fmt.Sprint("caller-", i))) })
			}
			synctest.Wait()
			time.Sleep(p.slow) // the answers come now
			c.Close()
			cache.Close()
			wg.Wait()
			synctest.Wait()
			if n := p.later(); n.living != 0 {
				t.Errorf("at the provider: %+v", n)
			}
			p.check(t)
		}
	})
}

// Revocations that fail are tried again a few times, and told of; a provider
// that cannot revoke is no event. However slow it is, what waits is bounded.
func TestDisposal(t *testing.T) {
	t.Parallel()
	permanent := &PermanentError{Err: errors.New("unauthorized_client")}
	for name, tt := range map[string]struct {
		fails           func(n int) error // of the nth try
		tries           int
		revoked, failed int
	}{
		"at once":       {func(int) error { return nil }, 1, 1, 0},
		"second try":    {func(n int) error { return []error{errDown, nil}[n-1] }, 2, 1, 0},
		"never":         {func(int) error { return errDown }, disposalTries, 0, 1},
		"refused":       {func(int) error { return permanent }, 1, 0, 1},
		"not supported": {func(int) error { return fmt.Errorf("no endpoint: %w", errors.ErrUnsupported) }, 1, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				tries := 0
				p := &provider{life: time.Hour, refreshes: true, revokes: func(Secret) error { tries++; return tt.fails(tries) }}
				c, d := newTestCredential(t, p)
				token := mustToken(t, c)
				c.Close()
				time.Sleep(time.Minute)
				synctest.Wait()
				revoked, failed := d.of(EventRevoked), d.of(EventFailed)
				if tries != tt.tries || len(revoked) != tt.revoked || len(failed) != tt.failed {
					t.Fatalf("%d tries, revoked %+v, failed %+v", tries, revoked, failed)
				}
				for _, ev := range append(revoked, failed...) {
					if ev.Reason != ReasonDropped || ev.Fingerprint == token.Fingerprint || ev.Fingerprint == "" {
						t.Errorf("told %+v", ev)
					}
				}
			})
		})
	}
}

func TestDisposalIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const dropped = maxDisposed + 100
		s := &stuck{}
		c, d := newTestCredential(t, s)
		var waste disposal
		for i := range dropped {
			waste.add(c, 0, Secret(fmt.Sprint("refresh ", i)))
		}
		if n := len(d.of(EventFailed)); n != dropped-maxDisposed {
			t.Errorf("%d found no room", n)
		}
		time.Sleep(inUse)
		synctest.Wait()
		if most, kept := s.add(0), waste.length(); most != disposers || kept != maxDisposed-disposers {
			t.Errorf("%d at once, %d are kept", most, kept)
		}
		time.Sleep(100 * time.Hour)
		if n := waste.length(); n != 0 {
			t.Errorf("%d tokens are left", n)
		}
	})
}

// length is how many tokens are kept.
func (d *disposal) length() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.resting + len(d.waiting)
}

// stuck is a provider whose answers to revocations never come.
type stuck struct {
	mu        sync.Mutex
	now, most int
}

func (s *stuck) Grant(context.Context, GrantRequest) (Grant, error) { return Grant{}, errDown }

func (s *stuck) Revoke(ctx context.Context, _ int, _ Secret) error {
	s.add(1)
	defer s.add(-1)
	<-ctx.Done()
	return ctx.Err()
}

// add counts n more, and returns the most that there were at once.
func (s *stuck) add(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now += n
	s.most = max(s.most, s.now)
	return s.most
}

// A refresh token that is in use when its entry comes to its end is not revoked:
// what it is used for takes its place.
func TestRefreshTokenInUseIsNotRevoked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &provider{life: time.Minute, refreshes: true, refreshLife: 2 * time.Minute, slow: time.Second}
		c, _ := newTestCredential(t, p, onBehalf, func(c *Config) { c.Timeout = time.Minute })
		mustTokenOf(t, c, "a")
		time.Sleep(2*time.Minute - 2*time.Second)
		p.set(func() { p.slow = 20 * time.Second })
		mustTokenOf(t, c, "a")
		synctest.Wait()
		if n := p.count(); n.refreshed != 1 || n.revoked != 0 || n.living != 1 || c.Status().Subjects != 1 {
			t.Errorf("at the provider: %+v, with %d entries", n, c.Status().Subjects)
		}
		time.Sleep(time.Hour)
		if n := p.count(); n.revoked != 1 || n.living != 0 || c.Status().Subjects != 0 {
			t.Errorf("at last: %+v, with %d entries", n, c.Status().Subjects)
		}
		p.check(t)
	})
}
