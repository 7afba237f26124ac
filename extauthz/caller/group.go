package caller

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"time"
)

// Group verifies tokens of several issuers. It is safe for concurrent use and
// does not own its verifiers: whoever made them closes them.
type Group struct {
	verifiers []*JWT
}

// NewGroup returns a group of at least one verifier. Several may have the same
// issuer, with different audiences say: a token needs to satisfy one of them.
func NewGroup(verifiers ...*JWT) (*Group, error) {
	if len(verifiers) == 0 {
		return nil, errors.New("no verifier of callers' tokens")
	}
	return &Group{verifiers: slices.Clone(verifiers)}, nil
}

// Verify returns who sent a token. It behaves as [JWT.Verify] of the verifier
// for the token's issuer; a token of any other issuer is invalid.
func (g *Group) Verify(ctx context.Context, token string) (Identity, error) {
	if len(g.verifiers) == 1 {
		return g.verifiers[0].Verify(ctx, token)
	}
	if len(token) > maxTokenBytes {
		return Identity{}, ErrMalformed
	}
	now, sum := time.Now(), sha256.Sum256([]byte(token))
	for _, v := range g.verifiers {
		if who, ok := v.remembered(ctx, sum, now); ok {
			return who, nil
		}
	}
	parsed, err := parseCompact(token)
	if err != nil {
		return Identity{}, err
	}
	// The issuer is not verified yet. It only says whose keys to try, and the
	// verifier compares it again once the signature is known to be good.
	members, err := parsed.claims()
	if err != nil {
		return Identity{}, err
	}
	issuer, ok := members.text("iss")
	if !ok {
		return Identity{}, ErrIssuer
	}
	refusal := error(ErrIssuer)
	for _, v := range g.verifiers {
		if v.issuer != issuer {
			continue
		}
		who, err := v.verify(ctx, parsed, sum, now)
		if err == nil {
			return who, nil
		}
		refusal = moreTelling(refusal, err)
	}
	return Identity{}, refusal
}

// moreTelling chooses the answer for a token that no verifier of its issuer
// accepted: one that could not judge it may still do so, and one that checked
// the claims knows more than one that did not come so far.
func moreTelling(a, b error) error {
	var unavailable *UnavailableError
	switch {
	case errors.As(a, &unavailable), errors.Is(b, ErrAudience) && !errors.Is(a, ErrIssuer):
		return a
	}
	return b
}
