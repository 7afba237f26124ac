package service

import (
	"fmt"
	"log/slog"
	"reflect"
	"slices"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/tokens/oauth"
)

// verifier says whose tokens callers send.
type verifier struct {
	caller.Verifier
	cfg      config.Caller
	claims   []string // that policies look at
	provider *provider
	asks     *oauth.Client // nil unless it introspects
}

func (p parts) addCaller(g, old *graph, name string, cfg config.Caller) error {
	from, ok := g.providers[cfg.Provider]
	if !ok {
		return fmt.Errorf("callers.%s: no provider %q", name, cfg.Provider)
	}
	claims := g.cfg.CallerClaims(name)
	if o := old.callers[name]; o != nil && reflect.DeepEqual(o.cfg, cfg) && slices.Equal(o.claims, claims) && o.provider == from {
		g.callers[name] = o
		return nil
	}
	made := &verifier{cfg: cfg, claims: claims, provider: from}
	if err := p.makeVerifier(made, p.logger.With(slog.String("caller_tokens", name))); err != nil {
		return fmt.Errorf("callers.%s: %w", name, err)
	}
	g.callers[name] = made
	return nil
}

// makeVerifier makes what v is configured for.
func (p parts) makeVerifier(v *verifier, logger *slog.Logger) error {
	var (
		signed *caller.JWT
		asked  *caller.Opaque
		err    error
	)
	if v.readsJWTs() {
		signed, err = caller.NewJWT(v.provider.keys, caller.JWTConfig{
			Issuer: v.provider.Issuer(), Audiences: v.cfg.Audiences, Algorithms: v.cfg.Algorithms, ClockSkew: v.cfg.ClockSkew,
			Required: v.cfg.RequiredClaims, Claims: v.claims, Revocations: p.revoked,
		})
		v.Verifier = signed
	}
	if err == nil && v.cfg.Tokens != config.TokensJWT {
		asked, err = p.newOpaque(v, logger)
	}
	switch {
	case err != nil:
	case signed == nil:
		v.Verifier = asked
	case asked != nil:
		v.Verifier, err = caller.NewJWTThenIntrospect(signed, asked, logger)
	}
	if err == nil {
		return nil
	}
	if signed != nil {
		signed.Close()
	}
	if asked != nil {
		asked.Close()
	}
	return err
}

// readsJWTs reports whether the provider's keys are needed.
func (v *verifier) readsJWTs() bool { return v.cfg.Tokens != config.TokensOpaque }

// newOpaque makes the part of v that introspects. What a JWT says is checked
// there; the answer need not say it again.
func (p parts) newOpaque(v *verifier, logger *slog.Logger) (*caller.Opaque, error) {
	asks, err := newClient(v.provider, *v.cfg.Client)
	if err == nil {
		err = asks.Check()
	}
	if err != nil {
		return nil, err
	}
	v.asks = asks
	cfg := caller.OpaqueConfig{
		Issuer: v.provider.Issuer(), ClockSkew: v.cfg.ClockSkew,
		TTL: v.cfg.Introspection.TTL, InactiveTTL: v.cfg.Introspection.InactiveTTL, Rate: float64(v.cfg.Introspection.Rate),
		Revocations: p.revoked,
	}
	if !v.readsJWTs() {
		cfg.Audiences, cfg.Required, cfg.Claims = v.cfg.Audiences, v.cfg.RequiredClaims, v.claims
	}
	return caller.NewOpaque(p.requests.MeasureIntrospection(asks, v.cfg.Provider), logger, cfg)
}

// group verifies the tokens of several callers.
func (g *graph) group(names []string) (*caller.Group, error) {
	var verifiers []caller.Verifier
	for _, name := range names {
		v, ok := g.callers[name]
		if !ok {
			return nil, fmt.Errorf("no caller %q", name)
		}
		verifiers = append(verifiers, v.Verifier)
	}
	return caller.NewGroup(verifiers...)
}
