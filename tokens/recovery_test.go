package tokens

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// restarts lets the provider restart n times, every so often.
func (w *world) restarts(n int, every time.Duration) {
	for range n {
		time.Sleep(every)
		w.restart()
	}
	time.Sleep(every)
}

// A provider that voids every token it ever issued costs its callers nothing
// but time, at any rate, for any number of replicas, and also where the backend
// has real 403s.
func TestRestartUnderLoad(t *testing.T) {
	t.Parallel()
	const restarts = 5
	tests := []struct {
		name     string
		replicas int
		real     float64
		slow     time.Duration // one request every so often; 0: 32 connections
		lost     float64       // share of the requests that may be lost
	}{
		{"one replica", 1, 0, 0, 0},
		{"one replica, real 403s", 1, 0.01, 0, 0.002},
		{"one replica, 5 % real 403s", 1, 0.05, 0, 0.002},
		{"one replica, 10 % real 403s", 1, 0.1, 0, 0.002},
		{"one replica, 20 % real 403s", 1, 0.2, 0, 0.002},
		{"one replica, 5 requests a second", 1, 0, 200 * time.Millisecond, 0},
		// So few requests leave the bucket to chance: real 403s may have emptied it.
		{"one replica, 5 requests a second, real 403s", 1, 0.01, 200 * time.Millisecond, 0.02},
		{"one replica, 5 requests a second, many real 403s", 1, 0.1, 200 * time.Millisecond, 0.15},
		{"two replicas", 2, 0, 0, 0},
		{"two replicas, real 403s", 2, 0.01, 0, 0.002},
		{"two replicas, 5 % real 403s", 2, 0.05, 0, 0.002},
		{"two replicas, 10 % real 403s", 2, 0.1, 0, 0.002},
		{"three replicas", 3, 0, 0, 0},
		{"three replicas, real 403s", 3, 0.01, 0, 0.002},
		{"three replicas, 5 requests a second", 3, 0, 200 * time.Millisecond, 0},
	}
	for _, tt := range tests {
		for _, verdict := range []Verdict{Unclear, Dead} {
			if verdict == Dead && tt.real > 0 {
				continue // a 401 that is not about the token is no real 403
			}
			t.Run(fmt.Sprint(tt.name, ", ", verdict), func(t *testing.T) {
				t.Parallel()
				simulate(t, tt.real > 0, func(t *testing.T) error {
					w := newWorld(t, tt.replicas)
					w.real, w.verdict = tt.real, verdict
					ctx, stop := context.WithCancel(t.Context())
					begin := w.load
					every, connections := 3*time.Second, 32
					if tt.slow > 0 {
						begin = func(ctx context.Context, _ int) *sync.WaitGroup { return w.rate(ctx, tt.slow) }
						every = 20 * time.Second
					}
					done := begin(ctx, connections)
					w.restarts(restarts, every)
					stop()
					done.Wait()
					synctest.Wait()

					total, lost := 0, w.results["403"]+w.results["503"]
					for _, k := range []string{"200", "403", "503", "real 403"} {
						total += w.results[k]
					}
					t.Logf("%d requests, %d lost, %d token requests, longest %v, %v", total, lost, w.asked, w.waited, w.results)
					if got := float64(lost) / float64(total); got > tt.lost {
						return fmt.Errorf("lost %d of %d requests, want at most %.1f %%", lost, total, 100*tt.lost)
					}
					want := tt.replicas * (restarts + 1)
					if tt.slow > 0 {
						// A replica that no request met for a while cannot tell
						// this restart from the last, and asks once more.
						want += (tt.replicas - 1) * restarts
					}
					if tt.real == 0 && w.asked > want {
						return fmt.Errorf("%d token requests, want at most %d", w.asked, want)
					}
					return nil
				})
			})
		}
	}
}

// Callers who may not do what they ask for, all the time, do not hide a restart from
// the others.
func TestRestartAmongAbusers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ replicas, abusers int }{{1, 1}, {1, 3}, {3, 1}, {3, 2}} { // of four callers
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			t.Parallel()
			simulate(t, true, func(t *testing.T) error {
				w := newWorld(t, tt.replicas)
				w.send = func(ctx context.Context, caller string, _ bool) string {
					n, err := strconv.Atoi(strings.TrimPrefix(caller, "caller-"))
					if err != nil {
						t.Error(err)
					}
					return w.request(ctx, caller, n < tt.abusers)
				}
				ctx, stop := context.WithCancel(t.Context())
				done := w.load(ctx, 32)
				w.restarts(5, 3*time.Second)
				stop()
				done.Wait()
				synctest.Wait()
				lost, passed := w.results["403"]+w.results["503"], w.results["200"]
				t.Logf("%d passed, %d lost, %d token requests, %v", passed, lost, w.asked, w.results)
				if 50*lost > passed {
					return fmt.Errorf("lost %d of %d requests", lost, passed+lost)
				}
				return nil
			})
		})
	}
}

// A token that dies within milliseconds of its issue cannot be told from a fresh
// one by another replica: a few requests are lost, not more.
func TestRestartRightAfterIssue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		ctx, stop := context.WithCancel(t.Context())
		done := w.load(ctx, 32)
		for range 10 {
			time.Sleep(12 * time.Second)
			if _, err := w.replicas[0].Flush(); err != nil {
				t.Error(err)
			}
			time.Sleep(w.fetch + 10*time.Millisecond)
			w.restart()
		}
		time.Sleep(time.Second)
		stop()
		done.Wait()
		synctest.Wait()
		lost := w.results["403"] + w.results["503"]
		t.Logf("%d of %d requests lost", lost, w.results["200"]+lost)
		if lost > 10*10 {
			t.Errorf("lost %d requests in 10 restarts: %v", lost, w.results)
		}
	})
}

// A request that Envoy sends again for a reason of its own, long after a trial that
// did not help, is no sign that this one did.
func TestAcceptedLongAfterTrial(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(24*time.Hour, 0)
		c, d := newTestCredential(t, source)
		token := settled(t, c)
		if o := c.Rejected(t.Context(), refusalOf(token, 1, Unclear)); o.Answer != TryAgain {
			t.Fatalf("got %+v", o)
		}
		fresh := mustToken(t, c)
		c.Rejected(t.Context(), refusalOf(fresh, 2, Unclear))
		time.Sleep(3 * time.Hour)
		c.Accepted(Acceptance{Use: refusalOf(fresh, 2, Unclear).Use, Fingerprint: fresh.Fingerprint, Attempt: 2})
		if n := len(d.of(EventRecovered)); n != 0 {
			t.Errorf("%d recoveries, want none", n)
		}
	})
}

// A rejection that does not say on whose behalf its token was got, as after a
// change of the grant, makes no token request that nobody could answer.
func TestRejectedOnBehalfOfNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Hour, 0)
		c, _ := newTestCredential(t, source, onBehalf, func(c *Config) { c.Publish = func(Token) {} })
		r := Rejection{Use: Use{Policy: "p", Credential: "orders"}, Fingerprint: "old", Attempt: 1, Verdict: Dead, Retriable: true}
		if o := c.Rejected(t.Context(), r); o.Answer != Unavailable || o.Reason != ReasonNoSubject {
			t.Errorf("got %+v", o)
		}
		if _, err := c.Again(t.Context(), Retried{Use: r.Use, Refused: "old", Attempt: 2}); err == nil {
			t.Error("a token on behalf of nobody")
		}
		c.Accepted(Acceptance{Use: r.Use, Fingerprint: "old", Attempt: 2})
		time.Sleep(time.Hour)
		if n := source.asked(); n != 0 {
			t.Errorf("%d token requests, want none", n)
		}
	})
}

// While a credential is paused a dead token stays: nobody is told to come back at
// once.
func TestDeadWhilePaused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, _ := newTestCredential(t, numbered(time.Hour, 0))
		token := settled(t, c)
		c.Pause()
		want := Outcome{Unavailable, ReasonPaused, pausedWait}
		if o := c.Rejected(t.Context(), refusalOf(token, 1, Dead)); o != want {
			t.Errorf("got %+v, want %+v", o, want)
		}
	})
}
