package tokens

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// injectWait is how long a replica waits for what another was told.
const injectWait = 50 * time.Millisecond

// requestUnheld sends one request the way Envoy would where it cannot hold the
// rejection: a refused one is sent again once, whatever the hook says. What it says
// is known to the replica that was told only.
func (w *world) requestUnheld(first func(ctx context.Context, caller string) (try, error)) func(context.Context, string, bool) string {
	return func(ctx context.Context, caller string, real bool) string {
		t, err := first(ctx, caller)
		if err != nil {
			return "503"
		}
		time.Sleep(w.backend/2 + rand.N(w.backend))
		if w.accepts(t.token, real) {
			return "200"
		}
		r := Rejection{
			Use: t.use, Fingerprint: t.token.Fingerprint, Attempt: 1, Verdict: w.verdict, Rule: "status",
			Retriable: true, Unheld: true, Uncounted: t.use.Generation == 0,
		}
		watch, inject := w.replicas[rand.N(len(w.replicas))], w.replicas[rand.N(len(w.replicas))]
		said := make(chan Outcome, 1)
		go func() { said <- watch.Rejected(ctx, r) }()
		again := Retried{Use: t.use, Attempt: 2}
		if watch == inject {
			again.Refused, again.Verdict = r.Fingerprint, r.Verdict
			if o := <-said; o.Answer == Unavailable {
				return "503"
			} else if o.Answer == Pass {
				again.Attempt = 1
			}
		} else {
			time.Sleep(injectWait)
			again.Unasked = true
		}
		if again.Attempt == 2 {
			if t.token, err = inject.Again(ctx, again); err != nil {
				return "503"
			}
		}
		time.Sleep(w.backend/2 + rand.N(w.backend))
		if w.accepts(t.token, real) {
			watch.Accepted(Acceptance{Use: t.use, Fingerprint: t.token.Fingerprint, Attempt: 2})
			return "200"
		}
		r.Fingerprint, r.Attempt, r.Retriable, r.Repeated = t.token.Fingerprint, 2, false, true
		inject.Rejected(ctx, r)
		if real {
			return "real 403"
		}
		return "403"
	}
}

// Restarts cost callers as little where no rejection can be held.
func TestRestartUnderLoadUnheld(t *testing.T) {
	t.Parallel()
	bearEach(t, []delivery{
		{"lean, one replica", false, 1, 0, 0, 0},
		{"lean, one replica, real 403s", false, 1, 0.01, 0, 0.002},
		{"lean, one replica, many real 403s", false, 1, 0.1, 0, 0.002},
		{"lean, three replicas", false, 3, 0, 0, 0},
		{"lean, three replicas, real 403s", false, 3, 0.01, 0, 0.01},
		{"lean, three replicas, 5 requests a second", false, 3, 0, 200 * time.Millisecond, 0},
		{"push", true, 1, 0, 0, 0},
		{"push, real 403s", true, 1, 0.01, 0, 0.02},
		{"push, 5 requests a second", true, 1, 0, 200 * time.Millisecond, 0},
	}, func(w *world, p *pushed, push bool) {
		w.send = w.requestUnheld(func(ctx context.Context, caller string) (try, error) {
			use := Use{Policy: "p", Credential: "orders", Caller: Fingerprint(caller)}
			if push {
				return try{use, p.get(), 1}, nil
			}
			token, err := w.replicas[rand.N(len(w.replicas))].Token(ctx, Request{Attempt: 1})
			use.Generation, use.Age = token.Generation, time.Since(token.Issued)
			return try{use, token, 1}, err
		})
	})
}

// What is not held passes, whatever is decided, unless Envoy sends the request again.
func TestUnheldPasses(t *testing.T) {
	t.Parallel()
	for verdict, reason := range map[Verdict]Reason{Dead: ReasonNotRetriable, Unclear: ReasonNotRetriable, NotAllowed: ReasonNotAllowed} {
		synctest.Test(t, func(t *testing.T) {
			c, _ := newTestCredential(t, numbered(time.Hour, 0))
			r := refusalOf(settled(t, c), 1, verdict)
			r.Unheld, r.Retriable = true, false
			if diff := cmp.Diff(Outcome{Answer: Pass, Reason: reason}, c.Rejected(t.Context(), r)); diff != "" {
				t.Errorf("%v (-want +got):\n%s", verdict, diff)
			}
		})
	}
}

// A request that Envoy sent again whatever was decided is one request, and costs no
// second trial; one that was refused for a reason of its own keeps its caller from
// causing another.
func TestUnheldRepeats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Hour, 0)
		c, d := newTestCredential(t, source)
		token := settled(t, c)
		repeated := func(token Token, caller Fingerprint, verdict Verdict) Rejection {
			r := refusalOf(token, 2, verdict)
			r.Unheld, r.Retriable, r.Repeated, r.Use.Caller = true, false, true, caller
			return r
		}
		for i := range 20 {
			verdict := []Verdict{Dead, Unclear, NotAllowed}[i%3]
			if o := c.Rejected(t.Context(), repeated(token, "a", verdict)); o != (Outcome{Reason: ReasonRepeated}) {
				t.Fatalf("%v: got %+v", verdict, o)
			}
		}
		if n := len(d.of(EventRejected)) + len(d.of(EventRetried)); n > 0 {
			t.Errorf("%d events tell of it", n)
		}
		again := func(caller Fingerprint, want int) {
			t.Helper()
			use := repeated(token, caller, NotAllowed).Use
			fresh, err := c.Again(t.Context(), Retried{Use: use, Attempt: 2, Unasked: true})
			if err != nil {
				t.Error(err)
			}
			r := repeated(fresh, caller, NotAllowed)
			r.Use = use
			c.Rejected(t.Context(), r)
			if n := source.asked(); n != want {
				t.Errorf("%d token requests, want %d", n, want)
			}
			time.Sleep(2 * freshFor)
		}
		again("a", 2)
		again("a", 2)
		again("b", 3)
	})
}

// How much is refused as a rule is known after some seconds, however calm it was
// before.
func TestUsualAfterCalm(t *testing.T) {
	t.Parallel()
	for _, calm := range []time.Duration{0, time.Minute, 24 * time.Hour} {
		now := time.Now()
		var s share
		s.usual.last.at = now
		s.given.Add(uint64(1000 * calm.Seconds()))
		now = now.Add(calm)
		for range 2000 { // 20 s of 1000 requests a second, one in ten refused
			s.given.Add(10)
			now = now.Add(10 * time.Millisecond)
			s.count(now, false)
		}
		if got := s.usual.share(); got < 0.08 || got > 0.11 {
			t.Errorf("after %v: the usual share is %.3f", calm, got)
		}
	}
	var s share // nothing is usual yet
	for range 5 {
		s.count(time.Now(), false)
	}
	if got := s.enough(); got != enoughRefused {
		t.Errorf("%d are several, want %d", got, enoughRefused)
	}
}
