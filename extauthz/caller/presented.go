package caller

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/rebearer/rebearer/tokens/oauth/strictjson"
)

// presented is a token that none of the caches knows, on its way through the
// verifiers, and what was found out about it. One goroutine uses it.
type presented struct {
	text string
	sum  [sha256.Size]byte
	now  time.Time // the time of the whole check

	// parsed and parseErr are what parseCompact says, once isParsed.
	isParsed bool
	parsed   compact
	parseErr error
}

// compact returns the token as a JWT.
func (p *presented) compact() (compact, error) {
	if !p.isParsed {
		p.isParsed = true
		p.parsed, p.parseErr = parseCompact(p.text)
	}
	return p.parsed, p.parseErr
}

// issuer returns which issuer the token names, if it is a JWT that can be read,
// and nothing otherwise. It is not verified: it only says who should see the
// token, and is compared again once somebody has vouched for it.
func (p *presented) issuer() string {
	_, payload, ok := split(p.text)
	if !ok {
		return ""
	}
	members, err := strictjson.Parse(payload)
	if err != nil {
		return ""
	}
	issuer, _ := members.Text("iss")
	return issuer
}

// Verifier verifies the tokens of one issuer: a [*JWT], an [*Opaque] or a
// [*JWTThenIntrospect]. Close it when it is no longer used.
type Verifier interface {
	// Verify returns who sent a token. It blocks until ctx ends at most. Its
	// error is an [*InvalidError] or an [*UnavailableError].
	Verify(ctx context.Context, token string) (Identity, error)
	// Close forgets all that is cached. A Verify that runs meanwhile or follows
	// is merely slower.
	Close()

	member() member
}

// steps are the two halves of verifying a token.
type steps interface {
	// recall returns what is known of the token with that SHA-256, and whether
	// anything is. It does not block.
	recall(ctx context.Context, sum [sha256.Size]byte, now time.Time) (who Identity, known bool, err error)
	// judge finds out about a token that recall does not know.
	judge(ctx context.Context, p *presented) (Identity, error)
}

// verify takes both.
func verify(ctx context.Context, s steps, token string) (Identity, error) {
	if len(token) > maxTokenBytes {
		return Identity{}, ErrMalformed
	}
	now, sum := time.Now(), sha256.Sum256([]byte(token))
	if who, known, err := s.recall(ctx, sum, now); known {
		return who, err
	}
	return s.judge(ctx, &presented{text: token, sum: sum, now: now})
}
