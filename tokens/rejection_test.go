package tokens

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// settled waits until the token that is held is no longer just issued.
func settled(t *testing.T, c *Credential) Token {
	t.Helper()
	token := mustToken(t, c)
	time.Sleep(2 * freshFor)
	return token
}

// A single rejection, of a token that has been in use for a while.
func TestSingleRejection(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		action   Action
		change   func(*Rejection)
		want     Outcome
		requests int // that the rejection caused
	}{
		"dead":          {Retry, func(r *Rejection) { r.Verdict = Dead }, Outcome{Answer: TryAgain, Reason: ReasonDead}, 1},
		"unclear":       {Retry, func(*Rejection) {}, Outcome{Answer: TryAgain, Reason: ReasonProbe}, 1},
		"not allowed":   {Retry, func(r *Rejection) { r.Verdict = NotAllowed }, Outcome{Reason: ReasonNotAllowed}, 0},
		"strange token": {Retry, func(r *Rejection) { r.Fingerprint = "of another replica" }, Outcome{Answer: TryAgain, Reason: ReasonProbe}, 1},
		"dead, not retriable": {
			Retry, func(r *Rejection) { r.Verdict, r.Retriable = Dead, false },
			Outcome{Answer: Unavailable, Reason: ReasonNotRetriable},
			1,
		},
		"unclear, not retriable": {
			Retry, func(r *Rejection) { r.Retriable = false }, Outcome{Reason: ReasonNotRetriable}, 1,
		},
		"evict, dead":          {Evict, func(r *Rejection) { r.Verdict = Dead }, Outcome{Reason: ReasonEvict}, 1},
		"evict, unclear":       {Evict, func(*Rejection) {}, Outcome{Reason: ReasonEvict}, 1},
		"evict, not allowed":   {Evict, func(r *Rejection) { r.Verdict = NotAllowed }, Outcome{Reason: ReasonNotAllowed}, 0},
		"observe, dead":        {Observe, func(r *Rejection) { r.Verdict = Dead }, Outcome{Reason: ReasonObserve}, 0},
		"observe, unclear":     {Observe, func(*Rejection) {}, Outcome{Reason: ReasonObserve}, 0},
		"observe, not allowed": {Observe, func(r *Rejection) { r.Verdict = NotAllowed }, Outcome{Reason: ReasonNotAllowed}, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				source := numbered(time.Hour, 20*time.Millisecond)
				c, d := newTestCredential(t, source, func(cfg *Config) { cfg.Action = tt.action })
				token := settled(t, c)
				r := refusalOf(token, 1, Unclear)
				r.RequestID = "request-1"
				tt.change(&r)
				if diff := cmp.Diff(tt.want, c.Rejected(t.Context(), r)); diff != "" {
					t.Errorf("outcome (-want +got):\n%s", diff)
				}
				time.Sleep(time.Second)
				if got := source.asked() - 1; got != tt.requests {
					t.Errorf("%d token requests, want %d", got, tt.requests)
				}
				if got := len(d.of(EventEvicted)); got != tt.requests {
					t.Errorf("%d evictions, want %d", got, tt.requests)
				}
				rejected := d.of(EventRejected)
				if len(rejected) != 1 {
					t.Fatalf("%d rejections were told", len(rejected))
				}
				ev := rejected[0]
				if ev.Verdict != r.Verdict || ev.Rule != "status" || ev.Answer != tt.want.Answer || ev.Reason != tt.want.Reason ||
					ev.RequestID != "request-1" || ev.Attempt != 1 || ev.Fingerprint != r.Fingerprint {
					t.Errorf("told %+v", ev)
				}
			})
		})
	}
}

// Evict lets every rejection pass, also one that comes late or may not be tried.
func TestEvictAlwaysPasses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Hour, 20*time.Millisecond)
		c, _ := newTestCredential(t, source, func(cfg *Config) { cfg.Action = Evict })
		old := settled(t, c)
		for i := range 3 {
			if o := c.Rejected(t.Context(), refusalOf(old, 1, Dead)); o.Answer != Pass {
				t.Errorf("rejection %d of the old token: got %+v", i, o)
			}
			settled(t, c)
		}
		for i := range 10 {
			if o := c.Rejected(t.Context(), refusalOf(mustToken(t, c), 1, Dead)); o.Answer != Pass {
				t.Errorf("rejection %d: got %+v", i, o)
			}
			time.Sleep(100 * time.Millisecond)
		}
		unknown := refusalOf(old, 1, Dead)
		unknown.Use.Subject = "gone"
		if o := c.Rejected(t.Context(), unknown); o != (Outcome{Reason: ReasonNoSubject}) {
			t.Errorf("of a caller's token that is not at hand: got %+v", o)
		}
	})
}

func TestAcceptedTellsOfTheRecovery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, d := newTestCredential(t, numbered(time.Hour, 20*time.Millisecond))
		token := settled(t, c)
		if o := c.Rejected(t.Context(), refusalOf(token, 1, Unclear)); o.Answer != TryAgain {
			t.Fatalf("got %+v", o)
		}
		if s := c.Status(); s.Trials != trialBurst-1 {
			t.Errorf("%d trials left", s.Trials)
		}
		fresh, err := c.Token(t.Context(), Request{Attempt: 2})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
		a := Acceptance{Use: Use{Credential: "orders", Generation: 2}, Fingerprint: fresh.Fingerprint, Attempt: 2, RequestID: "r"}
		c.Accepted(a)
		c.Accepted(a)
		a.Attempt = 1
		c.Accepted(a) // says nothing
		if s := c.Status(); s.Trials != trialBurst {
			t.Errorf("a trial that helped is not given back: %d left", s.Trials)
		}
		recovered := d.of(EventRecovered)
		if len(recovered) != 1 || recovered[0].Latency != 30*time.Millisecond || recovered[0].RequestID != "r" {
			t.Errorf("recovered: got %+v", recovered)
		}
		if got := len(d.of(EventRetried)); got != 2 {
			t.Errorf("%d retries were told, want 2", got)
		}
	})
}

// A late rejection of an old token costs nothing, however many there are, and
// never evicts the new one.
func TestLateRejections(t *testing.T) {
	t.Parallel()
	for _, verdict := range []Verdict{Unclear, Dead} {
		t.Run(verdict.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				source := numbered(time.Hour, 20*time.Millisecond)
				c, d := newTestCredential(t, source)
				old := settled(t, c)
				c.Rejected(t.Context(), refusalOf(old, 1, verdict))
				fresh := settled(t, c)
				for range 1000 {
					o := c.Rejected(t.Context(), refusalOf(old, 1, verdict))
					if o != (Outcome{Answer: TryAgain, Reason: ReasonLate}) {
						t.Fatalf("got %+v", o)
					}
				}
				if got := mustToken(t, c); got != fresh {
					t.Errorf("got %+v", got)
				}
				if source.asked() != 2 || len(d.of(EventEvicted)) != 1 {
					t.Errorf("%d token requests, %d evictions", source.asked(), len(d.of(EventEvicted)))
				}
			})
		})
	}
}

// Token A dies under a thousand requests: one fetch, and B is never evicted.
func TestTokenDiesUnderManyRequests(t *testing.T) {
	t.Parallel()
	for _, verdict := range []Verdict{Unclear, Dead} {
		t.Run(verdict.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const requests = 1000
				w := newWorld(t, 1)
				w.verdict = verdict
				c := w.replicas[0]
				settled(t, c)
				var wg sync.WaitGroup
				for i := range requests {
					wg.Go(func() { w.note(w.request(t.Context(), fmt.Sprint("caller-", i%8), false)) })
				}
				synctest.Wait() // all have token A
				w.restart()
				wg.Wait()
				if w.results["200"] != requests {
					t.Errorf("results: %v", w.results)
				}
				if w.asked != 2 {
					t.Errorf("%d token requests, want 2", w.asked)
				}
				if got := w.results["event evicted"]; got != 1 {
					t.Errorf("%d evictions, want 1: that of A", got)
				}
				if got := mustToken(t, c).Generation; got != 2 {
					t.Errorf("generation %d is held, want 2", got)
				}
			})
		})
	}
}

// A renewal in flight asked for its token before the old one was refused, so
// what it brings may be as dead: it is asked for again.
func TestRejectionDuringRenewal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Minute, time.Second)
		c, d := newTestCredential(t, source, func(cfg *Config) { cfg.Expiry.Margin = 10 * time.Second })
		old := mustToken(t, c)
		time.Sleep(time.Until(c.Status().Renewal) + time.Second/2)
		if s := c.Status(); !s.Fetching || !s.Alive {
			t.Fatalf("no renewal is in flight: %+v", s)
		}
		o := c.Rejected(t.Context(), refusalOf(old, 1, Dead))
		if o.Answer != TryAgain || o.Reason != ReasonDead {
			t.Errorf("got %+v", o)
		}
		if got := mustToken(t, c); got.Value != "token-3" || got.Generation != 2 {
			t.Errorf("the stale result of the renewal won: generation %d, %q", got.Generation, got.Value.Reveal())
		}
		if source.asked() != 3 {
			t.Errorf("%d token requests, want 3", source.asked())
		}
		if len(d.of(EventRenewed)) != 0 || len(d.of(EventEvicted)) != 1 {
			t.Errorf("%d renewed, %d evicted", len(d.of(EventRenewed)), len(d.of(EventEvicted)))
		}
		if got := c.Status().Trials; got != trialBurst {
			t.Errorf("%d trials left", got)
		}
	})
}

// A provider that gives the refused token again leaves nothing to retry with.
func TestSameTokenAgain(t *testing.T) {
	t.Parallel()
	tests := map[Verdict]Outcome{
		Unclear: {Answer: Pass, Reason: ReasonSameToken},
		Dead:    {Answer: Unavailable, Reason: ReasonSameToken, RetryAfter: defaultCoolDown},
	}
	for verdict, want := range tests {
		t.Run(verdict.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				source := &script{answer: func(ctx context.Context, _ int) (Grant, error) {
					return Grant{AccessToken: "same", ExpiresIn: time.Hour}, sleep(ctx, 20*time.Millisecond)
				}}
				c, d := newTestCredential(t, source)
				token := settled(t, c)
				if diff := cmp.Diff(want, c.Rejected(t.Context(), refusalOf(token, 1, verdict))); diff != "" {
					t.Errorf("outcome (-want +got):\n%s", diff)
				}
				if got := mustToken(t, c).Generation; got != 1 {
					t.Errorf("the same token is generation %d", got)
				}
				const seconds = 60
				for i := range seconds * 20 {
					r := refusalOf(token, 1, verdict)
					r.Use.Caller = Fingerprint(fmt.Sprint("caller-", i%100))
					if o := c.Rejected(t.Context(), r); o.Answer == TryAgain {
						t.Fatalf("rejection %d: %+v", i, o)
					}
					time.Sleep(time.Second / 20)
				}
				if most := 2 + trialBurst + seconds*3/10; source.asked() > most {
					t.Errorf("%d token requests, want at most %d", source.asked(), most)
				}
				if got := len(d.of(EventEvicted)); got != 0 {
					t.Errorf("%d evictions of a token that is held still", got)
				}
			})
		})
	}
}

// send sends one request as Envoy would, to a backend that refuses as it likes,
// and reports whether it passed.
func send(ctx context.Context, c *Credential, verdict Verdict, refuses func(Token) bool) bool {
	for attempt := 1; attempt <= maxTries; attempt++ {
		token, err := c.Token(ctx, Request{Attempt: attempt})
		if err != nil {
			return false
		}
		time.Sleep(20 * time.Millisecond)
		if !refuses(token) {
			c.Accepted(Acceptance{Fingerprint: token.Fingerprint, Attempt: attempt})
			return true
		}
		if c.Rejected(ctx, refusalOf(token, attempt, verdict)).Answer != TryAgain {
			return false
		}
	}
	return false
}

// Whatever a backend does for a minute under load, the token requests that it
// causes are bounded by the bucket, and by what is given back to it.
func TestTokenRequestsAreBounded(t *testing.T) {
	t.Parallel()
	const (
		duration  = 60 * time.Second
		coolDowns = int(duration/defaultCoolDown) + 1
		bucket    = 1 + trialBurst + coolDowns // the first, the burst, one each cool-down
	)
	tests := map[string]struct {
		every   time.Duration // a request each
		refuses func(Token) bool
		most    int
	}{
		"always refuses":       {time.Millisecond, func(Token) bool { return true }, bucket},
		"refuses half":         {20 * time.Millisecond, func(Token) bool { return rand.N(2) == 0 }, bucket + returnBurst + coolDowns},
		"refuses one in ten":   {20 * time.Millisecond, func(Token) bool { return rand.N(10) == 0 }, bucket + returnBurst + coolDowns},
		"accepts one in ten":   {20 * time.Millisecond, func(Token) bool { return rand.N(10) != 0 }, bucket + returnBurst + coolDowns},
		"refuses now and then": {20 * time.Millisecond, func(Token) bool { return time.Now().Second()%4 == 0 }, bucket + returnBurst + coolDowns},
	}
	for name, tt := range tests {
		for _, verdict := range []Verdict{Unclear, Dead} {
			t.Run(fmt.Sprint(name, ", ", verdict), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					source := numbered(time.Hour, 20*time.Millisecond)
					c, _ := newTestCredential(t, source)
					var wg sync.WaitGroup
					var passed atomic.Int64
					n := int(duration / tt.every)
					for range n {
						wg.Go(func() {
							if send(t.Context(), c, verdict, tt.refuses) {
								passed.Add(1)
							}
						})
						time.Sleep(tt.every)
					}
					wg.Wait()
					t.Logf("%d requests, %d passed, %d token requests", n, passed.Load(), source.asked())
					if got := source.asked(); got > tt.most {
						t.Errorf("%d token requests, want at most %d", got, tt.most)
					}
				})
			})
		}
	}
}

// A caller whose request was refused again falls silent on that route, and no
// one else does.
func TestQuietPair(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Hour, 0)
		c, _ := newTestCredential(t, source)
		settled(t, c)
		// Others pass meanwhile, so proportion says nothing.
		var others sync.WaitGroup
		ctx, stop := context.WithCancel(t.Context())
		defer func() { stop(); others.Wait() }()
		others.Go(func() {
			for ctx.Err() == nil {
				_, _ = c.Token(ctx, Request{})
				time.Sleep(10 * time.Millisecond)
			}
		})
		refuse := func(caller Fingerprint, route string) Outcome {
			token := mustToken(t, c)
			r := refusalOf(token, 1, Unclear)
			r.Use.Caller, r.Route = caller, route
			o := c.Rejected(t.Context(), r)
			if o.Answer != TryAgain {
				return o
			}
			fresh, err := c.Token(t.Context(), Request{Attempt: 2})
			if err != nil {
				t.Fatal(err)
			}
			again := refusalOf(fresh, 2, Unclear)
			again.Use.Caller, again.Route = caller, route
			if o := c.Rejected(t.Context(), again); o != (Outcome{Reason: ReasonAgain}) {
				t.Fatalf("refused again: got %+v", o)
			}
			time.Sleep(2 * freshFor)
			return o
		}
		if o := refuse("mallory", "a"); o.Reason != ReasonProbe {
			t.Errorf("first: got %+v", o)
		}
		for range 3 {
			if o := refuse("mallory", "a"); o != (Outcome{Reason: ReasonQuiet}) {
				t.Errorf("again: got %+v", o)
			}
		}
		if o := refuse("mallory", "b"); o.Reason != ReasonProbe {
			t.Errorf("another route: got %+v", o)
		}
		time.Sleep(2 * defaultCoolDown)
		if o := refuse("mallory", "a"); o.Reason != ReasonProbe {
			t.Errorf("after the cool-down: got %+v", o)
		}
		if o := refuse("alice", "a"); o.Reason != ReasonProbe {
			t.Errorf("another caller: got %+v", o)
		}
		dead := refusalOf(mustToken(t, c), 1, Dead)
		dead.Use.Caller, dead.Route = "alice", "a"
		if o := c.Rejected(t.Context(), dead); o != (Outcome{Answer: TryAgain, Reason: ReasonDead}) {
			t.Errorf("again, but dead: got %+v", o)
		}
	})
}

// A rejection whose caller leaves while it is held is let go at once.
func TestCallerLeavesWhileHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Hour, time.Second)
		c, _ := newTestCredential(t, source)
		token := settled(t, c)
		ctx, leave := context.WithCancel(t.Context())
		outcome := make(chan Outcome, 1)
		go func() { outcome <- c.Rejected(ctx, refusalOf(token, 1, Dead)) }()
		time.Sleep(time.Second / 2)
		leave()
		if o := <-outcome; o != (Outcome{Answer: Unavailable, Reason: ReasonGone}) {
			t.Errorf("got %+v", o)
		}
		time.Sleep(time.Second)
		if got := mustToken(t, c); got.Generation != 2 {
			t.Errorf("the fetch was lost with the caller: generation %d", got.Generation)
		}
	})
}

// While the provider is down a dead token is our trouble and an unclear
// rejection the backend's answer; the token that is held lives on.
func TestRejectionWhileProviderIsDown(t *testing.T) {
	t.Parallel()
	for verdict, want := range map[Verdict]Answer{Unclear: Pass, Dead: Unavailable} {
		t.Run(verdict.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				source := &script{answer: func(_ context.Context, n int) (Grant, error) {
					if n == 1 {
						return Grant{AccessToken: "token", ExpiresIn: time.Hour}, nil
					}
					return Grant{}, errDown
				}}
				c, _ := newTestCredential(t, source)
				token := settled(t, c)
				const seconds = 60
				ctx, stop := context.WithTimeout(t.Context(), seconds*time.Second)
				defer stop()
				var wg sync.WaitGroup
				for i := range 20 {
					wg.Go(func() {
						for ctx.Err() == nil {
							r := refusalOf(token, 1, verdict)
							r.Use.Caller = Fingerprint(fmt.Sprint(i))
							if o := c.Rejected(t.Context(), r); o.Answer != want {
								t.Errorf("got %+v", o)
							}
							time.Sleep(50 * time.Millisecond)
						}
					})
				}
				wg.Wait()
				if got := mustToken(t, c); got != token {
					t.Errorf("got %+v", got)
				}
				if most := 15 + seconds; source.asked() > most {
					t.Errorf("%d token requests, want at most %d", source.asked(), most)
				}
			})
		})
	}
}

// A retried request is not given a token as old as the one that was refused,
// but a thousand of them cost one token request.
func TestRetriedRequestMeetsOldToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Hour, 20*time.Millisecond)
		c, d := newTestCredential(t, source)
		old := settled(t, c)
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				if token, err := c.Token(t.Context(), Request{Attempt: 2}); err != nil || token.Generation != old.Generation+1 {
					t.Errorf("got generation %d, %v", token.Generation, err)
				}
			})
		}
		wg.Wait()
		if n := source.asked(); n != 2 {
			t.Errorf("%d token requests, want 2", n)
		}
		if evicted := d.of(EventEvicted); len(evicted) != 1 || evicted[0].Reason != ReasonSuspect {
			t.Errorf("evicted: %+v", evicted)
		}
		// With the bucket empty it gets what there is.
		for range 20 {
			time.Sleep(2 * freshFor)
			if _, err := c.Token(t.Context(), Request{Attempt: 2}); err != nil {
				t.Fatal(err)
			}
		}
		if most := 2 + trialBurst + 5; source.asked() > most {
			t.Errorf("%d token requests, want at most %d", source.asked(), most)
		}
	})
}

// A token that expired is rejected: the fetch of the next one is the answer.
func TestRejectionOfExpiredToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(10*time.Second, 0)
		c, _ := newTestCredential(t, source, func(cfg *Config) { cfg.Expiry.Max = 10 * time.Second })
		token := settled(t, c)
		c.Pause()
		time.Sleep(time.Until(token.Expires))
		c.Resume()
		synctest.Wait()
		if o := c.Rejected(t.Context(), refusalOf(token, 1, Dead)); o.Answer != TryAgain {
			t.Errorf("got %+v", o)
		}
		if n := source.asked(); n != 2 {
			t.Errorf("%d token requests, want 2", n)
		}
	})
}
