package tokens

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// lose lets a token be found dead: it is refused, and what takes its place is
// accepted. It returns that.
func lose(t *testing.T, c *Credential, caller string) Token {
	t.Helper()
	token := mustTokenOf(t, c, caller)
	if o := c.Rejected(t.Context(), refusalFor(caller, token, 1, Dead)); o.Answer != TryAgain {
		t.Fatalf("%s: got %+v", caller, o)
	}
	fresh := mustTokenOf(t, c, caller)
	c.Accepted(Acceptance{Use: refusalFor(caller, fresh, 2, Dead).Use, Fingerprint: fresh.Fingerprint, Attempt: 2})
	return fresh
}

// When one token of a provider is found dead, the others of our own are renewed
// one after the other, within their budgets, and those of other providers are
// left alone.
func TestSuspicionSpreads(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cache := newTestCache(t, 1<<20)
		p := &provider{life: time.Hour, slow: 100 * time.Millisecond}
		elsewhere := &provider{life: time.Hour}
		source, _ := newCredentialIn(t, cache, p)
		var same []*Credential
		var diaries []*diary
		for range 10 {
			c, d := newCredentialIn(t, cache, p)
			mustToken(t, c)
			same, diaries = append(same, c), append(diaries, d)
		}
		other, _ := newCredentialIn(t, cache, elsewhere, func(c *Config) { c.Provider = "other" })
		mustToken(t, other)
		poor := same[0]
		for range trialBurst - reserveUnclear {
			poor.spend(time.Now(), 0)
		}
		mustToken(t, source)
		time.Sleep(2 * freshFor)
		lose(t, source, "")
		before := p.count().asked
		for i := range len(same) - 1 {
			synctest.Wait()
			if n := p.count().asked - before; n != i+1 {
				t.Fatalf("%d token requests after %d renewals, want one at a time", n, i)
			}
			time.Sleep(p.slow)
		}
		time.Sleep(time.Minute)
		for i, c := range same {
			want := uint64(2)
			if c == poor {
				want = 1
			}
			if got := c.Status().Token.Generation; got != want {
				t.Errorf("credential %d: generation %d, want %d", i, got, want)
			}
		}
		if evicted := diaries[1].of(EventEvicted); len(evicted) != 1 || evicted[0].Reason != ReasonSpread {
			t.Errorf("evicted: %+v", evicted)
		}
		if elsewhere.count().asked != 1 || source.Status().Token.Generation != 2 {
			t.Error("it spread to another provider, or back")
		}
	})
}

// A backend that refuses and accepts at random has the others renewed once in a
// while, not all the time.
func TestSuspicionIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const lasts = 5 * time.Minute
		cache := newTestCache(t, 1<<20)
		p := &provider{life: time.Hour, slow: 20 * time.Millisecond}
		source, _ := newCredentialIn(t, cache, p)
		other, d := newCredentialIn(t, cache, p)
		mustToken(t, other)
		for end := time.Now().Add(lasts); time.Now().Before(end); time.Sleep(5 * time.Second) {
			lose(t, source, "")
		}
		if n := len(d.of(EventIssued)) - 1; n < 5 || n > int(lasts/spreadEvery) {
			t.Errorf("renewed %d times in %v", n, lasts)
		}
		if s := other.Status(); s.Trials < trialBurst-1 {
			t.Errorf("%d trials are left", s.Trials)
		}
	})
}

// Losses that callers' tokens show, and whether the tokens of all others are
// suspect then: one caller must not be able to bring that about.
func TestSuspicionTakesTwoCallers(t *testing.T) {
	t.Parallel()
	type loss struct {
		after  time.Duration
		caller string
	}
	tests := map[string]struct {
		losses []loss
		want   bool
	}{
		"one":                        {[]loss{{0, "a"}}, false},
		"one, often":                 {[]loss{{0, "a"}, {15 * time.Second, "a"}, {15 * time.Second, "a"}, {2 * time.Minute, "a"}}, false},
		"two":                        {[]loss{{0, "a"}, {15 * time.Second, "b"}}, true},
		"two, long apart":            {[]loss{{0, "a"}, {confirmedWithin + time.Second, "b"}}, false},
		"two, the first one again":   {[]loss{{0, "a"}, {40 * time.Second, "a"}, {40 * time.Second, "b"}}, true},
		"two, long apart, and again": {[]loss{{0, "a"}, {2 * time.Minute, "b"}, {15 * time.Second, "a"}}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				cache := newTestCache(t, 1<<20)
				p := &provider{life: time.Hour, slow: 20 * time.Millisecond}
				c, _ := newCredentialIn(t, cache, p, onBehalf)
				own, _ := newCredentialIn(t, cache, p)
				mustToken(t, own)
				for _, who := range []string{"a", "b", "c"} {
					mustTokenOf(t, c, who)
				}
				time.Sleep(2 * freshFor)
				for _, l := range tt.losses {
					time.Sleep(l.after)
					lose(t, c, l.caller)
				}
				time.Sleep(time.Second)
				before := p.count().asked
				generation := mustTokenOf(t, c, "c").Generation
				mustTokenOf(t, c, "c")
				switch {
				case tt.want && (generation != 2 || p.count().asked != before+1):
					t.Errorf("got generation %d, want a fresh one", generation)
				case !tt.want && generation != 1:
					t.Errorf("got generation %d", generation)
				}
				if got := own.Status().Token.Generation; got == 2 != tt.want {
					t.Errorf("the token of our own is generation %d", got)
				}
			})
		})
	}
}

// suspectAll has two callers find their tokens dead.
func suspectAll(t *testing.T, c *Credential) {
	t.Helper()
	mustTokenOf(t, c, "x")
	mustTokenOf(t, c, "y")
	time.Sleep(2 * freshFor)
	lose(t, c, "x")
	lose(t, c, "y")
}

// A suspected token goes on being handed out where no other can be had.
func TestSuspectedTokenWhileProviderIsDown(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"down": errDown, "refuses": &PermanentError{Err: errDown}, "refuses the subject": &SubjectError{Err: errDown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := &provider{life: time.Hour, slow: 20 * time.Millisecond}
				c, _ := newTestCredential(t, p, onBehalf)
				old := mustTokenOf(t, c, "a")
				suspectAll(t, c)
				p.set(func() { p.refuses = func(GrantRequest) error { return err } })
				before := p.count().asked
				for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
					began := time.Now()
					if token := mustTokenOf(t, c, "a"); token != old {
						t.Fatalf("got generation %d", token.Generation)
					}
					if waited := time.Since(began); waited > defaultTimeout {
						t.Fatalf("waited %v", waited)
					}
				}
				if n := p.count().asked - before; n < 2 || n > 20 {
					t.Errorf("%d token requests in a minute", n)
				}
				p.set(func() { p.refuses = nil })
				time.Sleep(maxRenewalWait)
				mustTokenOf(t, c, "a")
				time.Sleep(time.Second)
				if token := mustTokenOf(t, c, "a"); token.Generation != 2 {
					t.Errorf("got generation %d once the provider was back", token.Generation)
				}
			})
		})
	}
}

// A rejection of a suspected token costs no trial: others paid.
func TestRejectionOfSuspectedToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const callers = 100
		p := &provider{life: time.Hour, slow: 20 * time.Millisecond}
		c, _ := newTestCredential(t, p, onBehalf)
		var held []Token
		for i := range callers {
			held = append(held, mustTokenOf(t, c, fmt.Sprint("caller-", i)))
		}
		suspectAll(t, c)
		for c.spend(time.Now(), 0) { // nothing is left
		}
		for i, token := range held {
			who := fmt.Sprint("caller-", i)
			if o := c.Rejected(t.Context(), refusalFor(who, token, 1, Unclear)); o != (Outcome{Answer: TryAgain, Reason: ReasonSpread}) {
				t.Errorf("%s: got %+v", who, o)
			}
		}
	})
}

// Where the provider gives a suspected token again, it is not asked for every
// request from then on.
func TestSuspectedTokenComesBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &provider{life: time.Hour, slow: 20 * time.Millisecond}
		c, _ := newTestCredential(t, p, onBehalf)
		old := mustTokenOf(t, c, "a")
		suspectAll(t, c)
		source := numbered(0, 0)
		source.answer = func(context.Context, int) (Grant, error) {
			return Grant{AccessToken: old.Value, ExpiresIn: time.Hour}, nil
		}
		c.cfg.Source = source
		for range 100 {
			if token := mustTokenOf(t, c, "a"); token.Generation != 1 {
				t.Fatalf("got generation %d", token.Generation)
			}
			c.Rejected(t.Context(), refusalFor("a", old, 1, NotAllowed))
			time.Sleep(10 * time.Millisecond)
		}
		if n := source.asked(); n != 1 {
			t.Errorf("%d token requests, want 1", n)
		}
	})
}

// A credential that is paused or closed is left alone, and loses no trial.
func TestSuspicionSparesThePaused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cache := newTestCache(t, 1<<20)
		p := &provider{life: time.Hour}
		source, _ := newCredentialIn(t, cache, p)
		paused, _ := newCredentialIn(t, cache, p)
		closed, _ := newCredentialIn(t, cache, p)
		refused, _ := newCredentialIn(t, cache, p)
		for _, c := range []*Credential{source, paused, closed, refused} {
			mustToken(t, c)
		}
		refused.h.own.notUntil, refused.h.own.lastErr = time.Now().Add(time.Hour), &PermanentError{Err: errors.New("invalid_client")}
		paused.Pause()
		closed.Close()
		time.Sleep(2 * freshFor)
		lose(t, source, "")
		time.Sleep(time.Second)
		for _, c := range []*Credential{paused, closed, refused} {
			if s := c.Status(); s.Token.Generation != 1 || s.Trials != trialBurst {
				t.Errorf("got %+v", s)
			}
		}
	})
}
