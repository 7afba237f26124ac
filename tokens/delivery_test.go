package tokens

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// try is one try of a request that passes the check once at most.
type try struct {
	use   Use
	token Token
	n     int
}

// finish lets the backend answer a try, and the hook on any replica. The answer
// is empty if the request is to be sent again.
func (w *world) finish(ctx context.Context, t try, real, uncounted bool) string {
	time.Sleep(w.backend/2 + rand.N(w.backend))
	hook := w.replicas[rand.N(len(w.replicas))]
	if w.accepts(t.token, real) {
		if t.n > 1 {
			hook.Accepted(Acceptance{Use: t.use, Fingerprint: t.token.Fingerprint, Attempt: t.n})
		}
		return "200"
	}
	o := hook.Rejected(ctx, Rejection{
		Use: t.use, Fingerprint: t.token.Fingerprint, Attempt: t.n, Verdict: w.verdict, Rule: "status",
		Retriable: true, Uncounted: uncounted,
	})
	switch {
	case o.Answer == TryAgain && t.n < maxTries:
		return ""
	case o.Answer == Unavailable:
		return "503"
	case real:
		return "real 403"
	}
	w.set(func() { w.results[fmt.Sprintf("lost: %s on try %d", o.Reason, t.n)]++ })
	return "403"
}

// again sends a request again with the token of any replica.
func (w *world) again(ctx context.Context, t try, real, uncounted bool) string {
	for {
		if answer := w.finish(ctx, t, real, uncounted); answer != "" {
			return answer
		}
		inject := w.replicas[rand.N(len(w.replicas))]
		token, err := inject.Again(ctx, Retried{Use: t.use, Refused: t.token.Fingerprint, Verdict: w.verdict, Attempt: t.n + 1})
		if err != nil {
			return "503"
		}
		t.token, t.n = token, t.n+1
	}
}

// requestLean sends one request the way Envoy would in the lean shape: it passes
// the check once, and gets another token for each further try.
func (w *world) requestLean(ctx context.Context, caller string, real bool) string {
	token, err := w.replicas[rand.N(len(w.replicas))].Token(ctx, Request{Attempt: 1})
	if err != nil {
		return "503"
	}
	use := Use{
		Policy: "p", Credential: "orders", Caller: Fingerprint(caller),
		Generation: token.Generation, Age: time.Since(token.Issued),
	}
	return w.again(ctx, try{use, token, 1}, real, false)
}

// pushed is the token that Envoy was given last.
type pushed struct {
	mu    sync.Mutex
	token Token
}

func (p *pushed) publish(t Token) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.Value != "" {
		p.token = t
	}
}

func (p *pushed) get() Token {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.token
}

// requestPush sends one request the way Envoy would in push mode: it passes no
// check at all.
func (w *world) requestPush(p *pushed) func(context.Context, string, bool) string {
	return func(ctx context.Context, caller string, real bool) string {
		use := Use{Policy: "p", Credential: "orders", Caller: Fingerprint(caller)}
		return w.again(ctx, try{use, p.get(), 1}, real, true)
	}
}

// bear has the provider restart under load, 32 requests at a time or one every so
// often, and returns an error where that costs more than a share of the requests.
func (w *world) bear(t *testing.T, restarts int, slow time.Duration, share float64) error {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	begin, every := w.load, 3*time.Second
	if slow > 0 {
		begin = func(ctx context.Context, _ int) *sync.WaitGroup { return w.rate(ctx, slow) }
		every = 20 * time.Second
	}
	done := begin(ctx, 32)
	w.restarts(restarts, every)
	stop()
	done.Wait()
	time.Sleep(time.Second) // what nobody waits for may be held still
	synctest.Wait()
	lost := w.results["403"] + w.results["503"]
	total := lost + w.results["200"] + w.results["real 403"]
	t.Logf("%d requests, %d lost, %d token requests, %v", total, lost, w.asked, w.results)
	if got := float64(lost) / float64(total); got > share {
		return fmt.Errorf("lost %d of %d requests, want at most %.1f %%", lost, total, 100*share)
	}
	if want := len(w.replicas) * (2*restarts + 1); w.real == 0 && w.asked > want {
		return fmt.Errorf("%d token requests, want at most %d", w.asked, want)
	}
	return nil
}

// delivery is how a simulation's requests are given their tokens, and what restarts
// may cost them.
type delivery struct {
	name     string
	push     bool
	replicas int
	real     float64       // share of real 403s
	slow     time.Duration // between two requests; 0 for as many as possible
	lost     float64       // share of requests
}

// bearEach has the provider of each world restart under load, with unclear and with
// outright rejections. choose says how the world's requests are sent.
func bearEach(t *testing.T, tests []delivery, choose func(w *world, p *pushed, push bool)) {
	t.Helper()
	const restarts = 5
	for _, tt := range tests {
		for _, verdict := range []Verdict{Unclear, Dead} {
			if verdict == Dead && tt.real > 0 {
				continue
			}
			t.Run(fmt.Sprint(tt.name, ", ", verdict), func(t *testing.T) {
				t.Parallel()
				simulate(t, tt.real > 0, func(t *testing.T) error {
					p := &pushed{}
					w := newWorld(t, tt.replicas, func(c *Config) { c.Publish = p.publish })
					w.real, w.verdict = tt.real, verdict
					choose(w, p, tt.push)
					if tt.push {
						mustToken(t, w.replicas[0])
					}
					return w.bear(t, restarts, tt.slow, tt.lost)
				})
			})
		}
	}
}

// Restarts cost callers as little where a request passes the check once, or not
// at all.
func TestRestartUnderLoadByDelivery(t *testing.T) {
	t.Parallel()
	bearEach(t, []delivery{
		{"lean, one replica", false, 1, 0, 0, 0},
		{"lean, one replica, real 403s", false, 1, 0.01, 0, 0.002},
		{"lean, one replica, many real 403s", false, 1, 0.1, 0, 0.002},
		{"lean, three replicas", false, 3, 0, 0, 0},
		{"lean, three replicas, real 403s", false, 3, 0.01, 0, 0.002},
		{"lean, three replicas, 5 requests a second", false, 3, 0, 200 * time.Millisecond, 0},
		{"push", true, 1, 0, 0, 0},
		{"push, real 403s", true, 1, 0.01, 0, 0.02},
		{"push, 5 requests a second", true, 1, 0, 200 * time.Millisecond, 0},
		// One caller, whose own real 403s keep him from being tried: it takes a
		// surge. The median is 1.5 %, but one run in a hundred loses 10 %.
		{"push, 5 requests a second, real 403s", true, 1, 0.01, 200 * time.Millisecond, 0.25},
	}, func(w *world, p *pushed, push bool) {
		w.send = w.requestLean
		if push {
			w.send = w.requestPush(p)
		}
	})
}

// Where requests are not counted, a token that is refused right after it was
// issued is tried on the word of a single rejection, since no other may come. One
// that was issued because of a rejection is not.
func TestUncountedRejectionOfFreshToken(t *testing.T) {
	t.Parallel()
	for _, verdict := range []Verdict{Unclear, Dead} {
		t.Run(verdict.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := &provider{life: time.Hour}
				c, _ := newTestCredential(t, p)
				for _, want := range []bool{true, false} {
					r := refusalFor("", mustToken(t, c), 1, verdict)
					r.Uncounted, r.Use.Generation, r.Use.Age = true, 0, 0
					if got := c.Rejected(t.Context(), r).Answer == TryAgain; got != want {
						t.Errorf("tried: %v, want %v", got, want)
					}
				}
				if p.count().asked != 2 {
					t.Errorf("%d token requests, want 2", p.count().asked)
				}
			})
		})
	}
}
