package tokens

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// world is a provider, a backend and callers in fast time: what the tests of
// the whole life cycle run against. Use it within synctest.
type world struct {
	mu       sync.Mutex
	epoch    int           // restarts so far: tokens of older epochs are void
	issued   int           // token requests that were answered with a token
	asked    int           // token requests
	fetch    time.Duration // how long the provider takes
	down     bool
	life     time.Duration // stated lifetime
	sameAs   string        // if set, the provider always answers this token
	backend  time.Duration // how long the backend takes
	real     float64       // share of requests that the caller may not make
	verdict  Verdict       // what a dead token's rejection says
	replicas []*Credential
	// send sends one request; nil is [world.request].
	send func(ctx context.Context, caller string, real bool) string

	results map[string]int
	waited  time.Duration // longest request that passed
}

// simulate runs a simulation in a bubble of its own. Where chance has a part in it,
// as it has where real rejections use up the bucket, and goes against it, as it does
// in one run of fifty or fewer, it has to hold in the next two.
func simulate(t *testing.T, hasChance bool, run func(*testing.T) error) {
	t.Helper()
	holds := func() (err error) {
		synctest.Test(t, func(t *testing.T) { err = run(t) })
		return err
	}
	err := holds()
	if err != nil && hasChance {
		t.Log("once more, and again: ", err)
		err = cmp.Or(holds(), holds())
	}
	if err != nil {
		t.Error(err)
	}
}

func newWorld(t *testing.T, replicas int, mend ...func(*Config)) *world {
	t.Helper()
	w := &world{fetch: 20 * time.Millisecond, backend: 20 * time.Millisecond, life: time.Hour, results: map[string]int{}}
	w.send = w.request
	for range replicas {
		cache, err := NewCache(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		cfg := Config{Name: "orders", Key: "k", Source: w, Observer: func(ev Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.results["event "+string(ev.Kind)]++
		}}
		for _, m := range mend {
			m(&cfg)
		}
		c, err := NewCredential(cache, cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close(); cache.Close() })
		w.replicas = append(w.replicas, c)
	}
	return w
}

var errDown = errors.New("connection refused")

// Grant implements Source.
func (w *world) Grant(ctx context.Context, _ GrantRequest) (Grant, error) {
	w.mu.Lock()
	w.asked++
	wait := w.fetch
	w.mu.Unlock()
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return Grant{}, ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return Grant{}, errDown
	}
	w.issued++
	value := fmt.Sprintf("token-%d-%d", w.epoch, w.issued)
	if w.sameAs != "" {
		value = w.sameAs
	}
	return Grant{AccessToken: Secret(value), ExpiresIn: w.life}, nil
}

func (w *world) restart() { w.set(func() { w.epoch++ }) }

func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// accepts reports what the backend makes of a token: whether it lives, and
// whether this request is one that the caller may not make.
func (w *world) accepts(token Token, real bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	var epoch, n int
	_, _ = fmt.Sscanf(token.Value.Reveal(), "token-%d-%d", &epoch, &n)
	return epoch == w.epoch && !real
}

// maxTries is what Envoy is told: num_retries 3.
const maxTries = 4

// request sends one request the way Envoy would: every Check and every
// rejection goes to any replica. It returns what the caller sees.
func (w *world) request(ctx context.Context, caller string, real bool) string {
	began := time.Now()
	for attempt := 1; ; attempt++ {
		checker := w.replicas[rand.N(len(w.replicas))]
		token, err := checker.Token(ctx, Request{Attempt: attempt})
		if err != nil {
			return "503"
		}
		use := Use{
			Policy: "p", Credential: "orders", Caller: Fingerprint(caller),
			Generation: token.Generation, Age: time.Since(token.Issued),
		}
		time.Sleep(w.backend/2 + rand.N(w.backend))
		passed := w.accepts(token, real)
		hook := w.replicas[rand.N(len(w.replicas))]
		if passed {
			if attempt > 1 {
				hook.Accepted(Acceptance{Use: use, Fingerprint: token.Fingerprint, Attempt: attempt})
			}
			w.set(func() { w.waited = max(w.waited, time.Since(began)) })
			return "200"
		}
		o := hook.Rejected(ctx, Rejection{
			Use: use, Fingerprint: token.Fingerprint, Attempt: attempt, Verdict: w.verdict, Rule: "status", Retriable: true,
		})
		switch {
		case o.Answer == Unavailable:
			return "503"
		case real && (o.Answer == Pass || attempt == maxTries):
			return "real 403"
		case o.Answer == Pass || attempt == maxTries:
			w.set(func() { w.results[fmt.Sprintf("lost: %s on try %d", o.Reason, attempt)]++ })
			return "403"
		}
	}
}

// load sends requests over n connections at full speed until ctx ends.
func (w *world) load(ctx context.Context, n int) *sync.WaitGroup {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			caller := fmt.Sprintf("caller-%d", i%4)
			for ctx.Err() == nil {
				w.note(w.send(context.Background(), caller, rand.Float64() < w.real))
			}
		})
	}
	return &wg
}

// rate sends requests one after the other, every so often, until ctx ends.
func (w *world) rate(ctx context.Context, every time.Duration) *sync.WaitGroup {
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			wg.Go(func() {
				w.note(w.send(context.Background(), "caller", rand.Float64() < w.real))
			})
			time.Sleep(every)
		}
	})
	return &wg
}

func (w *world) note(result string) { w.set(func() { w.results[result]++ }) }

// Revoke implements Source.
func (w *world) Revoke(context.Context, int, Secret) error { return nil }
