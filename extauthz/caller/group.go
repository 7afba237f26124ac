package caller

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"
)

// Group verifies tokens of several issuers. It is safe for concurrent use and
// does not own its verifiers: whoever made them closes them.
//
// A JWT goes to those who verify the signatures of the issuer that it names, or
// else to an [Opaque] of that issuer, and to nobody else: a token is not shown to
// a stranger who could use it. What names no issuer goes to the Opaques, in
// their order, until one of their providers knows it.
type Group struct {
	members []member
}

// member is a verifier within a group.
type member struct {
	steps

	issuer string
	signed bool // it verifies JWTs only
	second bool // another member verifies the JWTs of its issuer
}

// NewGroup returns a group of at least one verifier. Several may have the same
// issuer, with different audiences say: a token needs to satisfy one of them.
func NewGroup(verifiers ...Verifier) (*Group, error) {
	if len(verifiers) == 0 {
		return nil, errors.New("no verifier of callers' tokens")
	}
	g := &Group{}
	for _, v := range verifiers {
		g.members = append(g.members, v.member())
	}
	for i := range g.members {
		m := &g.members[i]
		m.second = !m.signed && g.verifiesSignatures(m.issuer)
	}
	return g, nil
}

// Verify returns who sent a token. It behaves as the Verify of the verifiers
// that the token goes to. A token that some of them refuse while another cannot
// judge it may still be good: the error is an [*UnavailableError] then.
func (g *Group) Verify(ctx context.Context, token string) (Identity, error) {
	if len(g.members) == 1 && g.members[0].signed {
		return verify(ctx, g.members[0].steps, token)
	}
	return verify(ctx, g, token)
}

// recall returns what the first member knows that knows the token. What a member
// knows of a token that may be another's to judge does not count: which it is, is
// not known before the token is read.
func (g *Group) recall(ctx context.Context, sum [sha256.Size]byte, now time.Time) (Identity, bool, error) {
	for i := range g.members {
		if g.members[i].second {
			continue
		}
		if who, known, err := g.members[i].recall(ctx, sum, now); known {
			return who, true, err
		}
	}
	return Identity{}, false, nil
}

// judge has the token judged by those whom it concerns.
func (g *Group) judge(ctx context.Context, p *presented) (Identity, error) {
	issuer := p.issuer()
	return g.judgeFor(ctx, p, issuer, g.verifiesSignatures(issuer))
}

// judgeFor has the token judged by the members of an issuer, or of all issuers if
// it is empty.
func (g *Group) judgeFor(ctx context.Context, p *presented, issuer string, signed bool) (Identity, error) {
	var refusal error
	for _, m := range g.members {
		if m.signed != signed || issuer != "" && m.issuer != issuer {
			continue
		}
		who, err := m.judge(ctx, p)
		if err == nil {
			return who, nil
		}
		if issuer == "" && recognised(err) {
			return g.judgeFor(ctx, p, m.issuer, signed)
		}
		refusal = moreTelling(refusal, err)
	}
	if refusal == nil {
		return Identity{}, g.unconcerned(p)
	}
	return Identity{}, refusal
}

// verifiesSignatures reports whether tokens that name issuer go to those
// members who verify signatures.
func (g *Group) verifiesSignatures(issuer string) bool {
	for _, m := range g.members {
		if m.signed && m.issuer == issuer {
			return true
		}
	}
	return false
}

// unconcerned is the refusal of a token that no member is there for.
func (g *Group) unconcerned(p *presented) error {
	if _, err := p.compact(); err != nil {
		return err
	}
	return ErrIssuer
}

// recognised reports whether a provider that was asked refuses a token as one of
// its own. Nobody else needs to see it then, or could say more about it.
func recognised(err error) bool {
	var invalid *InvalidError
	return errors.As(err, &invalid) && !errors.Is(err, ErrInactive) && !errors.Is(err, ErrIssuer) && !errors.Is(err, ErrMalformed)
}

// moreTelling chooses the answer for a token that no verifier of its issuer
// accepted: one that could not judge it may still do so, and one that checked
// the claims knows more than one that did not come so far.
func moreTelling(a, b error) error {
	var unavailable *UnavailableError
	switch {
	case a == nil, errors.As(b, &unavailable):
		return b
	case errors.As(a, &unavailable), errors.Is(b, ErrAudience), errors.Is(b, ErrInactive):
		return a
	}
	return b
}
