package hook_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/envoy/hook"
	"github.com/rebearer/rebearer/envoy/rejection"
	"github.com/rebearer/rebearer/tokens"
)

// say has a hook judge one message, without a network.
func say(t *testing.T, h *hook.Server, request *extprocv3.ProcessingRequest) {
	t.Helper()
	stream := &oneMessage{ctx: as(t.Context(), observes()), request: request}
	if err := h.Process(stream); err != nil || len(stream.answers) != 1 {
		t.Errorf("got %v, %v", stream.answers, err)
	}
}

// aged has the token be of that age.
func aged(age time.Duration) option {
	u := use()
	u.Age = age
	return metadata(envoy.CheckNamespace, written(u))
}

// The provider is asked where nothing else tells.
func TestIntrospection(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		request *extprocv3.ProcessingRequest
		active  bool
		err     error
		asks    int
		want    rejection.Decision
	}{
		"active, 401":        {answerOf("401"), true, nil, 1, rejection.Decision{Verdict: tokens.NotAllowed, Rule: rejection.RuleIntrospection}},
		"active, 403":        {answerOf("403"), true, nil, 1, rejection.Decision{Verdict: tokens.NotAllowed, Rule: rejection.RuleIntrospection}},
		"inactive, 403":      {answerOf("403"), false, nil, 1, rejection.Decision{Verdict: tokens.Dead, Rule: rejection.RuleIntrospection}},
		"inactive, gRPC":     {answerOf("200", header("grpc-status", "16")), false, nil, 1, rejection.Decision{Verdict: tokens.Dead, Rule: rejection.RuleIntrospection}},
		"an error, 403":      {answerOf("403"), false, errors.New("down"), 1, rejection.Decision{Verdict: tokens.Unclear, Rule: rejection.RuleStatus}},
		"an error, 401":      {answerOf("401"), true, errors.New("down"), 1, rejection.Decision{Verdict: tokens.Dead, Rule: rejection.RuleStatus}},
		"just issued":        {answerOf("403", aged(999*time.Millisecond)), false, nil, 1, rejection.Decision{Verdict: tokens.Unclear, Rule: rejection.RuleStatus}},
		"issued before":      {answerOf("403", aged(time.Second)), false, nil, 1, rejection.Decision{Verdict: tokens.Dead, Rule: rejection.RuleIntrospection}},
		"a challenge":        {answerOf("401", header("www-authenticate", `Bearer error="invalid_token"`)), true, nil, 0, rejection.Decision{Verdict: tokens.Dead, Rule: rejection.RuleChallenge}},
		"a scheme":           {answerOf("401", header("www-authenticate", "Negotiate")), false, nil, 0, rejection.Decision{Verdict: tokens.NotAllowed, Rule: rejection.RuleChallengeScheme}},
		"nobody knows which": {answerOf("403", func(r *extprocv3.ProcessingRequest) { r.Attributes = nil }), false, nil, 0, rejection.Decision{Verdict: tokens.Unclear, Rule: rejection.RuleStatus}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &credential{}
			to := target(c)
			var asked []string
			to.Introspect = func(_ context.Context, token string) (bool, error) {
				asked = append(asked, token)
				return tt.active, tt.err
			}
			say(t, newHook(t, to), tt.request)
			rejected, _ := c.told()
			if len(rejected) != 1 || rejected[0].Verdict != tt.want.Verdict || rejected[0].Rule != tt.want.Rule {
				t.Errorf("rejected: got %+v, want %+v", rejected, tt.want)
			}
			if len(asked) != tt.asks || tt.asks > 0 && asked[0] != sentToken {
				t.Errorf("%d times asked, want %d", len(asked), tt.asks)
			}
		})
	}
}

// However many requests come back refused, a provider is asked about a token once
// a second, and nobody waits for an answer longer than for the caller.
func TestIntrospectionIsShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &credential{}
		to := target(c)
		var calls atomic.Int32
		to.Introspect = func(context.Context, string) (bool, error) {
			calls.Add(1)
			time.Sleep(300 * time.Millisecond)
			return true, nil
		}
		h := newHook(t, to)
		for range 50 {
			go say(t, h, answerOf("401"))
		}
		go say(t, h, answerOf("401", attribute(envoy.HeaderAttribute("authorization"), "Bearer another")))
		ctx, leave := context.WithCancel(as(t.Context(), observes()))
		leave()
		gone := &oneMessage{ctx: ctx, request: answerOf("401")}
		if err := h.Process(gone); err != nil {
			t.Error(err)
		}
		if rejected, _ := c.told(); len(rejected) != 1 || rejected[0].Rule != rejection.RuleStatus {
			t.Errorf("the caller who left: got %+v", rejected)
		}
		time.Sleep(900 * time.Millisecond)
		synctest.Wait()
		if rejected, _ := c.told(); len(rejected) != 52 || calls.Load() != 2 {
			t.Errorf("%d answers of %d calls, want 52 of 2", len(rejected), calls.Load())
		}
		say(t, h, answerOf("401"))
		if calls.Load() != 2 {
			t.Error("asked again within a second")
		}
		time.Sleep(200 * time.Millisecond)
		say(t, h, answerOf("401"))
		if calls.Load() != 3 {
			t.Error("not asked again after a second")
		}
	})
}

// That a token was active is no evidence that it is: its provider may have voided
// it since, and the next answer comes only after a second.
func TestIntrospectionIsOld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &credential{}
		to := target(c)
		active := true
		to.Introspect = func(context.Context, string) (bool, error) { return active, nil }
		h := newHook(t, to)
		for _, tt := range []struct {
			wait time.Duration
			want tokens.Verdict
		}{
			{0, tokens.NotAllowed},
			{time.Millisecond, tokens.Unclear},
			{998 * time.Millisecond, tokens.Unclear},
			{time.Millisecond, tokens.Dead},
			{time.Millisecond, tokens.Dead}, // no void token lives again
		} {
			time.Sleep(tt.wait)
			say(t, h, answerOf("401"))
			rejected, _ := c.told()
			last := rejected[len(rejected)-1]
			if last.Verdict != tt.want || last.Rule != rejection.RuleIntrospection {
				t.Errorf("rejection %d: got %v by %s, want %v", len(rejected), last.Verdict, last.Rule, tt.want)
			}
			active = false
		}
	})
}

// A provider that does not answer is waited for once, and not long.
func TestIntrospectionIsSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &credential{}
		to := target(c)
		var calls atomic.Int32
		to.Introspect = func(context.Context, string) (bool, error) {
			calls.Add(1)
			time.Sleep(5 * time.Second)
			return true, nil
		}
		h := newHook(t, to)
		for i, want := range []time.Duration{time.Second, 0, 0} {
			began := time.Now()
			say(t, h, answerOf("401"))
			if held := time.Since(began); held != want {
				t.Errorf("rejection %d: held for %v, want %v", i, held, want)
			}
		}
		if rejected, _ := c.told(); len(rejected) != 3 || rejected[2].Rule != rejection.RuleStatus || calls.Load() != 1 {
			t.Errorf("%d calls, rejected %+v", calls.Load(), rejected)
		}
		time.Sleep(5 * time.Second) // the call ends with the bubble
	})
}

// However many tokens come back refused, no more are remembered than have a place.
func TestIntrospectionIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &credential{}
		to := target(c)
		var calls atomic.Int32
		to.Introspect = func(context.Context, string) (bool, error) { calls.Add(1); return true, nil }
		h := newHook(t, to)
		many := func() {
			for n := range 2000 {
				say(t, h, answerOf("401", attribute(envoy.HeaderAttribute("authorization"), "Bearer "+strings.Repeat("x", n+1))))
			}
		}
		many()
		if calls.Load() != 1024 {
			t.Errorf("%d calls, want 1024", calls.Load())
		}
		time.Sleep(time.Second)
		many()
		if calls.Load() != 2048 {
			t.Errorf("%d calls, want 2048", calls.Load())
		}
	})
}

// A provider that does not know what it just issued is not set up for us: that is
// said once, and it is not believed before it knows a token.
func TestIntrospectionNotInAudience(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	c := &credential{}
	to := target(c)
	var active bool
	to.Introspect = func(context.Context, string) (bool, error) { return active, nil }
	h, err := hook.New(lookup(to), hook.Config{Logger: slog.New(slog.NewTextHandler(&log, nil)), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		say(t, h, answerOf("403", aged(0)))
	}
	another := func(token string) *extprocv3.ProcessingRequest {
		return answerOf("403", aged(time.Hour), attribute(envoy.HeaderAttribute("authorization"), "Bearer "+token))
	}
	say(t, h, another("a"))
	active = true
	say(t, h, another("b"))
	active = false
	say(t, h, another("c"))
	var got []tokens.Verdict
	rejected, _ := c.told()
	for _, r := range rejected {
		got = append(got, r.Verdict)
	}
	want := []tokens.Verdict{tokens.Unclear, tokens.Unclear, tokens.Unclear, tokens.Unclear, tokens.NotAllowed, tokens.Dead}
	if !slices.Equal(got, want) {
		t.Errorf("verdicts: got %v, want %v", got, want)
	}
	if got := strings.Count(log.String(), "credential=orders"); got != 1 {
		t.Errorf("said %d times, want once:\n%s", got, log.String())
	}
	if strings.Contains(log.String(), sentToken) {
		t.Error("the token is logged")
	}
}
