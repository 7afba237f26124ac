package caller

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/time/rate"
)

// justIssued is how young a token is that its provider can hardly have revoked.
const justIssued = 5 * time.Second

// JWTThenIntrospect verifies JWTs that their provider may revoke: first as a
// [JWT], then by asking the provider, as an [Opaque] does. Both must accept the
// token, so it is never accepted longer or more widely than by either of them,
// and no token costs a call that the issuer has not signed.
//
// The identity is that of the JWT, less the scopes that the provider no longer
// states. An answer that names another subject or client is refused.
type JWTThenIntrospect struct {
	signed *JWT
	asked  *Opaque
	log    *slog.Logger
	advise rate.Sometimes
}

// NewJWTThenIntrospect returns a verifier that closes both when it is closed.
// They must have the same issuer and revocations. asked needs no audiences, since
// signed checks them.
func NewJWTThenIntrospect(signed *JWT, asked *Opaque, log *slog.Logger) (*JWTThenIntrospect, error) {
	if signed.issuer != asked.issuer {
		return nil, fmt.Errorf("JWTs of issuer %q cannot be introspected at %q", signed.issuer, asked.issuer)
	}
	if signed.revocations != asked.revocations {
		return nil, fmt.Errorf("tokens of issuer %q: two sets of revocations", signed.issuer)
	}
	return &JWTThenIntrospect{signed: signed, asked: asked, log: log, advise: rate.Sometimes{Interval: time.Minute}}, nil
}

// Close implements [Verifier].
func (v *JWTThenIntrospect) Close() {
	v.signed.Close()
	v.asked.Close()
}

// Verify implements [Verifier]. It blocks only while keys are being fetched and
// while the provider is asked.
func (v *JWTThenIntrospect) Verify(ctx context.Context, token string) (Identity, error) {
	return verify(ctx, v, token)
}

func (v *JWTThenIntrospect) member() member {
	return member{steps: v, issuer: v.signed.issuer, signed: true}
}

// recall knows a token that both know.
func (v *JWTThenIntrospect) recall(ctx context.Context, sum [sha256.Size]byte, now time.Time) (Identity, bool, error) {
	found, answer := v.signed.known(ctx, sum, now), v.asked.known(sum, now)
	if found == nil || answer == nil {
		return Identity{}, false, nil
	}
	who, err := v.agree(found, answer, now)
	return who, true, err
}

// judge verifies the token as far as it is not known.
func (v *JWTThenIntrospect) judge(ctx context.Context, p *presented) (Identity, error) {
	found := v.signed.known(ctx, p.sum, p.now)
	if found == nil {
		var err error
		if found, err = v.signed.check(ctx, p); err != nil {
			return Identity{}, err
		}
	}
	// One that is revoked costs no call.
	if _, err := v.signed.settle(found, p.now); err != nil {
		return Identity{}, err
	}
	answer, err := v.asked.consult(ctx, p)
	if errors.Is(err, ErrInactive) && p.now.Sub(found.who.IssuedAt) < justIssued {
		v.adviseAudience(ctx)
	}
	if err != nil {
		return Identity{}, err
	}
	return v.agree(found, answer, p.now)
}

// agree returns who sent a token that signed found good, if the provider's
// answer allows it. Whether it is revoked, the token itself tells best: an
// answer may leave out its time of issue.
func (v *JWTThenIntrospect) agree(found, answer *verified, now time.Time) (Identity, error) {
	if err := v.asked.checkTimes(answer.validity, now); err != nil {
		return Identity{}, err
	}
	who, err := v.signed.settle(found, now)
	if err != nil {
		return Identity{}, err
	}
	said := &answer.who
	if said.Subject != "" && said.Subject != who.Subject || said.ClientID != "" && who.ClientID != "" && said.ClientID != who.ClientID {
		return Identity{}, ErrClaims
	}
	if said.Scopes != nil {
		who.Scopes = who.Scopes.and(said.Scopes)
	}
	return who, nil
}

// adviseAudience logs what is most likely wrong where a provider calls its own
// new tokens inactive.
func (v *JWTThenIntrospect) adviseAudience(ctx context.Context) {
	v.advise.Do(func() {
		v.log.WarnContext(ctx, "the provider calls a token inactive that it has just issued: may our client introspect it, and is it in its audience?",
			slog.String("issuer", v.signed.issuer))
	})
}
