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

// Check reports what only shows when a configuration is put together, such as a
// key that does not fit its algorithm, and a token file that holds no token. It
// asks no provider.
func Check(cfg *config.Config) error {
	return withGraph(cfg, func(g *graph) error {
		return each(g.credentials, func(name string, n *credential) error {
			if n.static == nil {
				return nil
			}
			if _, err := n.static.Grant(context.Background(), tokens.GrantRequest{}); err != nil {
				return fmt.Errorf("credentials.%s: %w", name, err)
			}
			return nil
		})
	})
}

// Connect loads the signing keys of every caller and fetches one token with
// every client of every credential, and returns what came of each, callers
// first. It blocks for as long as the providers may take. The error is one of
// the configuration.
func Connect(ctx context.Context, cfg *config.Config) ([]Connection, error) {
	var results []Connection
	err := withGraph(cfg, func(g *graph) error {
		for _, name := range slices.Sorted(maps.Keys(g.callers)) {
			results = append(results, g.callers[name].connect(ctx, name))
		}
		for _, name := range slices.Sorted(maps.Keys(g.credentials)) {
			results = append(results, g.credentials[name].connect(ctx, name)...)
		}
		return nil
	})
	return results, err
}

// withGraph builds what cfg describes, beside any service, and closes it after
// do.
func withGraph(cfg *config.Config, do func(*graph) error) error {
	cache, err := tokens.NewCache(tokens.MinCacheBytes)
	if err != nil {
		return err
	}
	defer cache.Close()
	g, err := parts{logger: slog.New(slog.DiscardHandler), cache: cache}.build(cfg, nil)
	if err != nil {
		return err
	}
	defer g.close(nil)
	return do(g)
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

// connect fetches a token with each of the clients: the later ones are those that
// nobody tries before they are needed.
func (n *credential) connect(ctx context.Context, name string) []Connection {
	if n.static != nil {
		grant, err := n.static.Grant(ctx, tokens.GrantRequest{})
		c := Connection{Kind: "credential", Name: name, Err: err}
		if err == nil {
			c.Detail = "token of " + n.cfg.TokenFile + ", fingerprint " + string(tokens.FingerprintOf(grant.AccessToken.Reveal()))
		}
		return []Connection{c}
	}
	results := make([]Connection, len(n.members))
	for i, m := range n.members {
		c := Connection{Kind: "credential", Name: name}
		if len(n.members) > 1 {
			c.Name += " at " + n.cfg.Clients[i].Provider
		}
		c.Detail, c.Err = m.connect(ctx)
		results[i] = c
	}
	return results
}

// connect fetches one token, and describes it.
func (m member) connect(ctx context.Context) (string, error) {
	if m.source.OnBehalf() {
		return "not asked: tokens are on behalf of callers", nil
	}
	ctx, cancel := context.WithTimeout(ctx, m.provider.cfg.Timeout)
	defer cancel()
	grant, err := m.source.Grant(ctx, tokens.GrantRequest{})
	if err != nil {
		return "", err
	}
	life := "states no expiry"
	if grant.ExpiresIn > 0 {
		life = fmt.Sprintf("expires in %v", grant.ExpiresIn.Round(time.Second))
	}
	return fmt.Sprintf("Bearer token, %s, fingerprint %s", life, tokens.FingerprintOf(grant.AccessToken.Reveal())), nil
}
