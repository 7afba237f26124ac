package oauth

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"

	"github.com/rebearer/rebearer/tokens"
)

// Member is one of a credential's clients, at its provider.
type Member struct {
	// Source gets tokens as that client. Required.
	Source tokens.Source
	// Provider and Client are the provider's name and the client's identifier,
	// for health and events.
	Provider, Client string
}

// FailoverConfig says how a [Failover] goes about its work.
type FailoverConfig struct {
	// Changed is told of a member that begins to fail, that is well again, and
	// whose alarm is raised. It may be called concurrently and must not block.
	// Nil means nobody.
	Changed func(MemberHealth)
}

// Failover gets the tokens of a credential from the first of its clients that
// can have one. It implements [tokens.Source] and is safe for concurrent use.
//
// Every member has a circuit breaker, which opens with the first failure: first
// for a second, then longer each time, for a minute where the provider refused
// our client, and at least for as long as the provider asked to be left alone
// (Retry-After). A member whose breaker is open is passed over, so that a stuck
// provider costs its share of one fetch's time and nothing after that. Where it
// is over, one fetch tries the member again in its turn, for a second at most
// while there is another member to turn to; if that succeeds, the member is
// preferred as before.
//
// An open breaker never stands between a caller and the last hope: where no
// other member can have a token, those with an open breaker are asked after all.
// A credential with one client is so asked as often as without a Failover. The
// exceptions are the members that must not be asked, whoever wants a token:
// while Retry-After lasts, and for some seconds after the provider refused our
// client.
//
// A [tokens.SubjectError], and the refusal of what is asked for on behalf of one
// caller, is that caller's trouble and an answer like any other: no further member
// is asked.
type Failover struct {
	members []*member
}

// NewFailover returns a Failover of members, the preferred one first. It asks
// none.
func NewFailover(members []Member, cfg FailoverConfig) (*Failover, error) {
	if len(members) == 0 {
		return nil, errors.New("failover: no members")
	}
	f := &Failover{}
	for i, m := range members {
		if m.Source == nil {
			return nil, fmt.Errorf("failover: member %d has no source", i)
		}
		f.members = append(f.members, newMember(i, m, cfg.Changed))
	}
	return f, nil
}

// unlimited is as good as no limit.
const unlimited time.Duration = math.MaxInt64

// trialTime bounds the try of a member that failed the last time, while there is
// another to turn to: a provider that is well answers within it.
const trialTime = time.Second

// Grant gets one token from the first member that can have one, and blocks until
// ctx ends at most: each member is given an equal share of what is left of it. A
// refresh token is shown to the member that got it, which then goes first, and to
// no other.
//
// Where every member failed, the error wraps a [tokens.PermanentError] only if
// all were refused, and has a method RetryAfter, which tells how long none of
// them may be asked: zero if one may be at once.
func (f *Failover) Grant(ctx context.Context, request tokens.GrantRequest) (tokens.Grant, error) {
	well, ill, causes := f.candidates(request)
	for i, m := range well {
		left, most := len(well)-i, unlimited
		if left+len(ill) > 1 && m.breaker.State() != circuitbreaker.ClosedState {
			most = trialTime
		}
		grant, err := m.grant(ctx, request, left, most)
		switch {
		case errors.Is(err, circuitbreaker.ErrOpen): // another fetch tries it now
			ill = append(ill, m)
		case !failed(err):
			return grant, err
		default:
			causes = append(causes, err)
		}
	}
	for i, m := range ill {
		if ctx.Err() != nil && len(causes) > 0 {
			break
		}
		m.breaker.Close() // so that all who have no other hope may ask at once
		grant, err := m.grant(ctx, request, len(ill)-i, unlimited)
		if !failed(err) {
			return grant, err
		}
		causes = append(causes, err)
	}
	return tokens.Grant{}, &failoverError{causes: causes, wait: f.wait(time.Now())}
}

// candidates returns the members that may be asked, in the order in which they
// are preferred: those that are well or due for a trial, and those whose breaker
// is open. For a member that must be left alone it returns why.
func (f *Failover) candidates(request tokens.GrantRequest) (well, ill []*member, resting []error) {
	order := slices.Clone(f.members)
	if i := request.Client; request.Refresh != "" && i > 0 && i < len(order) {
		order = slices.Insert(slices.Delete(order, i, i+1), 0, f.members[i])
	}
	now := time.Now()
	for _, m := range order {
		switch wait, err := m.rest(now); {
		case wait > 0:
			resting = append(resting, err)
		case m.breaker.RemainingDelay() > 0:
			ill = append(ill, m)
		default:
			well = append(well, m)
		}
	}
	return well, ill, resting
}

// wait returns how long no member may be asked.
func (f *Failover) wait(now time.Time) time.Duration {
	least, _ := f.members[0].rest(now)
	for _, m := range f.members[1:] {
		wait, _ := m.rest(now)
		least = min(least, wait)
	}
	return least
}

// Revoke voids a token at the provider of the member that got it. It blocks until
// ctx ends or the provider's timeout at most, and returns [errors.ErrUnsupported]
// where the provider cannot.
func (f *Failover) Revoke(ctx context.Context, client int, token tokens.Secret) error {
	if client < 0 || client >= len(f.members) {
		return fmt.Errorf("failover: no member %d: %w", client, errors.ErrUnsupported)
	}
	return f.members[client].Source.Revoke(ctx, 0, token)
}

// Health returns the state of the members, in their order.
func (f *Failover) Health() []MemberHealth {
	all := make([]MemberHealth, len(f.members))
	for i, m := range f.members {
		all[i] = m.health()
	}
	return all
}

// failoverError says why no member had a token.
type failoverError struct {
	causes []error
	wait   time.Duration
}

// Error implements error with the text of every cause.
func (e *failoverError) Error() string {
	texts := make([]string, len(e.causes))
	for i, cause := range e.causes {
		texts[i] = cause.Error()
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns the causes. Where some are transient it returns only these: the
// failure is not permanent then, whatever one of the providers says.
func (e *failoverError) Unwrap() []error {
	transient := slices.DeleteFunc(slices.Clone(e.causes), permanent)
	if len(transient) == 0 {
		return e.causes
	}
	return transient
}

// RetryAfter is how long no member may be asked; zero if one may be at once.
func (e *failoverError) RetryAfter() time.Duration { return e.wait }
