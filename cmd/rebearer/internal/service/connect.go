package service

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
	"github.com/rebearer/rebearer/tokens"
)

// Connection is what came of asking a provider for one thing.
type Connection struct {
	// Kind is "callers" for signing keys or "credential" for a token.
	Kind string
	// Name is that of the caller or credential in the configuration.
	Name string
	// Detail describes what was got, without showing it.
	Detail string
	// Err is why it was not.
	Err error
}

// Connect loads the signing keys of every caller and fetches one token for
// every credential, and returns what came of each, callers first. It blocks for
// as long as the providers may take. The error is one of the configuration.
func Connect(ctx context.Context, cfg *config.Config) ([]Connection, error) {
	cache, err := tokens.NewCache(maxEntries)
	if err != nil {
		return nil, err
	}
	defer cache.Close()
	p := parts{
		logger: slog.New(slog.DiscardHandler), cache: cache,
		measure: func(source tokens.Source, _ string) tokens.Source { return source },
	}
	g, err := p.build(cfg, nil)
	if err != nil {
		return nil, err
	}
	defer g.close(nil)
	var results []Connection
	for _, name := range slices.Sorted(maps.Keys(g.callers)) {
		results = append(results, g.callers[name].connect(ctx, name))
	}
	for _, name := range slices.Sorted(maps.Keys(g.credentials)) {
		results = append(results, g.credentials[name].connect(ctx, name))
	}
	return results, nil
}

func (v *verifier) connect(ctx context.Context, name string) Connection {
	ctx, cancel := context.WithTimeout(ctx, v.provider.cfg.Timeout)
	defer cancel()
	c := Connection{Kind: "callers", Name: name}
	if v.readsJWTs() {
		if c.Err = v.provider.keys.Load(ctx); c.Err != nil {
			return c
		}
		c.Detail = fmt.Sprintf("%d signing keys of %s", v.provider.keys.Len(), v.provider.Issuer())
	}
	if v.asks == nil {
		return c
	}
	if _, c.Err = v.asks.Introspect(ctx, madeUpToken); c.Err != nil {
		return c
	}
	if c.Detail != "" {
		c.Detail += ", "
	}
	c.Detail += "our client may introspect at " + v.provider.Issuer()
	return c
}

// madeUpToken is shown to a provider to see whether it answers our client.
const madeUpToken = "rebearer-asks-whether-it-may-ask" //nolint:gosec // it is no secret

func (n *credential) connect(ctx context.Context, name string) Connection {
	ctx, cancel := context.WithTimeout(ctx, n.provider.cfg.Timeout)
	defer cancel()
	c := Connection{Kind: "credential", Name: name}
	grant, err := n.source.Grant(ctx, tokens.GrantRequest{})
	if err != nil {
		c.Err = err
		return c
	}
	life := "states no expiry"
	if grant.ExpiresIn > 0 {
		life = fmt.Sprintf("expires in %v", grant.ExpiresIn.Round(time.Second))
	}
	c.Detail = fmt.Sprintf("Bearer token, %s, fingerprint %s", life, tokens.FingerprintOf(grant.AccessToken.Reveal()))
	return c
}
