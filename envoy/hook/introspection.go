package hook

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/rebearer/rebearer/envoy/rejection"
	"github.com/rebearer/rebearer/tokens"
)

const (
	// askEvery is how long an answer about a token stands: so often is a
	// provider asked about it at most.
	askEvery = time.Second
	// askWait is how long an answer is waited for, from the call on. A provider
	// that is slow now has a token to issue yet, for which the caller waits too.
	askWait = time.Second
	// maxQuestions bounds the tokens that are asked about in that time.
	maxQuestions = 1024
	// justIssued is the age below which a provider cannot have voided a token
	// between two of its own restarts.
	justIssued = time.Second
)

// introspection asks providers about our own tokens (RFC 7662). It is safe for
// concurrent use.
type introspection struct {
	log *slog.Logger

	mu       sync.Mutex
	asked    map[subject]*question
	doubtful map[string]struct{} // the credentials of whose tokens no "inactive" counts
}

// subject is what a question is about.
type subject struct {
	credential  string
	fingerprint tokens.Fingerprint
}

// question is a call of a provider, under way or over.
type question struct {
	asked    time.Time
	done     chan struct{} // closed when the fields below are set
	answered time.Time
	active   bool
	err      error
}

func newIntrospection(log *slog.Logger) *introspection {
	return &introspection{log: log, asked: map[subject]*question{}, doubtful: map[string]struct{}{}}
}

// decide replaces a decision without evidence by what the provider says about the
// token: one that is active is good, and does not suffice. One that was active
// before the rejection came may be void since: a caller who is refused all the
// time must not keep the others from finding that out. Where nothing can be
// learned the decision stands.
func (i *introspection) decide(ctx context.Context, target Target, a *answer, d rejection.Decision) rejection.Decision {
	seen := time.Now()
	q := i.ask(ctx, target, a)
	if q == nil || !i.counts(q, a) {
		return d
	}
	d = rejection.Decision{Verdict: tokens.Dead, Rule: rejection.RuleIntrospection}
	switch {
	case q.active && q.answered.Before(seen):
		d.Verdict = tokens.Unclear
	case q.active:
		d.Verdict = tokens.NotAllowed
	}
	return d
}

// justIssued reports a token that is too young to be void already.
func (a *answer) justIssued() bool { return a.ageKnown && a.use.Age < justIssued }

// counts reports whether an answer is evidence. A provider that calls a token
// inactive which it just issued calls every one so: some do to a client that is
// not in the token's audience. That is said once, and "inactive" then means
// nothing until it calls a token of the credential active.
func (i *introspection) counts(q *question, a *answer) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, doubtful := i.doubtful[a.use.Credential]
	switch {
	case q.active:
		delete(i.doubtful, a.use.Credential)
		return true
	case doubtful || !a.justIssued():
		return !doubtful
	}
	i.doubtful[a.use.Credential] = struct{}{}
	i.log.Warn("introspection calls a token inactive that was issued a moment ago: the client that asks is probably not in its audience; such answers are ignored",
		slog.String("credential", a.use.Credential))
	return false
}

// ask asks the provider, or shares the answer of another request. It returns nil
// if there is none.
func (i *introspection) ask(ctx context.Context, target Target, a *answer) *question {
	token := a.token(target)
	q := i.question(ctx, target, subject{a.use.Credential, tokens.FingerprintOf(token)}, token)
	if q == nil {
		return nil
	}
	timer := time.NewTimer(time.Until(q.asked.Add(askWait)))
	defer timer.Stop()
	select {
	case <-q.done:
		if q.err == nil {
			return q
		}
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}

// question returns the call about a token, and begins it if there is none. It
// returns nil if it may not.
func (i *introspection) question(ctx context.Context, target Target, about subject, token string) *question {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := time.Now()
	if q := i.asked[about]; q != nil && !q.isOver(now) {
		return q
	}
	if len(i.asked) >= maxQuestions {
		i.forget(now)
	}
	if token == "" || len(i.asked) >= maxQuestions {
		return nil
	}
	q := &question{asked: now, done: make(chan struct{})}
	i.asked[about] = q
	// Others wait for the answer too, so it is not given up with this request.
	ctx = context.WithoutCancel(ctx)
	go func() { // which ends with the provider's timeout at the latest
		defer close(q.done)
		q.active, q.err = target.Introspect(ctx, token)
		q.answered = time.Now()
	}()
	return q
}

// isOver reports whether the answer is too old to be used.
func (q *question) isOver(now time.Time) bool {
	select {
	case <-q.done:
		return now.Sub(q.asked) >= askEvery
	default:
		return false
	}
}

func (i *introspection) forget(now time.Time) {
	for about, q := range i.asked {
		if q.isOver(now) {
			delete(i.asked, about)
		}
	}
}
