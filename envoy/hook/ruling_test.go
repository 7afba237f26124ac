package hook_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/envoy/hook"
	"github.com/rebearer/rebearer/tokens"
)

// shared is a rejection on a connection that several requests share.
func shared(status string, options ...option) *extprocv3.ProcessingRequest {
	r := answerOf(status, attribute(envoy.ProtocolAttribute, "HTTP/2"), header(envoy.SentHeader, "3 HTTP/2 "+status+"/- 1"))
	for _, o := range options {
		o(r)
	}
	return r
}

// watched tells the hook of an answer that nobody holds.
func watched(t *testing.T, h *hook.Server, request *extprocv3.ProcessingRequest) {
	t.Helper()
	s := &oneMessage{ctx: as(t.Context(), origin{role: envoy.RoleWatch}), request: request}
	if err := h.Process(s); err != nil || len(s.answers) != 0 {
		t.Errorf("got %v, %v", s.answers, err)
	}
}

// injected asks the hook for the token of the second try.
func injected(t *testing.T, h *hook.Server, options ...option) *extprocv3.ProcessingResponse {
	t.Helper()
	options = append([]option{attribute(envoy.ProtocolAttribute, "HTTP/2")}, options...)
	s := &oneMessage{ctx: as(t.Context(), origin{role: envoy.RoleInject}), request: tryOf(2, "", options...)}
	if err := h.Process(s); err != nil || len(s.answers) != 1 {
		t.Fatalf("got %v, %v", s.answers, err)
	}
	return s.answers[0]
}

// newResending is a hook whose Envoys send requests again unasked.
func newResending(t *testing.T, c *credential) *hook.Server {
	t.Helper()
	c.again = func(tokens.Retried) (tokens.Token, error) { return tokens.Token{Value: "fresh"}, nil }
	to := target(c)
	to.Unasked = []int{401, 403}
	return newHook(t, to)
}

// What is said of a rejection that nobody holds decides on the token of the next
// try, whichever of the two streams comes first.
func TestRuling(t *testing.T) {
	t.Parallel()
	refused := tokens.FingerprintOf(sentToken)
	tests := map[string]struct {
		request *extprocv3.ProcessingRequest
		outcome tokens.Outcome
		held    time.Duration // what is decided takes so long
		resent  bool
		again   []tokens.Retried
		value   string
		status  int
	}{
		"dead": {
			request: shared("401"), outcome: tokens.Outcome{Answer: tokens.TryAgain}, held: 3 * time.Second, resent: true,
			again: []tokens.Retried{{Use: use(), Refused: refused, Verdict: tokens.Dead, Attempt: 2}}, value: "Bearer fresh",
		},
		"unclear": {
			request: shared("403"), outcome: tokens.Outcome{Answer: tokens.TryAgain}, resent: true,
			again: []tokens.Retried{{Use: use(), Refused: refused, Attempt: 2}}, value: "Bearer fresh",
		},
		"UNAUTHENTICATED": {
			request: shared("200", header("grpc-status", "16")), outcome: tokens.Outcome{Answer: tokens.TryAgain}, resent: true,
			again: []tokens.Retried{{Use: use(), Refused: refused, Verdict: tokens.Dead, Attempt: 2}}, value: "Bearer fresh",
		},
		"not about the token": {request: shared("403"), held: 150 * time.Millisecond, resent: true},
		"dead, and no other": {
			request: shared("401"), outcome: tokens.Outcome{Answer: tokens.Unavailable, RetryAfter: time.Second}, resent: true, status: 503,
		},
	}
	for name, tt := range tests {
		for _, watchFirst := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, watch first %t", name, watchFirst), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					c := &credential{outcome: tt.outcome, hold: func(context.Context) { time.Sleep(tt.held) }}
					h := newResending(t, c)
					var streams sync.WaitGroup
					watch := func() { streams.Go(func() { watched(t, h, tt.request) }) }
					if watchFirst {
						watch()
						synctest.Wait()
					} else {
						time.AfterFunc(20*time.Millisecond, watch)
					}
					got := injected(t, h)
					streams.Wait()
					if status := int(got.GetImmediateResponse().GetStatus().GetCode()); status != tt.status {
						t.Errorf("got status %d, want %d", status, tt.status)
					}
					if headers := got.GetRequestHeaders().GetResponse().GetHeaderMutation().GetSetHeaders(); tt.value != "" {
						if len(headers) != 1 || string(headers[0].GetHeader().GetRawValue()) != tt.value {
							t.Errorf("got %v, want %s", headers, tt.value)
						}
					} else if len(headers) > 0 {
						t.Errorf("got %v, want no token", headers)
					}
					if diff := cmp.Diff(tt.again, c.retried); diff != "" {
						t.Errorf("asked (-want +got):\n%s", diff)
					}
					if r, _ := c.told(); len(r) != 1 || !r[0].Unheld || r[0].Retriable != tt.resent {
						t.Errorf("told %+v", r)
					}
				})
			})
		}
	}
}

// Where nothing is said of a rejection, which another replica may have been told of,
// nobody waits for long, and the token is suspect.
func TestNoRuling(t *testing.T) {
	t.Parallel()
	for name, request := range map[string]*extprocv3.ProcessingRequest{
		"not told":               nil,
		"of another request":     shared("401", attribute(envoy.RequestIDAttribute, "other")),
		"of no request":          shared("401", attribute(envoy.RequestIDAttribute, "")),
		"of a second try":        shared("401", attempt(2.0)),
		"had not gone out whole": answerOf("401", attribute(envoy.ProtocolAttribute, "HTTP/2"), header(envoy.SentHeader, "- HTTP/2 401/- 1")),
		"over HTTP/1.1":          answerOf("401", attribute(envoy.ProtocolAttribute, "HTTP/1.1"), header(envoy.SentHeader, "3 HTTP/1.1 401/- 1")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := &credential{outcome: tokens.Outcome{Answer: tokens.TryAgain}}
				h := newResending(t, c)
				if request != nil {
					watched(t, h, request)
				}
				began := time.Now()
				injected(t, h)
				if waited := time.Since(began); waited > 100*time.Millisecond {
					t.Errorf("waited for %v", waited)
				}
				want := []tokens.Retried{{Use: use(), Attempt: 2, Unasked: true, Route: "orders"}}
				if diff := cmp.Diff(want, c.retried); diff != "" {
					t.Errorf("asked (-want +got):\n%s", diff)
				}
				if name == "not told" || name == "of another request" || name == "of no request" {
					return
				}
				if r, _ := c.told(); len(r) != 1 || !r[0].Unheld || r[0].Retriable {
					t.Errorf("told %+v", r)
				}
			})
		})
	}
}

// A status that Envoy does not send again unasked is not one that anybody waits for.
func TestNotResent(t *testing.T) {
	t.Parallel()
	c := &credential{outcome: tokens.Outcome{Answer: tokens.TryAgain}}
	to := target(c)
	to.Unasked = []int{403}
	h := newHook(t, to)
	watched(t, h, shared("401"))
	watched(t, h, shared("403"))
	watched(t, h, shared("403", header("grpc-status", "16")))
	watched(t, h, shared("200", header("grpc-status", "16")))
	if r, _ := c.told(); len(r) != 4 || r[0].Retriable || !r[1].Retriable || !r[2].Retriable || r[3].Retriable {
		t.Errorf("told %+v", r)
	}
}

// A try that Envoy cannot have sent again unasked waits for nothing.
func TestNothingToWaitFor(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		unasked []int
		attempt int
	}{"a third try": {[]int{401}, 3}, "never unasked": {nil, 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := &credential{again: func(tokens.Retried) (tokens.Token, error) { return tokens.Token{Value: "fresh"}, nil }}
				to := target(c)
				to.Unasked = tt.unasked
				s := &oneMessage{
					ctx:     as(t.Context(), origin{role: envoy.RoleInject}),
					request: tryOf(tt.attempt, "", attribute(envoy.ProtocolAttribute, "HTTP/2")),
				}
				began := time.Now()
				if err := newHook(t, to).Process(s); err != nil {
					t.Error(err)
				}
				if waited := time.Since(began); waited > 0 {
					t.Errorf("waited for %v", waited)
				}
				want := []tokens.Retried{{Use: use(), Attempt: tt.attempt}}
				if diff := cmp.Diff(want, c.retried); diff != "" {
					t.Errorf("asked (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// The caller's own token may be known to another replica only: the backend's answer
// to the same token again is the answer then, and no 503.
func TestNoSubjectHere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &credential{}
		h := newResending(t, c)
		c.again = func(tokens.Retried) (tokens.Token, error) {
			return tokens.Token{}, &tokens.UnavailableError{Err: tokens.ErrNoSubject}
		}
		if got := injected(t, h); got.GetRequestHeaders() == nil || got.GetRequestHeaders().GetResponse() != nil {
			t.Errorf("got %v", got)
		}
	})
}

// A caller may give requests the same id. What is decided on one is not told to
// another that differs in anything, nor once a later one was refused; and what
// nobody asks for is forgotten.
func TestSameID(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &credential{outcome: tokens.Outcome{Answer: tokens.Unavailable}}
		h := newResending(t, c)
		another := use()
		another.Caller = "another"
		for _, differs := range []option{
			attribute(envoy.RouteAttribute, "another"),
			metadata(envoy.CheckNamespace, written(another)),
		} {
			watched(t, h, shared("401"))
			if got := injected(t, h, differs); got.GetImmediateResponse() != nil {
				t.Errorf("got %v", got)
			}
		}
		watched(t, h, shared("401"))
		c.outcome.Answer = tokens.TryAgain
		watched(t, h, shared("401", attribute(envoy.HeaderAttribute("authorization"), "Bearer later")))
		injected(t, h)
		if got := c.retried[len(c.retried)-1].Refused; got != tokens.FingerprintOf("later") {
			t.Errorf("the token of an earlier request is taken for the refused one: %s", got)
		}
		watched(t, h, shared("401"))
		time.Sleep(time.Minute)
		watched(t, h, shared("401", attribute(envoy.RequestIDAttribute, "another")))
		injected(t, h)
		if !c.retried[len(c.retried)-1].Unasked {
			t.Error("what was decided lived for a minute")
		}
	})
}

// Only the try after the first, on a shared connection, may have been sent with the
// same token again.
func TestRepeated(t *testing.T) {
	t.Parallel()
	c := &credential{}
	h := newResending(t, c)
	for _, tt := range []struct {
		request *extprocv3.ProcessingRequest
		want    bool
	}{
		{shared("401"), false},
		{shared("401", attempt(2.0)), true},
		{shared("401", attempt(3.0)), false},
		{answerOf("401", attempt(2.0), attribute(envoy.ProtocolAttribute, "HTTP/1.1")), false},
	} {
		watched(t, h, tt.request)
		all, _ := c.told()
		if got := all[len(all)-1]; got.Repeated != tt.want || !got.Unheld {
			t.Errorf("told %+v, want repeated %t", got, tt.want)
		}
	}
}
