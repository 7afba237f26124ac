package caller

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	maxClockSkew      = 5 * time.Minute
	defaultCacheBytes = 16 << 20

	// maxClaims and maxClaimBytes bound the claims that an identity carries: how
	// many names may be asked for, and their values as they were sent, which no
	// JWT can exceed and a provider's answer could.
	maxClaims     = 32
	maxClaimBytes = maxTokenBytes
)

// terms are what a verifier asks of a token's claims, whoever states them.
type terms struct {
	issuer      string
	audiences   []string // none: whatever the provider accepts
	required    []string
	kept        []string // the claims that identities carry
	skew        time.Duration
	revocations *Revocations // may be nil
}

// validate reports what is unsafe or makes no sense.
func (t *terms) validate() error {
	switch {
	case t.issuer == "":
		return errors.New("no issuer")
	case slices.Contains(t.audiences, ""):
		return errors.New("an audience is empty")
	case t.skew < 0 || t.skew > maxClockSkew:
		return fmt.Errorf("clock skew %v is not within 0 and %v", t.skew, maxClockSkew)
	case slices.Contains(t.required, "") || slices.Contains(t.kept, ""):
		return errors.New("the name of a claim is empty")
	case len(t.kept) > maxClaims:
		return fmt.Errorf("%d claims to keep are more than %d", len(t.kept), maxClaims)
	}
	return nil
}

// accept returns whose token it is, if it is one for us. When it is good is for
// checkTimes to say.
func (t *terms) accept(said claims) (*verified, error) {
	switch {
	case said.issuer != t.issuer:
		return nil, ErrIssuer
	case len(t.audiences) > 0 && !slices.ContainsFunc(said.audiences, func(a string) bool { return slices.Contains(t.audiences, a) }):
		return nil, ErrAudience
	case said.members.Has("cnf"): // RFC 7800: the caller would have to prove a key
		return nil, ErrBound
	case said.otherKind():
		return nil, ErrType
	case !isName(said.subject), !isName(said.clientID):
		return nil, ErrClaims
	case slices.ContainsFunc(t.required, func(name string) bool { return !said.members.HasValue(name) }):
		return nil, ErrClaims
	}
	kept, size := t.keep(said)
	if size > maxClaimBytes {
		return nil, ErrClaims
	}
	who := Identity{
		Issuer: t.issuer, Subject: said.subject, ClientID: said.clientID,
		Scopes: said.scopes, Claims: kept, JTI: said.jti, IssuedAt: said.issued, Expires: said.validity.expires,
		fingerprint: identify(t.issuer, said.subject, said.clientID),
	}
	return &verified{who: who, validity: said.validity, claimBytes: size, marks: t.revocations.marksOf(who)}, nil
}

// keep returns the claims that identities carry, and how long they are as they
// were sent.
func (t *terms) keep(said claims) (kept map[string]any, size int) {
	for _, name := range t.kept {
		if !said.members.Has(name) {
			continue
		}
		if kept == nil {
			kept = make(map[string]any, len(t.kept))
		}
		kept[name] = said.members.Value(name)
		size += len(said.members[name])
	}
	return kept, size
}

// checkTimes reports whether a token is good now.
func (t *terms) checkTimes(times validity, now time.Time) error {
	if !times.expires.IsZero() && !now.Before(times.expires.Add(t.skew)) {
		return ErrExpired
	}
	if now.Before(times.notBefore.Add(-t.skew)) {
		return ErrNotYetValid
	}
	return nil
}

// settle is the last step for every token that was found good, a moment or long
// ago: it may have been revoked since.
func (t *terms) settle(found *verified, now time.Time) (Identity, error) {
	if t.revocations.cover(found, now) {
		return Identity{}, ErrRevoked
	}
	return found.who, nil
}
