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

// Every request has a token of its own, but for those of the same instant.
func TestBypass(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &provider{life: time.Hour, refreshes: true, slow: 20 * time.Millisecond}
		c, d := newTestCredential(t, p, func(c *Config) { c.Bypass = true })
		c.Warm()
		seen := map[Fingerprint]bool{}
		for range 10 {
			token := mustToken(t, c)
			if token.Generation != 0 || seen[token.Fingerprint] {
				t.Errorf("got generation %d, seen %t", token.Generation, seen[token.Fingerprint])
			}
			seen[token.Fingerprint] = true
		}
		if n := p.count().asked; n != 10 {
			t.Errorf("%d token requests, want 10", n)
		}
		tokens := make(chan Token, 100)
		var wg sync.WaitGroup
		for range cap(tokens) {
			wg.Go(func() { tokens <- mustToken(t, c) })
		}
		synctest.Wait()
		time.Sleep(sameInstant) // the fetch is in flight, and began a while ago
		late := mustToken(t, c)
		wg.Wait()
		for range cap(tokens) {
			if token := <-tokens; token.Fingerprint == late.Fingerprint || p.count().asked != 12 {
				t.Fatalf("a request shares the token of a later one; %d token requests, want 12", p.count().asked)
			}
		}
		synctest.Wait()
		if n := p.later(); n.living != 0 || n.revoked != n.asked || n.refreshed != 0 {
			t.Errorf("refresh tokens at the provider: %+v", n)
		}
		p.check(t)
		s := c.Status()
		if s.Uses != 111 || s.Bypassed != 111 || s.Subjects != 0 || s.Alive || !s.OnRequest || !s.Renewal.IsZero() {
			t.Errorf("got %+v", s)
		}
		if issued := d.of(EventIssued); len(issued) != 12 || issued[0].Reason != ReasonBypass {
			t.Errorf("issued: %+v", issued)
		}
	})
}

// Two callers share nothing.
func TestBypassOnBehalf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &provider{life: time.Hour, slow: 20 * time.Millisecond}
		c, _ := newTestCredential(t, p, onBehalf, func(c *Config) { c.Bypass = true })
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() { mustTokenOf(t, c, fmt.Sprint("caller-", i%10)) })
		}
		wg.Wait()
		if n := p.count().asked; n != 10 {
			t.Errorf("%d token requests, want 10", n)
		}
		if _, err := c.Token(t.Context(), Request{}); !errors.Is(err, ErrNoSubject) {
			t.Errorf("for nobody: got %v", err)
		}
	})
}

// What one request finds out of the provider's health the next one need not,
// but a caller's token that is refused says nothing about it.
func TestBypassOutage(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		err    error
		behalf bool
		asks   int // of ten requests
	}{
		"down":            {errDown, false, 10}, // and each of them once, after a pause
		"refused":         {&PermanentError{Err: errDown}, false, 1},
		"asked to wait":   {waiting{errDown}, false, 1},
		"subject refused": {&SubjectError{Err: errDown}, true, 10},
		// Which may be for a scope that only this caller must not have.
		"refused on behalf": {&PermanentError{Err: errDown}, true, 10},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := &provider{refuses: func(GrantRequest) error { return tt.err }}
				c, _ := newTestCredential(t, p, func(c *Config) { c.Bypass, c.OnBehalf = true, tt.behalf })
				r := behalfOf(caller(tt.behalf))
				if _, err := c.Token(t.Context(), r); err == nil {
					t.Error("got no error")
				}
				first := p.count().asked
				for range 9 {
					if _, err := c.Token(t.Context(), r); err == nil {
						t.Error("got no error")
					}
				}
				if n := p.count().asked - first + 1; n != tt.asks {
					t.Errorf("%d token requests, want %d", n, tt.asks)
				}
				p.set(func() { p.refuses = nil })
				time.Sleep(time.Minute)
				mustTokenOf(t, c, caller(tt.behalf))
			})
		})
	}
}

// A single request may pass the cache by, which costs the token that is kept
// nothing.
func TestBypassOfARequest(t *testing.T) {
	t.Parallel()
	for _, behalf := range []bool{false, true} {
		t.Run(fmt.Sprint("on behalf ", behalf), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := &provider{life: time.Hour, refreshes: true}
				c, _ := newTestCredential(t, p, func(c *Config) { c.OnBehalf = behalf })
				kept := mustTokenOf(t, c, caller(behalf))
				before := c.Status()
				r := behalfOf(caller(behalf))
				r.Bypass = true
				token, err := c.Token(t.Context(), r)
				if err != nil || token.Fingerprint == kept.Fingerprint || token.Generation != 0 {
					t.Errorf("got %+v, %v", token, err)
				}
				synctest.Wait()
				// Its rejection is none of the kept one.
				dead := refusalFor("a", token, 1, Dead)
				dead.Use.Bypass = true
				if o := c.Rejected(t.Context(), dead); o.Answer != TryAgain {
					t.Errorf("got %+v", o)
				}
				if mustTokenOf(t, c, caller(behalf)) != kept {
					t.Error("got another token than the kept one")
				}
				if s := c.Status(); s.Bypassed != 1 || s.Uses != 3 || s.Token != before.Token || s.Subjects != before.Subjects {
					t.Errorf("got %+v", s)
				}
				if n := p.later(); n.living != 1 || n.asked != 2 {
					t.Errorf("at the provider: %+v", n)
				}
				p.check(t)
			})
		})
	}
}

// caller is in whose name a credential's tokens are.
func caller(behalf bool) string {
	if behalf {
		return "a"
	}
	return ""
}

// A token that was fetched for one request is not kept: where it is refused
// another is fetched once, within the budget.
func TestBypassRejection(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		action  Action
		verdict Verdict
		attempt int
		want    Outcome
	}{
		"dead":          {Retry, Dead, 1, Outcome{Answer: TryAgain, Reason: ReasonDead}},
		"dead again":    {Retry, Dead, 2, Outcome{Answer: Unavailable, Reason: ReasonAgain, RetryAfter: defaultCoolDown}},
		"unclear":       {Retry, Unclear, 1, Outcome{Reason: ReasonAgain}},
		"not allowed":   {Retry, NotAllowed, 1, Outcome{Reason: ReasonNotAllowed}},
		"evict, dead":   {Evict, Dead, 1, Outcome{Reason: ReasonEvict}},
		"evict, again":  {Evict, Dead, 2, Outcome{Reason: ReasonEvict}},
		"observe, dead": {Observe, Dead, 1, Outcome{Reason: ReasonObserve}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := &provider{life: time.Hour}
				c, _ := newTestCredential(t, p, func(c *Config) { c.Bypass, c.Action = true, tt.action })
				r := refusalOf(mustToken(t, c), tt.attempt, tt.verdict)
				r.Use.Bypass = true
				if got := c.Rejected(t.Context(), r); got != tt.want {
					t.Errorf("got %+v, want %+v", got, tt.want)
				}
				for range 1000 {
					c.Rejected(t.Context(), r)
				}
				if !c.spend(time.Now(), 0) {
					t.Error("there is nothing left for others")
				}
				if tt.want.Reason != ReasonDead {
					return
				}
				if o := c.Rejected(t.Context(), r); o.Reason != ReasonBudget || o.Answer != Unavailable {
					t.Errorf("with the budget spent: got %+v", o)
				}
			})
		})
	}
}

// A caller who is refused with a fresh token as well causes no more of them for a
// while, and others still do.
func TestBypassRefusedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, _ := newTestCredential(t, &provider{life: time.Hour}, func(c *Config) { c.Bypass = true })
		refuse := func(caller string, attempt int) Outcome {
			r := refusalFor(caller, mustToken(t, c), attempt, Dead)
			r.Use.Bypass = true
			return c.Rejected(t.Context(), r)
		}
		for n := range 100 {
			if o := refuse("bad", 1); o.Answer == TryAgain {
				refuse("bad", 2)
			} else if n == 0 || o.Reason != ReasonQuiet {
				t.Errorf("rejection %d: got %+v", n, o)
			}
		}
		if o := refuse("good", 1); o.Answer != TryAgain {
			t.Errorf("another caller: got %+v", o)
		}
		time.Sleep(defaultCoolDown)
		if o := refuse("bad", 1); o.Answer != TryAgain {
			t.Errorf("after the cool-down: got %+v", o)
		}
	})
}

// A bypass, too, does not send a dead token twice.
func TestBypassAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Hour, 0)
		c, _ := newTestCredential(t, source, func(c *Config) { c.Bypass = true })
		token := mustToken(t, c)
		retried := Retried{Use: Use{Credential: "orders", Bypass: true}, Refused: token.Fingerprint, Verdict: Dead, Attempt: 2}
		if again, err := c.Again(t.Context(), retried); err != nil || again.Fingerprint == token.Fingerprint {
			t.Errorf("got %+v, %v", again, err)
		}
		source.answer = func(context.Context, int) (Grant, error) { return Grant{AccessToken: token.Value}, nil }
		if again, err := c.Again(t.Context(), retried); !errors.Is(err, errSameToken) {
			t.Errorf("got %+v, %v", again, err)
		}
	})
}
