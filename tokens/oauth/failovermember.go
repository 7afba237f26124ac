package oauth

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"

	"github.com/rebearer/rebearer/tokens"
)

// How long a member is passed over after failures. One that refused our client
// will not change its mind soon, and some providers lock a client that is refused
// again and again: for refusedRest it is not asked at all.
const (
	firstPause   = time.Second
	maxPause     = 30 * time.Second
	refusedPause = time.Minute
	refusedRest  = 5 * time.Second
	pauseJitter  = 0.2 // replicas are not to come back all at once
)

// BreakerState is the state of a member's circuit breaker.
type BreakerState string

// The states of a circuit breaker.
const (
	// BreakerClosed means that the member is asked in its turn.
	BreakerClosed BreakerState = "closed"
	// BreakerOpen means that it is passed over while another can have a token.
	BreakerOpen BreakerState = "open"
	// BreakerHalfOpen means that one fetch may try it, or is trying it.
	BreakerHalfOpen BreakerState = "half-open"
)

// MemberHealth is what is known about a member at one moment.
type MemberHealth struct {
	// Provider and Client are the names of the member's provider and client.
	Provider, Client string
	// State is that of its breaker.
	State BreakerState
	// Failures counts the tries that failed since the last token.
	Failures int
	// Err is the last failure; nil after a token. It holds no token and no
	// secret.
	Err error
	// NextTry is when it may be tried again in its turn; zero if it may be now.
	NextTry time.Time
	// Alarm is whether the provider refused our client at the last try
	// ([tokens.PermanentError]): somebody has to look into it.
	Alarm bool
}

// member is a Member with its breaker.
type member struct {
	Member

	index   int
	changed func(MemberHealth)
	breaker circuitbreaker.CircuitBreaker[tokens.Grant]
	guarded failsafe.Executor[tokens.Grant] // asks through breaker

	mu         sync.Mutex // guards what follows; breaker's own lock may be held
	pauses     int        // since the last token
	failures   int
	err        error
	leaveAlone time.Time // it must not be asked before
}

func newMember(index int, cfg Member, changed func(MemberHealth)) *member {
	m := &member{Member: cfg, index: index, changed: changed}
	m.breaker = circuitbreaker.NewBuilder[tokens.Grant]().
		HandleIf(func(_ tokens.Grant, err error) bool { return failed(err) }).
		WithFailureThreshold(1).
		WithSuccessThreshold(1).
		WithDelayFunc(func(try failsafe.ExecutionAttempt[tokens.Grant]) time.Duration {
			return m.pause(try.LastError())
		}).
		Build()
	m.guarded = failsafe.With[tokens.Grant](m.breaker)
	return m
}

// failed reports whether the outcome of a try says that the member is not well.
// One that is, or may be, about the caller on whose behalf it was does not: no
// caller can have a member left alone that serves the others. Nor does it that
// nobody wants the answer any more.
func failed(err error) bool {
	var (
		subject *tokens.SubjectError
		callers *callerError
	)
	return err != nil && !errors.As(err, &subject) && !errors.As(err, &callers) && !errors.Is(err, context.Canceled)
}

// permanent reports whether a provider refused our client.
func permanent(err error) bool {
	var refused *tokens.PermanentError
	return errors.As(err, &refused)
}

// pause returns how long the breaker stays open after err.
func (m *member) pause(err error) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	pause := min(firstPause<<min(m.pauses, 10), maxPause)
	pause += time.Duration(pauseJitter * (2*rand.Float64() - 1) * float64(pause))
	m.pauses++
	if permanent(err) {
		pause = max(pause, refusedPause)
	}
	return max(pause, tokens.AskedToWait(err))
}

// rest returns how long the member must not be asked yet, and the failure that
// is the reason.
func (m *member) rest(now time.Time) (time.Duration, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return max(m.leaveAlone.Sub(now), 0), m.err
}

// grant asks the member for a token unless its breaker forbids it. It blocks for
// at most the given time and one of so many equal parts of what is left of ctx.
func (m *member) grant(ctx context.Context, request tokens.GrantRequest, parts int, most time.Duration) (tokens.Grant, error) {
	if request.Client != m.index {
		request.Refresh = ""
	}
	request.Client = 0 // the member's only one
	ctx, cancel := share(ctx, parts, most)
	defer cancel()
	grant, err := m.guarded.Get(func() (tokens.Grant, error) { return m.Source.Grant(ctx, request) })
	m.note(err)
	grant.Client, grant.Provider = m.index, m.Provider
	return grant, err
}

// share returns a context that ends after the given time, and when one of so many
// equal parts of what is left of ctx is over.
func share(ctx context.Context, parts int, most time.Duration) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	switch {
	case ok && parts > 1:
		most = min(most, time.Until(end)/time.Duration(parts))
	case most == unlimited:
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, most)
}

// note remembers the outcome of a try.
func (m *member) note(err error) {
	if errors.Is(err, circuitbreaker.ErrOpen) || errors.Is(err, context.Canceled) {
		return
	}
	m.mu.Lock()
	before, alarm := m.failures, permanent(m.err)
	if failed(err) {
		m.failures, m.err = before+1, err
		wait := tokens.AskedToWait(err)
		if permanent(err) {
			wait = max(wait, refusedRest)
		}
		if until := time.Now().Add(wait); until.After(m.leaveAlone) {
			m.leaveAlone = until
		}
	} else {
		m.failures, m.err, m.leaveAlone = 0, nil, time.Time{}
		m.pauses = 0
	}
	changed := (m.failures > 0) != (before > 0) || permanent(m.err) != alarm
	m.mu.Unlock()
	if changed && m.changed != nil {
		m.changed(m.health())
	}
}

// health returns what is known about the member.
func (m *member) health() MemberHealth {
	state, pause := m.breaker.State(), m.breaker.RemainingDelay()
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	h := MemberHealth{
		Provider: m.Provider, Client: m.Client, State: BreakerClosed,
		Failures: m.failures, Err: m.err, Alarm: permanent(m.err),
	}
	switch {
	case pause > 0:
		h.State, h.NextTry = BreakerOpen, now.Add(pause)
	case state != circuitbreaker.ClosedState:
		h.State = BreakerHalfOpen
	}
	return h
}
