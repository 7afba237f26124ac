package tokens

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNewCredentialRefuses(t *testing.T) {
	t.Parallel()
	good := Config{Name: "orders", Key: "k", Source: numbered(time.Hour, 0)}
	for name, spoil := range map[string]func(*Config){
		"no name":            func(c *Config) { c.Name = "" },
		"no key":             func(c *Config) { c.Key = "" },
		"no source":          func(c *Config) { c.Source = nil },
		"negative timeout":   func(c *Config) { c.Timeout = -1 },
		"negative cool-down": func(c *Config) { c.CoolDown = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := good
			spoil(&cfg)
			if _, err := NewCredential(nil, cfg); err == nil {
				t.Error("got no error")
			}
		})
	}
	if _, err := NewCache(0); err == nil {
		t.Error("a cache for nothing: got no error")
	}
}

func TestOneFetchForManyCalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const calls = 10_000
		source := numbered(time.Hour, time.Second)
		c, d := newTestCredential(t, source)
		var failed atomic.Int64
		var wg sync.WaitGroup
		for range calls {
			wg.Go(func() {
				if token, err := c.Token(t.Context(), Request{}); err != nil || token.Value != "token-1" {
					failed.Add(1)
				}
			})
		}
		wg.Wait()
		if n := failed.Load(); n > 0 {
			t.Errorf("%d of %d calls got no token", n, calls)
		}
		if n := source.asked(); n != 1 {
			t.Errorf("%d token requests, want 1", n)
		}
		if got := c.Status().Uses; got != calls {
			t.Errorf("uses: got %d, want %d", got, calls)
		}
		issued := d.of(EventIssued)
		if len(issued) != 1 || issued[0].Reason != ReasonFirst || issued[0].Latency != time.Second {
			t.Errorf("issued: got %+v", issued)
		}
	})
}

// The caller who started the fetch may leave without harm to the others.
func TestFirstWaiterLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Hour, time.Second)
		c, _ := newTestCredential(t, source)
		ctx, leave := context.WithCancel(t.Context())
		first := make(chan error, 1)
		go func() { _, err := c.Token(ctx, Request{}); first <- err }()
		synctest.Wait()
		others := make(chan error, 99)
		for range cap(others) {
			go func() { _, err := c.Token(t.Context(), Request{}); others <- err }()
		}
		synctest.Wait()
		leave()
		var unavailable *UnavailableError
		if err := <-first; !errors.Is(err, context.Canceled) || !errors.As(err, &unavailable) {
			t.Errorf("the one who left: got %v", err)
		}
		for range cap(others) {
			if err := <-others; err != nil {
				t.Errorf("one who stayed: %v", err)
			}
		}
		if n := source.asked(); n != 1 {
			t.Errorf("%d token requests, want 1", n)
		}
	})
}

// An answer that comes after everybody left is not thrown away.
func TestLateAnswerCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Hour, 4*time.Second)
		c, _ := newTestCredential(t, source)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Token(ctx, Request{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		time.Sleep(3500 * time.Millisecond)
		if token := mustToken(t, c); token.Value != "token-1" {
			t.Errorf("got token %s", token.Fingerprint)
		}
		if n := source.asked(); n != 1 {
			t.Errorf("%d token requests, want 1", n)
		}
	})
}

// Waiters give up at the timeout, even where the source does not.
func TestWaitersGiveUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := &script{answer: func(context.Context, int) (Grant, error) {
			time.Sleep(8 * time.Second)
			return Grant{AccessToken: "late", ExpiresIn: time.Hour}, nil
		}}
		c, _ := newTestCredential(t, source)
		began := time.Now()
		_, err := c.Token(t.Context(), Request{})
		var unavailable *UnavailableError
		if !errors.As(err, &unavailable) || unavailable.RetryAfter <= 0 || unavailable.Credential != "orders" {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(began); waited != defaultTimeout {
			t.Errorf("waited %v, want %v", waited, defaultTimeout)
		}
		time.Sleep(4 * time.Second)
		if token := mustToken(t, c); token.Value != "late" {
			t.Errorf("got token %s", token.Fingerprint)
		}
		if n := source.asked(); n != 1 {
			t.Errorf("%d token requests, want 1", n)
		}
	})
}

// A provider that is down for half a minute under load is asked about once a
// second, and from its first answer on nobody fails.
func TestProviderDownThenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const outage = 30 * time.Second
		began := time.Now()
		var up atomic.Bool
		var answered atomic.Bool
		source := &script{answer: func(ctx context.Context, _ int) (Grant, error) {
			if err := sleep(ctx, 20*time.Millisecond); err != nil {
				return Grant{}, err
			}
			if !up.Load() {
				return Grant{}, errDown
			}
			answered.Store(true)
			return Grant{AccessToken: "token", ExpiresIn: time.Hour}, nil
		}}
		c, d := newTestCredential(t, source)
		var failed, failedLate atomic.Int64
		ctx, stop := context.WithTimeout(t.Context(), outage+5*time.Second)
		defer stop()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				for ctx.Err() == nil {
					late := answered.Load()
					if _, err := c.Token(t.Context(), Request{}); err != nil {
						failed.Add(1)
						if late {
							failedLate.Add(1)
						}
					}
					time.Sleep(10 * time.Millisecond)
				}
			})
		}
		time.Sleep(outage)
		whileDown := source.asked()
		up.Store(true)
		wg.Wait()
		if failed.Load() == 0 {
			t.Error("nobody failed while the provider was down")
		}
		if n := failedLate.Load(); n > 0 {
			t.Errorf("%d failed after the provider answered", n)
		}
		// Some soon, within the first fetch, and one a second from then on.
		if most := 12 + int(outage/maxRetry); whileDown > most || whileDown < 20 {
			t.Errorf("%d token requests in %v, want 20 to %d", whileDown, outage, most)
		}
		if got := source.asked() - whileDown; got > 2 {
			t.Errorf("%d token requests after the provider was up, want at most 2", got)
		}
		if back := d.of(EventIssued)[0].Time.Sub(began) - outage; back > maxRetry+40*time.Millisecond {
			t.Errorf("noticed after %v that the provider is back", back)
		}
	})
}

// What asking again cannot mend is not asked again soon, and callers do not wait.
func TestPermanentError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("invalid_client")
		var mended atomic.Bool
		source := &script{answer: func(context.Context, int) (Grant, error) {
			if mended.Load() {
				return Grant{AccessToken: "token", ExpiresIn: time.Hour}, nil
			}
			return Grant{}, &PermanentError{Err: cause}
		}}
		c, d := newTestCredential(t, source)
		ask := func() *UnavailableError {
			t.Helper()
			began := time.Now()
			_, err := c.Token(t.Context(), Request{})
			var unavailable *UnavailableError
			if !errors.As(err, &unavailable) || !errors.Is(err, cause) {
				t.Fatalf("got %v", err)
			}
			if waited := time.Since(began); waited != 0 {
				t.Errorf("waited %v", waited)
			}
			return unavailable
		}
		if got := ask().RetryAfter; got != permanentPause {
			t.Errorf("retry after %v, want %v", got, permanentPause)
		}
		time.Sleep(4 * time.Second)
		for range 1000 {
			if got := ask().RetryAfter; got != permanentPause-4*time.Second {
				t.Fatalf("retry after %v", got)
			}
		}
		if n := source.asked(); n != 1 {
			t.Errorf("%d token requests, want 1", n)
		}
		if got := d.of(EventFailed); len(got) != 1 || !errors.Is(got[0].Err, cause) {
			t.Errorf("failed: got %+v", got)
		}
		if s := c.Status(); s.Failures != 1 || !errors.Is(s.Err, cause) {
			t.Errorf("status: got %+v", s)
		}
		mended.Store(true)
		time.Sleep(permanentPause)
		mustToken(t, c)
		if s := c.Status(); s.Failures != 0 || s.Err != nil {
			t.Errorf("status: got %+v", s)
		}
	})
}

func TestWarm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Hour, time.Second)
		c, _ := newTestCredential(t, source)
		c.Warm()
		c.Warm()
		time.Sleep(2 * time.Second)
		c.Warm()
		mustToken(t, c)
		if n := source.asked(); n != 1 {
			t.Errorf("%d token requests, want 1", n)
		}
	})
}

func TestFlush(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Hour, time.Second)
		c, d := newTestCredential(t, source)
		if had, err := c.Flush(); had || err != nil {
			t.Errorf("flushing nothing: got %t, %v", had, err)
		}
		first := mustToken(t, c)
		if had, err := c.Flush(); !had || err != nil {
			t.Errorf("got %t, %v", had, err)
		}
		second := mustToken(t, c)
		if second.Generation != first.Generation+1 || second.Fingerprint == first.Fingerprint {
			t.Errorf("got %+v after %+v", second, first)
		}
		evicted := d.of(EventEvicted)
		if len(evicted) != 1 || evicted[0].Reason != ReasonFlush || evicted[0].Fingerprint != first.Fingerprint {
			t.Errorf("evicted: got %+v", evicted)
		}
		// A late rejection of what was flushed is no reason to fetch again.
		if o := c.Rejected(t.Context(), refusalOf(first, 1, Dead)); o != (Outcome{Answer: TryAgain, Reason: ReasonLate}) {
			t.Errorf("got %+v", o)
		}
		if n := source.asked(); n != 2 {
			t.Errorf("%d token requests, want 2", n)
		}
	})
}

// A token that was on its way when the operator flushed is not what the operator
// gets.
func TestFlushDuringFetch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, _ := newTestCredential(t, numbered(time.Hour, time.Second))
		c.Warm()
		time.Sleep(time.Second / 2)
		if _, err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		if token := mustToken(t, c); token.Value != "token-2" {
			t.Errorf("got the token that was requested before the flush")
		}
	})
}

func TestPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Minute, time.Second)
		c, d := newTestCredential(t, source, func(cfg *Config) { cfg.Expiry.Margin = 10 * time.Second })
		first := mustToken(t, c)
		if !c.Pause() || c.Pause() {
			t.Error("Pause does not say what it changed")
		}
		if _, err := c.Flush(); !errors.Is(err, ErrPaused) {
			t.Errorf("flush while paused: got %v", err)
		}
		if o := c.Rejected(t.Context(), refusalOf(first, 1, Dead)); o.Answer != Unavailable {
			t.Errorf("a rejection while paused: got %+v", o)
		}
		time.Sleep(time.Until(first.Expires) - 1)
		if token := mustToken(t, c); token != first {
			t.Errorf("got %+v", token)
		}
		time.Sleep(time.Nanosecond)
		var unavailable *UnavailableError
		if _, err := c.Token(t.Context(), Request{}); !errors.As(err, &unavailable) || !errors.Is(err, errPaused) {
			t.Errorf("got %v", err)
		}
		if n := source.asked(); n != 1 {
			t.Errorf("%d token requests, want 1", n)
		}
		if s := c.Status(); !s.Paused || s.Alive || s.Fetching {
			t.Errorf("status: got %+v", s)
		}
		if !c.Resume() || c.Resume() {
			t.Error("Resume does not say what it changed")
		}
		synctest.Wait()
		if n := source.asked(); n != 2 {
			t.Errorf("%d token requests after Resume, want 2", n)
		}
		mustToken(t, c)
		if len(d.of(EventPaused)) != 1 || len(d.of(EventResumed)) != 1 {
			t.Errorf("got %d paused, %d resumed", len(d.of(EventPaused)), len(d.of(EventResumed)))
		}
	})
}

// A token that fell due while the credential was paused is renewed at Resume.
func TestResumeRenews(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Minute, time.Second)
		c, d := newTestCredential(t, source, func(cfg *Config) { cfg.Expiry.Margin = 20 * time.Second })
		first := mustToken(t, c)
		c.Pause()
		time.Sleep(50 * time.Second)
		if c.Resume(); !c.Status().Alive {
			t.Fatal("the token did not live on")
		}
		time.Sleep(2 * time.Second)
		if token := mustToken(t, c); token.Generation != first.Generation+1 {
			t.Errorf("got generation %d", token.Generation)
		}
		if len(d.of(EventRenewed)) != 1 || len(d.of(EventEvicted)) != 0 {
			t.Errorf("got %+v", d.events)
		}
	})
}

// Pause also ends the tries of a fetch that is under way.
func TestPauseDuringFetch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := &script{answer: func(context.Context, int) (Grant, error) { return Grant{}, errDown }}
		c, _ := newTestCredential(t, source)
		c.Warm()
		time.Sleep(10 * time.Millisecond)
		c.Pause()
		before := source.asked()
		time.Sleep(time.Minute)
		if after := source.asked(); after != before {
			t.Errorf("%d token requests while paused", after-before)
		}
	})
}

func TestClose(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Minute, 2*time.Second)
		c, _ := newTestCredential(t, source)
		waiting := make(chan error, 1)
		go func() { _, err := c.Token(t.Context(), Request{}); waiting <- err }()
		time.Sleep(time.Second)
		c.Close()
		began := time.Now()
		if err := <-waiting; err == nil {
			t.Error("a fetch in flight: got no error")
		}
		if waited := time.Since(began); waited > 0 {
			t.Errorf("waited %v after Close", waited)
		}
		if _, err := c.Token(t.Context(), Request{}); !errors.Is(err, errClosed) {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Hour)
		if n := source.asked(); n != 1 {
			t.Errorf("%d token requests, want 1", n)
		}
	})
}

func TestCloseEndsRenewals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Minute, 0)
		c, _ := newTestCredential(t, source)
		token := mustToken(t, c)
		c.Close()
		if s := c.Status(); !s.Renewal.IsZero() {
			t.Errorf("to be renewed at %v", s.Renewal)
		}
		if got, err := c.Token(t.Context(), Request{}); err != nil || got != token {
			t.Errorf("a living token after Close: got %+v, %v", got, err)
		}
		time.Sleep(time.Hour)
		if n := source.asked(); n != 1 {
			t.Errorf("%d token requests, want 1", n)
		}
	})
}

func TestStatus(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Hour, time.Second)
		c, _ := newTestCredential(t, source)
		want := Status{Name: "orders", Provider: "shop", Trials: trialBurst}
		if diff := cmp.Diff(want, c.Status()); diff != "" {
			t.Errorf("before (-want +got):\n%s", diff)
		}
		c.Warm()
		synctest.Wait()
		want.Fetching = true
		if diff := cmp.Diff(want, c.Status()); diff != "" {
			t.Errorf("meanwhile (-want +got):\n%s", diff)
		}
		token := mustToken(t, c)
		token.Value = ""
		want = Status{
			Name: "orders", Provider: "shop", Trials: trialBurst,
			Token: token, Alive: true, Renewal: token.Expires, Uses: 1,
		}
		if diff := cmp.Diff(want, c.Status()); diff != "" {
			t.Errorf("after (-want +got):\n%s", diff)
		}
	})
}

// Two credentials with one key do not meet in the cache, and pressure on the
// cache costs no fetch.
func TestCachePressure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cache, err := NewCache(MinCacheBytes)
		if err != nil {
			t.Fatal(err)
		}
		defer cache.Close()
		source := numbered(time.Hour, 0)
		const many = 200
		var all []*Credential
		for range many {
			c, err := NewCredential(cache, Config{Name: "orders", Key: "k", Source: source})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			all = append(all, c)
		}
		for range 5 {
			for _, c := range all {
				mustToken(t, c)
			}
			cache.entries.Wait()
		}
		if n := source.asked(); n != many {
			t.Errorf("%d token requests, want %d", n, many)
		}
		s := cache.Stats()
		if s.Entries > MinCacheBytes/entryBytes || s.Hits+s.Misses != 5*many {
			t.Errorf("stats: got %+v", s)
		}
	})
}
