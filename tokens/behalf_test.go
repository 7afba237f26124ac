package tokens

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Without a caller's token there is none on behalf of a caller, and nothing is
// fetched for nobody.
func TestOnBehalfNeedsASubject(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &provider{life: time.Hour}
		c, _ := newTestCredential(t, p, onBehalf)
		c.Warm()
		_, err := c.Token(t.Context(), Request{})
		var unavailable *UnavailableError
		if !errors.As(err, &unavailable) || !errors.Is(err, ErrNoSubject) {
			t.Errorf("got %v", err)
		}
		if err := c.Void(); !errors.Is(err, ErrNothingHeld) {
			t.Errorf("void: got %v", err)
		}
		if s := c.Status(); !s.OnRequest || s.Alive || p.count().asked != 0 {
			t.Errorf("got %+v after %d token requests", s, p.count().asked)
		}
	})
}

func TestOneTokenForEveryCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &provider{life: time.Hour}
		c, _ := newTestCredential(t, p, onBehalf)
		a, b := mustTokenOf(t, c, "a"), mustTokenOf(t, c, "b")
		for range 10 {
			if mustTokenOf(t, c, "a") != a || mustTokenOf(t, c, "b") != b {
				t.Error("got another token")
			}
		}
		if a.Subject == b.Subject || a.Subject == "" || strings.Contains(a.Subject, "a/") {
			t.Errorf("subjects %q and %q", a.Subject, b.Subject)
		}
		if s := c.Status(); s.Subjects != 2 || s.Uses != 22 || p.count().asked != 2 {
			t.Errorf("got %+v after %d token requests", s, p.count().asked)
		}
		own, _ := newTestCredential(t, p)
		if x, y := mustTokenOf(t, own, ""), mustTokenOf(t, own, ""); x != y || x.Subject != "" {
			t.Errorf("a credential that asks in its own name gave %+v and %+v", x, y)
		}
	})
}

// However many requests of a new caller come at once, and right after, they cost
// one token request: what ristretto was given can be read only later.
func TestNewCallerCostsOneFetch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const callers, requests = 5, 1000
		p := &provider{life: time.Hour, slow: 20 * time.Millisecond}
		c, _ := newTestCredential(t, p, onBehalf)
		for i := range callers {
			var wg sync.WaitGroup
			for range requests {
				wg.Go(func() {
					for range 3 {
						if _, err := c.Token(t.Context(), behalfOf(fmt.Sprint("caller-", i))); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
		}
		if n := p.count().asked; n != callers {
			t.Errorf("%d token requests, want %d", n, callers)
		}
		if n := len(c.h.cache.busy); n != 0 {
			t.Errorf("%d entries are still busy", n)
		}
	})
}

// There is one fetch in flight for a caller also while his entry comes to its
// end, when ristretto no longer gives it out.
func TestOneFetchAcrossTheEndOfAnEntry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &provider{life: time.Minute, slow: 2 * time.Second}
		c, _ := newTestCredential(t, p, onBehalf, func(c *Config) { c.Expiry.Least = 5 * time.Second })
		first := mustTokenOf(t, c, "a")
		time.Sleep(time.Until(first.Expires) - time.Second)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if token := mustTokenOf(t, c, "a"); token.Generation != 2 {
					t.Errorf("got generation %d", token.Generation)
				}
			})
			time.Sleep(100 * time.Millisecond)
		}
		wg.Wait()
		if n := p.count().asked; n != 2 {
			t.Errorf("%d token requests, want 2", n)
		}
	})
}

// Callers get their own tokens and nobody else's, whatever is pushed out, renewed
// or reloaded meanwhile; at last nothing is left, here or at the provider.
func TestCallersNeverMeet(t *testing.T) {
	t.Parallel()
	for name, bytes := range map[string]int64{"room": 1 << 20, "pressure": MinCacheBytes} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const callers = 300
				p := &provider{life: 20 * time.Second, refreshes: true, refreshLife: time.Minute, slow: 20 * time.Millisecond}
				cache := newTestCache(t, bytes)
				load := func() *Credential {
					c, _ := newCredentialIn(t, cache, p, onBehalf, func(c *Config) { c.Expiry.Margin = 5 * time.Second })
					return c
				}
				var c atomic.Pointer[Credential]
				c.Store(load())
				ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
				defer stop()
				var wg sync.WaitGroup
				for range 10 {
					wg.Go(func() {
						for ctx.Err() == nil {
							mustTokenOf(t, c.Load(), fmt.Sprint("caller-", rand.N(callers)))
							time.Sleep(10 * time.Millisecond)
						}
					})
				}
				for ctx.Err() == nil {
					time.Sleep(7 * time.Second)
					next := load()
					next.Adopt(c.Load())
					c.Swap(next).Close()
				}
				wg.Wait()
				if s := cache.Stats(); s.Bytes > uint64(bytes) {
					t.Errorf("%d bytes are held", s.Bytes)
				}
				time.Sleep(2 * time.Minute)
				if n := c.Load().Status().Subjects; n != 0 {
					t.Errorf("%d entries are left", n)
				}
				p.check(t)
				if n := p.count(); n.living != 0 || n.refreshed == 0 && bytes > MinCacheBytes {
					t.Errorf("at the provider: %+v", n)
				}
			})
		})
	}
}

// A caller's token that its provider refuses is his own trouble: it is not
// asked about again for a while, and others notice nothing.
func TestRefusedSubject(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("invalid_grant")
		mended := false
		p := &provider{life: time.Hour, refuses: func(r GrantRequest) error {
			if r.Subject == "bad" && !mended {
				return &SubjectError{Err: cause}
			}
			return nil
		}}
		c, _ := newTestCredential(t, p, onBehalf)
		for i := range 100 {
			began := time.Now()
			_, err := c.Token(t.Context(), behalfOf("bad"))
			var subject *SubjectError
			var unavailable *UnavailableError
			if !errors.As(err, &subject) || errors.As(err, &unavailable) || !errors.Is(err, cause) {
				t.Fatalf("request %d: got %v", i, err)
			}
			if waited := time.Since(began); waited != 0 {
				t.Errorf("waited %v", waited)
			}
			mustTokenOf(t, c, "good")
			time.Sleep(permanentPause / 101)
		}
		if n := p.count().asked; n != 2 {
			t.Errorf("%d token requests, want 2", n)
		}
		p.set(func() { mended = true })
		time.Sleep(permanentPause)
		mustTokenOf(t, c, "bad")
	})
}

// A caller may never come back: his token is renewed when he asks, and not
// before.
func TestCallersTokenIsRenewedWhenAskedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &provider{life: time.Minute, slow: time.Second}
		c, d := newTestCredential(t, p, onBehalf, func(c *Config) { c.Expiry.Margin = 10 * time.Second })
		first := mustTokenOf(t, c, "a")
		time.Sleep(55 * time.Second)
		if n := p.count().asked; n != 1 {
			t.Fatalf("%d token requests before he asked, want 1", n)
		}
		if token := mustTokenOf(t, c, "a"); token != first {
			t.Errorf("got generation %d: he had to wait", token.Generation)
		}
		time.Sleep(2 * time.Second)
		if token := mustTokenOf(t, c, "a"); token.Generation != 2 {
			t.Errorf("got generation %d", token.Generation)
		}
		if n := len(d.of(EventRenewed)); n != 1 || p.count().asked != 2 {
			t.Errorf("%d renewals, %d token requests", n, p.count().asked)
		}
		time.Sleep(time.Hour)
		if n := p.count().asked; n != 2 {
			t.Errorf("%d token requests for somebody who left", n)
		}
	})
}

// What an entry counts for, and for how long it is of use.
func TestWorth(t *testing.T) {
	t.Parallel()
	now := time.Now()
	in := func(d time.Duration) time.Time { return now.Add(d) }
	tests := map[string]struct {
		entry *entry
		bytes int64
		life  time.Duration
	}{
		"nothing": {&entry{}, entryBytes, time.Second},
		"token": {
			&entry{current: Token{Value: "12345", Expires: in(time.Hour)}}, entryBytes + 5, time.Hour,
		},
		"token that ended": {&entry{current: Token{Expires: in(-time.Hour)}}, entryBytes, time.Second},
		"refresh token": {
			&entry{current: Token{Value: "12345", Expires: in(time.Hour)}, refresh: refreshToken{value: "123", expires: in(12 * time.Hour)}},
			entryBytes + 8, 12 * time.Hour,
		},
		"refresh token that ends first": {
			&entry{current: Token{Value: "12345", Expires: in(time.Hour)}, refresh: refreshToken{value: "123", expires: in(time.Minute)}},
			entryBytes + 8, time.Hour,
		},
		"subject that ends first": {
			&entry{
				current: Token{Value: "12345", Expires: in(time.Hour)}, refresh: refreshToken{value: "123", expires: in(12 * time.Hour)},
				subject: Subject{Token: "1234567", Expires: in(time.Minute)},
			},
			entryBytes + 15, time.Minute,
		},
		"subject that ends later": {
			&entry{current: Token{Value: "12345", Expires: in(time.Minute)}, subject: Subject{Token: "1", Expires: in(time.Hour)}},
			entryBytes + 6, time.Minute,
		},
		"subject that ended":       {&entry{subject: Subject{Token: "1", Expires: in(-time.Minute)}}, entryBytes + 1, time.Second},
		"subject that was refused": {&entry{subject: Subject{Token: "1"}, outage: outage{notUntil: in(permanentPause)}}, entryBytes + 1, permanentPause},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if bytes, life := tt.entry.worth(now); bytes != tt.bytes || life != tt.life {
				t.Errorf("got %d bytes for %v, want %d for %v", bytes, life, tt.bytes, tt.life)
			}
		})
	}
}

// An entry goes when the caller's own token ends, or its token if that is first,
// and its refresh token with it.
func TestCallersEntryEnds(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		subject, life time.Duration
		refreshes     bool
		ends          time.Duration
	}{
		"with the caller's token":                        {10 * time.Minute, time.Hour, true, 10 * time.Minute},
		"with the token":                                 {time.Hour, 10 * time.Minute, false, 10 * time.Minute},
		"with the refresh token":                         {24 * time.Hour, 10 * time.Minute, true, 12 * time.Hour},
		"with the refresh token, caller's end not known": {0, 10 * time.Minute, true, 12 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := &provider{life: tt.life, refreshes: tt.refreshes}
				c, d := newTestCredential(t, p, onBehalf)
				r := behalfOf("a")
				if tt.subject > 0 {
					r.Subject.Expires = time.Now().Add(tt.subject)
				}
				if _, err := c.Token(t.Context(), r); err != nil {
					t.Fatal(err)
				}
				time.Sleep(tt.ends - time.Second)
				if n := c.Status().Subjects; n != 1 {
					t.Errorf("%d entries before the end", n)
				}
				time.Sleep(15 * time.Second) // ristretto looks every few seconds
				if n := c.Status().Subjects; n != 0 {
					t.Errorf("%d entries after the end", n)
				}
				if n := p.later(); n.living != 0 || len(d.of(EventRevoked)) != n.revoked {
					t.Errorf("at the provider: %+v", n)
				}
				p.check(t)
			})
		})
	}
}

func TestFlushOnBehalf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &provider{life: time.Hour, slow: time.Second}
		c, d := newTestCredential(t, p, onBehalf)
		if had, err := c.Flush(); had || err != nil {
			t.Errorf("flushing nothing: got %t, %v", had, err)
		}
		time.Sleep(time.Second)
		a := mustTokenOf(t, c, "a")
		mustTokenOf(t, c, "b")
		if had, err := c.Flush(); !had || err != nil {
			t.Errorf("got %t, %v", had, err)
		}
		if n := p.count().asked; n != 2 {
			t.Errorf("%d token requests for nobody", n-2)
		}
		// A late rejection of what was flushed gets a fresh one.
		o := c.Rejected(t.Context(), refusalFor("a", a, 1, Dead))
		if fresh := mustTokenOf(t, c, "a"); o.Answer != TryAgain || fresh.Generation != 2 {
			t.Errorf("got %+v and generation %d", o, fresh.Generation)
		}
		if fresh := mustTokenOf(t, c, "b"); fresh.Generation != 2 || p.count().asked != 4 {
			t.Errorf("got generation %d after %d token requests", fresh.Generation, p.count().asked)
		}
		if evicted := d.of(EventEvicted); len(evicted) != 2 {
			t.Errorf("evicted: %+v", evicted)
		}
	})
}

// A caller's token that was on its way at a flush is not what he gets.
func TestFlushOnBehalfDuringFetch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &provider{life: time.Hour, slow: time.Second}
		c, _ := newTestCredential(t, p, onBehalf)
		var wg sync.WaitGroup
		wg.Go(func() { mustTokenOf(t, c, "a") })
		time.Sleep(time.Second / 2)
		flushed := time.Now()
		if _, err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		if token := mustTokenOf(t, c, "a"); token.Requested.Before(flushed) {
			t.Error("got the token that was requested before the flush")
		}
		wg.Wait()
	})
}

// A provider that gives the same token again after a flush is not asked for
// every request from then on.
func TestFlushWhereTheSameTokenComesBack(t *testing.T) {
	t.Parallel()
	for _, behalf := range []bool{false, true} {
		t.Run(fmt.Sprint("on behalf ", behalf), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				source := &script{answer: func(context.Context, int) (Grant, error) {
					return Grant{AccessToken: "same", ExpiresIn: time.Hour}, nil
				}}
				c, _ := newTestCredential(t, source, func(c *Config) { c.OnBehalf = behalf })
				ask := func() {
					t.Helper()
					if _, err := c.Token(t.Context(), behalfOf("a")); err != nil {
						t.Fatal(err)
					}
				}
				ask()
				time.Sleep(time.Second)
				if _, err := c.Flush(); err != nil {
					t.Fatal(err)
				}
				for range 100 {
					ask()
					time.Sleep(10 * time.Millisecond)
				}
				if n := source.asked(); n != 2 {
					t.Errorf("%d token requests, want 2", n)
				}
			})
		})
	}
}

func TestPauseOnBehalf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &provider{life: time.Minute}
		c, _ := newTestCredential(t, p, onBehalf)
		a := mustTokenOf(t, c, "a")
		c.Pause()
		if token := mustTokenOf(t, c, "a"); token != a {
			t.Errorf("got %+v", token)
		}
		for range 10 {
			if _, err := c.Token(t.Context(), behalfOf("b")); !errors.Is(err, errPaused) {
				t.Errorf("a new caller: got %v", err)
			}
		}
		if _, err := c.Flush(); !errors.Is(err, ErrPaused) {
			t.Errorf("flush: got %v", err)
		}
		time.Sleep(time.Minute)
		if _, err := c.Token(t.Context(), behalfOf("a")); !errors.Is(err, errPaused) {
			t.Errorf("after its end: got %v", err)
		}
		if n := p.count().asked; n != 1 {
			t.Errorf("%d token requests, want 1", n)
		}
		c.Resume()
		mustTokenOf(t, c, "a")
		mustTokenOf(t, c, "b")
		time.Sleep(2 * time.Minute)
		if n := c.Status().Subjects; n != 0 || p.count().asked != 3 {
			t.Errorf("%d entries after %d token requests", n, p.count().asked)
		}
	})
}

// A rejection of a caller's token is about his alone.
func TestRejectionOnBehalf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &provider{life: time.Hour, slow: 20 * time.Millisecond}
		c, _ := newTestCredential(t, p, onBehalf)
		a, b := mustTokenOf(t, c, "a"), mustTokenOf(t, c, "b")
		time.Sleep(2 * freshFor)
		if o := c.Rejected(t.Context(), refusalFor("a", a, 1, Dead)); o != (Outcome{Answer: TryAgain, Reason: ReasonDead}) {
			t.Errorf("got %+v", o)
		}
		fresh := mustTokenOf(t, c, "a")
		if fresh.Generation != 2 || mustTokenOf(t, c, "b") != b {
			t.Errorf("got generation %d of one, and another token of the other", fresh.Generation)
		}
		late := Outcome{Answer: TryAgain, Reason: ReasonLate}
		if o := c.Rejected(t.Context(), refusalFor("a", a, 1, Dead)); o != late || p.count().asked != 3 {
			t.Errorf("a late one: got %+v after %d token requests", o, p.count().asked)
		}
		// Of one whose entry is gone nothing is known.
		stranger := refusalFor("c", Token{Fingerprint: "f", Subject: "gone"}, 1, Dead)
		if o := c.Rejected(t.Context(), stranger); o != (Outcome{Answer: Unavailable, Reason: ReasonNoSubject}) {
			t.Errorf("of a stranger: got %+v", o)
		}
		c.Accepted(Acceptance{Use: stranger.Use, Fingerprint: "f", Attempt: 2})
	})
}
