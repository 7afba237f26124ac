package oauth_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

// memberSource is a Source whose answers a test writes.
type memberSource struct {
	mu       sync.Mutex
	answer   func(context.Context) (tokens.Grant, error)
	requests []tokens.GrantRequest
	revoked  []tokens.Secret
}

func (s *memberSource) Grant(ctx context.Context, request tokens.GrantRequest) (tokens.Grant, error) {
	s.mu.Lock()
	s.requests = append(s.requests, request)
	answer := s.answer
	s.mu.Unlock()
	return answer(ctx)
}

func (s *memberSource) Revoke(_ context.Context, _ int, token tokens.Secret) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revoked = append(s.revoked, token)
	return nil
}

// will sets what it answers from now on.
func (s *memberSource) will(answer func(context.Context) (tokens.Grant, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// asked returns how often it was asked since the last call.
func (s *memberSource) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.requests)
	s.requests = nil
	return n
}

func issue(text tokens.Secret) func(context.Context) (tokens.Grant, error) {
	return func(context.Context) (tokens.Grant, error) { return tokens.Grant{AccessToken: text}, nil }
}

func fail(err error) func(context.Context) (tokens.Grant, error) {
	return func(context.Context) (tokens.Grant, error) { return tokens.Grant{}, err }
}

// hang answers nothing until ctx ends.
func hang(ctx context.Context) (tokens.Grant, error) {
	<-ctx.Done()
	return tokens.Grant{}, ctx.Err()
}

// slow answers after a while.
func slow(d time.Duration, then func(context.Context) (tokens.Grant, error)) func(context.Context) (tokens.Grant, error) {
	return func(ctx context.Context) (tokens.Grant, error) {
		select {
		case <-time.After(d):
			return then(ctx)
		case <-ctx.Done():
			return tokens.Grant{}, ctx.Err()
		}
	}
}

// waitError is an error with a Retry-After.
type waitError time.Duration

func (e waitError) Error() string             { return "status 429" }
func (e waitError) RetryAfter() time.Duration { return time.Duration(e) }

var (
	errDown    = errors.New("status 500")
	errRefused = fmt.Errorf("token: %w", &tokens.PermanentError{Err: errors.New("invalid_client")})
	errSubject = fmt.Errorf("token: %w", &tokens.SubjectError{Err: errors.New("invalid_grant")})
)

// pair is a Failover of two members, a and b, which issue tokens of that name.
type pair struct {
	*oauth.Failover
	t       *testing.T
	a, b    *memberSource
	changes []oauth.MemberHealth
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{t: t, a: &memberSource{answer: issue("a")}, b: &memberSource{answer: issue("b")}}
	f, err := oauth.NewFailover([]oauth.Member{
		{Source: p.a, Provider: "east", Client: "gateway-a"},
		{Source: p.b, Provider: "west", Client: "gateway-b"},
	}, oauth.FailoverConfig{Changed: func(h oauth.MemberHealth) { p.changes = append(p.changes, h) }})
	if err != nil {
		t.Fatal(err)
	}
	p.Failover = f
	return p
}

func newSingle(t *testing.T, source tokens.Source) *oauth.Failover {
	t.Helper()
	f, err := oauth.NewFailover([]oauth.Member{{Source: source, Provider: "east"}}, oauth.FailoverConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// fetch asks for a token as an entry of the cache does, with 5 seconds of time,
// and returns it and how long that took.
func fetch(t *testing.T, f *oauth.Failover) (tokens.Secret, time.Duration, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	began := time.Now()
	grant, err := f.Grant(ctx, tokens.GrantRequest{})
	return grant.AccessToken, time.Since(began), err
}

// mustGet fails the test unless a fetch gets that token in that time, and asks
// the members so often.
func (p *pair) mustGet(token tokens.Secret, in time.Duration, askedA, askedB int) {
	p.t.Helper()
	got, took, err := fetch(p.t, p.Failover)
	if err != nil || got != token || took != in {
		p.t.Errorf("got token %q after %v, error %v; want %q after %v", got.Reveal(), took, err, token.Reveal(), in)
	}
	if a, b := p.a.asked(), p.b.asked(); a != askedA || b != askedB {
		p.t.Errorf("asked a %d and b %d times, want %d and %d", a, b, askedA, askedB)
	}
}

// mustFail fails the test unless a fetch fails, and asks the members so often.
// It returns how long the error says to wait, and the error.
func (p *pair) mustFail(askedA, askedB int) (time.Duration, error) {
	p.t.Helper()
	_, _, err := fetch(p.t, p.Failover)
	if err == nil {
		p.t.Fatal("got a token, want an error")
	}
	if a, b := p.a.asked(), p.b.asked(); a != askedA || b != askedB {
		p.t.Errorf("asked a %d and b %d times, want %d and %d", a, b, askedA, askedB)
	}
	var wait interface{ RetryAfter() time.Duration }
	if !errors.As(err, &wait) {
		p.t.Fatalf("the error does not say when to come back: %v", err)
	}
	return wait.RetryAfter(), err
}

func (p *pair) states() []oauth.BreakerState {
	var states []oauth.BreakerState
	for _, h := range p.Health() {
		states = append(states, h.State)
	}
	return states
}

func isPermanent(err error) bool {
	var refused *tokens.PermanentError
	return errors.As(err, &refused)
}

func TestFailoverGoesOn(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		answer func(context.Context) (tokens.Grant, error)
		takes  time.Duration
		// pause is the least for which the member is passed over.
		pause time.Duration
		alarm bool
	}{
		{name: "down", answer: fail(errDown), pause: 800 * time.Millisecond},
		{name: "asked to wait", answer: fail(waitError(2 * time.Minute)), pause: 2 * time.Minute},
		{name: "refused", answer: fail(errRefused), pause: time.Minute, alarm: true},
		{name: "refused, asked to wait", answer: fail(errors.Join(waitError(5*time.Minute), errRefused)), pause: 5 * time.Minute, alarm: true},
		{name: "stuck", answer: hang, takes: 2500 * time.Millisecond, pause: 800 * time.Millisecond},
		{name: "slow and down", answer: slow(time.Second, fail(errDown)), takes: time.Second, pause: 800 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t)
				p.a.will(tt.answer)
				p.mustGet("b", tt.takes, 1, 1)
				h := p.Health()[0]
				if h.State != oauth.BreakerOpen || h.Failures != 1 || h.Err == nil || h.Alarm != tt.alarm {
					t.Errorf("health is %+v, want open after 1 failure, alarm %t", h, tt.alarm)
				}
				if pause := time.Until(h.NextTry); pause < tt.pause {
					t.Errorf("the next try is in %v, want at least %v", pause, tt.pause)
				}
				p.mustGet("b", 0, 0, 1)

				p.a.will(issue("a"))
				time.Sleep(time.Until(h.NextTry))
				if got, want := p.states(), []oauth.BreakerState{oauth.BreakerHalfOpen, oauth.BreakerClosed}; !slices.Equal(got, want) {
					t.Errorf("states are %v, want %v", got, want)
				}
				p.mustGet("a", 0, 1, 0)
				want := oauth.MemberHealth{Provider: "east", Client: "gateway-a", State: oauth.BreakerClosed}
				if diff := cmp.Diff(want, p.Health()[0]); diff != "" {
					t.Errorf("health (-want +got):\n%s", diff)
				}
				if n := len(p.changes); n != 2 || p.changes[0].Failures != 1 || p.changes[1].Failures != 0 {
					t.Errorf("changes are %+v, want one for the failure and one for the recovery", p.changes)
				}
			})
		})
	}
}

// While another member may be asked, a trial takes a second at most, and each
// that fails is followed by a longer pause, up to a limit.
func TestFailoverTrials(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.a.will(hang)
		p.mustGet("b", 2500*time.Millisecond, 1, 1)
		var pauses []time.Duration
		for range 8 {
			next := p.Health()[0].NextTry
			pauses = append(pauses, time.Until(next))
			time.Sleep(time.Until(next))
			p.mustGet("b", time.Second, 1, 1)
		}
		for i, pause := range pauses {
			want := min(time.Second<<i, 30*time.Second)
			if pause < want*8/10 || pause > want*12/10 {
				t.Errorf("pause %d is %v, want %v give or take a fifth", i, pause, want)
			}
		}
		if n := p.Health()[0].Failures; n != 9 {
			t.Errorf("%d failures, want 9", n)
		}
		time.Sleep(time.Until(p.Health()[0].NextTry))
		p.a.will(issue("a"))
		p.mustGet("a", 0, 1, 0)
		p.a.will(fail(errDown))
		p.mustGet("b", 0, 1, 1)
		if pause := time.Until(p.Health()[0].NextTry); pause > 1200*time.Millisecond {
			t.Errorf("the first pause after a recovery is %v, want a short one", pause)
		}
	})
}

// A trial in flight holds up nobody but the one who makes it.
func TestFailoverTrialAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.a.will(fail(errDown))
		p.mustGet("b", 0, 1, 1)
		time.Sleep(time.Until(p.Health()[0].NextTry))
		p.a.will(slow(500*time.Millisecond, issue("a")))
		var trial sync.WaitGroup
		trial.Go(func() {
			if got, _, err := fetch(t, p.Failover); err != nil || got != "a" {
				t.Errorf("the trial got %q, error %v; want a", got.Reveal(), err)
			}
		})
		synctest.Wait()
		p.mustGet("b", 0, 1, 1)
		trial.Wait()
		p.mustGet("a", 500*time.Millisecond, 1, 0)
	})
}

// A token refused on the caller's behalf is the caller's trouble, and a fetch
// that was called off is nobody's.
func TestFailoverFaultOfOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.a.will(fail(errSubject))
		var subject *tokens.SubjectError
		if _, _, err := fetch(t, p.Failover); !errors.As(err, &subject) {
			t.Errorf("got error %v, want a SubjectError", err)
		}
		p.a.will(hang)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := p.Grant(ctx, tokens.GrantRequest{}); !errors.Is(err, context.Canceled) {
			t.Errorf("got error %v, want that it was called off", err)
		}
		if n := p.b.asked(); n > 0 {
			t.Errorf("the other member was asked %d times", n)
		}
		if h := p.Health()[0]; h.State != oauth.BreakerClosed || h.Failures > 0 || len(p.changes) > 0 {
			t.Errorf("health is %+v, want a closed breaker", h)
		}
	})
}

// No breaker delays the recovery where there is nobody else to ask: every try
// reaches every provider.
func TestFailoverAllDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.a.will(fail(errDown))
		p.b.will(hang)
		for range 20 {
			wait, err := p.mustFail(1, 1)
			if !errors.Is(err, errDown) || !errors.Is(err, context.DeadlineExceeded) || isPermanent(err) || wait > 0 {
				t.Fatalf("got error %v, wait %v; want both causes and no wait", err, wait)
			}
			time.Sleep(50 * time.Millisecond)
		}
		p.b.will(issue("b"))
		p.mustGet("b", 0, 1, 1)
		p.mustGet("b", 0, 0, 1)
		p.a.will(issue("a"))
		time.Sleep(time.Until(p.Health()[0].NextTry))
		p.mustGet("a", 0, 1, 0)
	})
}

// A credential with one client is asked as often as it would be without a
// breaker, by however many at once, and has all the time there is.
func TestFailoverSingle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := &memberSource{answer: fail(errDown)}
		f := newSingle(t, source)
		for range 20 {
			if _, _, err := fetch(t, f); !errors.Is(err, errDown) || err.Error() != errDown.Error() {
				t.Fatalf("got error %v, want %v", err, errDown)
			}
		}
		if n := source.asked(); n != 20 {
			t.Errorf("asked %d times, want 20", n)
		}
		time.Sleep(time.Until(f.Health()[0].NextTry)) // a trial of one is no limit either
		source.will(slow(4*time.Second, issue("a")))
		var fetches sync.WaitGroup
		for range 100 {
			fetches.Go(func() {
				if _, _, err := fetch(t, f); err != nil {
					t.Error(err)
				}
			})
		}
		fetches.Wait()
	})
}

// A credential of one client or two whose providers come back within a second has
// a token in the same fetch, as the tries of [tokens.Credential] find them.
func TestFailoverInCredential(t *testing.T) {
	t.Parallel()
	for _, clients := range []int{1, 2} {
		t.Run(fmt.Sprint(clients), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				source := &memberSource{answer: fail(errDown)}
				f, err := oauth.NewFailover(slices.Repeat([]oauth.Member{{Source: source}}, clients), oauth.FailoverConfig{})
				if err != nil {
					t.Fatal(err)
				}
				cache, err := tokens.NewCache(tokens.MinCacheBytes)
				if err != nil {
					t.Fatal(err)
				}
				defer cache.Close()
				c, err := tokens.NewCredential(cache, tokens.Config{Name: "orders", Key: "orders", Source: f})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				time.AfterFunc(time.Second, func() { source.will(issue("a")) })
				began := time.Now()
				token, err := c.Token(t.Context(), tokens.Request{})
				if took := time.Since(began); err != nil || token.Value != "a" || took > 2500*time.Millisecond {
					t.Errorf("got token %q after %v, error %v; want a soon after the provider is back", token.Value.Reveal(), took, err)
				}
			})
		})
	}
}

// A provider that says when to come back is not asked before, even if it is the
// last one, and a client that was refused is not shown again and again.
func TestFailoverRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.a.will(fail(waitError(time.Minute)))
		p.b.will(fail(waitError(10 * time.Second)))
		_, _ = p.mustFail(1, 1)
		time.Sleep(3 * time.Second)
		if wait, err := p.mustFail(0, 0); wait != 7*time.Second || isPermanent(err) {
			t.Errorf("got wait %v, error %v; want 7s", wait, err)
		}
		time.Sleep(7 * time.Second)
		p.b.will(fail(errRefused))
		if wait, err := p.mustFail(0, 1); wait != 5*time.Second || isPermanent(err) {
			t.Errorf("got wait %v, error %v; want 5s, and an error that is not permanent", wait, err)
		}
		_, _ = p.mustFail(0, 0)
		time.Sleep(5 * time.Second)
		p.b.will(issue("b"))
		p.mustGet("b", 0, 0, 1)
		if p.Health()[1].Alarm {
			t.Error("the alarm outlives the trouble")
		}
	})
}

// A member that is well has all the time there is, and one that is ill is not
// asked when that is over: it would be blamed for not answering at once.
func TestFailoverLastHopeHasNoTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.a.will(fail(errDown))
		p.b.will(fail(errRefused))
		_, _ = p.mustFail(1, 1)
		time.Sleep(10 * time.Second) // the breaker of b stays open for a minute
		p.a.will(issue("a"))
		p.mustGet("a", 0, 1, 0)
		p.a.will(hang)
		if _, err := p.mustFail(1, 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got error %v", err)
		}
	})
}

// A wish to be left alone outlasts the failure of a try that began before it.
func TestFailoverRestStays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := &memberSource{answer: slow(time.Second, fail(errDown))}
		f := newSingle(t, source)
		var early sync.WaitGroup
		early.Go(func() { _, _, _ = fetch(t, f) })
		synctest.Wait()
		source.will(fail(waitError(time.Minute)))
		_, _, _ = fetch(t, f)
		early.Wait()
		source.asked()
		if _, _, err := fetch(t, f); err == nil || source.asked() > 0 {
			t.Errorf("got error %v, and the provider was asked", err)
		}
	})
}

// The failure is permanent only if every provider refused.
func TestFailoverAllRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		p.a.will(fail(errRefused))
		p.b.will(fail(errDown))
		if wait, err := p.mustFail(1, 1); isPermanent(err) || wait > 0 {
			t.Errorf("got permanent error %v, wait %v; want a transient one", err, wait)
		}
		p.b.will(fail(errRefused))
		if wait, err := p.mustFail(0, 1); !isPermanent(err) || wait != 5*time.Second {
			t.Errorf("got error %v, wait %v; want a permanent one after 5s", err, wait)
		}
		if h := p.Health(); !h[0].Alarm || !h[1].Alarm {
			t.Errorf("health is %+v, want two alarms", h)
		}
	})
}

// A refresh token is the business of the member that got it.
func TestFailoverRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t)
		request := tokens.GrantRequest{Subject: "subject", Refresh: "refresh-b", Client: 1}
		grant, err := p.Grant(t.Context(), request)
		if want := (tokens.Grant{AccessToken: "b", Client: 1, Provider: "west"}); err != nil || grant != want {
			t.Errorf("got %+v, error %v; want %+v", grant, err, want)
		}
		p.b.will(fail(errDown))
		grant, err = p.Grant(t.Context(), request)
		if want := (tokens.Grant{AccessToken: "a", Provider: "east"}); err != nil || grant != want {
			t.Errorf("got %+v, error %v; want %+v", grant, err, want)
		}
		if diff := cmp.Diff([]tokens.GrantRequest{{Subject: "subject"}}, p.a.requests); diff != "" {
			t.Errorf("a was asked (-want +got):\n%s", diff)
		}
		shown := tokens.GrantRequest{Subject: "subject", Refresh: "refresh-b"}
		if diff := cmp.Diff([]tokens.GrantRequest{shown, shown}, p.b.requests); diff != "" {
			t.Errorf("b was asked (-want +got):\n%s", diff)
		}

		for _, client := range []int{0, 1} {
			if err := p.Revoke(t.Context(), client, tokens.Secret(fmt.Sprint(client))); err != nil {
				t.Error(err)
			}
		}
		if !slices.Equal(p.a.revoked, []tokens.Secret{"0"}) || !slices.Equal(p.b.revoked, []tokens.Secret{"1"}) {
			t.Errorf("revoked %d at a and %d at b, want each its own", len(p.a.revoked), len(p.b.revoked))
		}
		if err := p.Revoke(t.Context(), 2, "2"); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("got error %v, want that there is no such member", err)
		}
	})
}

// A provider that accepts connections and never answers costs its share of one
// fetch, and nothing after that.
func TestFailoverStuckServer(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	var connections atomic.Int32
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			t.Cleanup(func() { _ = connection.Close() })
		}
	}()
	server := newAuthorizationServer(t, (*httptest.Server).Start)
	server.handle("/token", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"well","token_type":"Bearer"}`)
	})
	f, err := oauth.NewFailover([]oauth.Member{
		{Source: newSource(t, "http://"+listener.Addr().String()+"/token", testClient(), oauth.TokenConfig{}), Provider: "stuck"},
		{Source: newSource(t, server.URL+"/token", testClient(), oauth.TokenConfig{}), Provider: "well"},
	}, oauth.FailoverConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for range 10 {
		grant, err := f.Grant(ctx, tokens.GrantRequest{})
		if err != nil || grant.Provider != "well" {
			t.Fatalf("got a token from %q, error %v; want one from well", grant.Provider, err)
		}
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("the stuck server was asked %d times, want once", n)
	}
	if got := f.Health()[0].Err; !errors.Is(got, context.DeadlineExceeded) {
		t.Errorf("its error is %v, want that there was no answer in time", got)
	}
}

func TestNewFailoverRefuses(t *testing.T) {
	t.Parallel()
	for _, members := range [][]oauth.Member{nil, {{Provider: "east"}}} {
		if _, err := oauth.NewFailover(members, oauth.FailoverConfig{}); err == nil {
			t.Errorf("members %v were accepted", members)
		}
	}
}
