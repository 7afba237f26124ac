package extauthz

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/rebearer/rebearer/extauthz/caller"
)

var (
	errClient = errors.New("the policy does not serve this client")
	errClaim  = errors.New("the token lacks a claim that the policy requires")
)

// scopeError is a token without the scopes that the policy requires.
type scopeError struct{ needed string }

func (e scopeError) Error() string {
	return fmt.Sprintf("the token lacks a scope, %q are needed", e.needed)
}

// Requirement is what a good token must have beside its audience. The zero value
// requires nothing.
type Requirement struct {
	// Scopes must all be there.
	Scopes []string
	// AnyScopes are scopes of which one must be there. None means that there
	// is no such requirement. The first one is what callers are told to get.
	AnyScopes []string
	// Clients are the client ids (client_id, or else azp) that may call. None
	// means all.
	Clients []string
	// Claims are claims that must be there, with the values of which one must
	// be theirs; a list must hold one. Numbers and booleans are compared as
	// they are written in JSON. The verifier must be told to keep them.
	Claims map[string][]string
}

// validate reports a requirement that cannot be told to callers, or met.
func (q Requirement) validate() error {
	for _, scope := range slices.Concat(q.Scopes, q.AnyScopes) {
		if scope == "" || strings.ContainsFunc(scope, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
			return fmt.Errorf("scope %q is not a scope (RFC 6749 section 3.3)", scope)
		}
	}
	for name, values := range q.Claims {
		if name == "" || len(values) == 0 {
			return fmt.Errorf("claim %q cannot be met", name)
		}
	}
	return nil
}

// check reports what a caller lacks. What another token of his could mend comes
// last, so that nobody is sent for one in vain.
func (q *Requirement) check(who *caller.Identity) error {
	if len(q.Clients) > 0 && !slices.Contains(q.Clients, who.ClientID) {
		return errClient
	}
	for name, allowed := range q.Claims {
		if !slices.ContainsFunc(claimTexts(who.Claims[name]), func(value string) bool { return slices.Contains(allowed, value) }) {
			return errClaim
		}
	}
	return q.checkScopes(who.Scopes)
}

func (q *Requirement) checkScopes(has caller.Scopes) error {
	lacksOne := slices.ContainsFunc(q.Scopes, func(scope string) bool { return !has.Has(scope) })
	lacksAny := len(q.AnyScopes) > 0 && !slices.ContainsFunc(q.AnyScopes, has.Has)
	if !lacksOne && !lacksAny {
		return nil
	}
	needed := q.Scopes
	if lacksAny {
		needed = append(slices.Clone(needed), q.AnyScopes[0])
	}
	return scopeError{needed: strings.Join(needed, " ")}
}

// claimTexts returns the values of a claim, none for one that is not there or
// has no plain form: an object, null, or a list with such a thing in it.
func claimTexts(claim any) []string {
	list, ok := claim.([]any)
	if !ok {
		list = []any{claim}
	}
	texts := make([]string, 0, len(list))
	for _, item := range list {
		switch value := item.(type) {
		case string:
			texts = append(texts, value)
		case bool:
			texts = append(texts, strconv.FormatBool(value))
		case json.Number:
			texts = append(texts, value.String())
		default:
			return nil
		}
	}
	return texts
}
