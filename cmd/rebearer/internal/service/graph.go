package service

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/telemetry"
	"github.com/rebearer/rebearer/envoy/secrets"
	"github.com/rebearer/rebearer/extauthz"
	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

// graph is everything that one configuration describes. It is not changed once
// it is built.
type graph struct {
	cfg         *config.Config
	providers   map[string]*provider
	callers     map[string]*verifier
	credentials map[string]*credential
	policies    []extauthz.Policy
	unasked     []int          // statuses whose requests Envoy sends again unasked
	hashes      []string       // of Envoy's configurations; none are not compared
	loading     sync.WaitGroup // first loads of key sets
	loaded      atomic.Bool    // they are over, with whatever result
}

// The nodes of a graph know what they were built from, so that the next graph
// can tell whether it may keep them.
type provider struct {
	*oauth.Provider
	cfg  config.Provider
	file string // digest of the CA file
	keys *caller.KeySet
}

// parts are what graphs are built with.
type parts struct {
	logger   *slog.Logger
	cache    *tokens.Cache
	requests *telemetry.Requests // nil measures nothing
	observe  tokens.Observer
	// publisher makes what is told of a credential's tokens, given its name and
	// scheme; nil if nobody is.
	publisher func(credential, scheme string) *secrets.Publisher
	revoked   *caller.Revocations // of all graphs; nil for none
}

// build makes the graph of cfg, and keeps from old, which may be nil, what did
// not change. On an error everything new is closed again.
func (p parts) build(cfg *config.Config, old *graph) (*graph, error) {
	if old == nil {
		old = &graph{}
	}
	g := &graph{
		cfg:         cfg,
		unasked:     cfg.UnaskedStatuses(),
		providers:   map[string]*provider{},
		callers:     map[string]*verifier{},
		credentials: map[string]*credential{},
	}
	err := errors.Join(
		each(cfg.Providers, func(name string, c config.Provider) error { return p.addProvider(g, old, name, c) }),
		each(cfg.Callers, func(name string, c config.Caller) error { return p.addCaller(g, old, name, c) }),
		each(cfg.Credentials, func(name string, c config.Credential) error { return p.addCredential(g, old, name, c) }),
		each(cfg.Policies, g.addPolicy),
	)
	if err != nil {
		g.close(old)
		return nil, err
	}
	return g, nil
}

// each calls f for every entry, in the order of the names, up to an error.
func each[V any](m map[string]V, f func(string, V) error) error {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if err := f(name, m[name]); err != nil {
			return err
		}
	}
	return nil
}

func (p parts) addProvider(g, old *graph, name string, cfg config.Provider) error {
	file, err := digest(cfg.CAFile)
	if err != nil {
		return fmt.Errorf("providers.%s.ca_file: %w", name, err)
	}
	if o := old.providers[name]; o != nil && o.cfg == cfg && o.file == file {
		g.providers[name] = o
		return nil
	}
	made, err := oauth.NewProvider(oauth.ProviderConfig{
		Name: name, Issuer: cfg.Issuer,
		TokenURL: cfg.TokenURL, JWKSURL: cfg.JWKSURL,
		IntrospectionURL: cfg.IntrospectionURL, RevocationURL: cfg.RevocationURL,
		CAFile: cfg.CAFile, Timeout: cfg.Timeout, Insecure: cfg.Insecure,
	})
	if err != nil {
		return err
	}
	logger := p.logger.With(slog.String("provider", name))
	keys := caller.NewKeySet(made, logger)
	if o := old.providers[name]; o != nil && o.cfg.Issuer == cfg.Issuer && o.cfg.JWKSURL == cfg.JWKSURL {
		keys.Adopt(o.keys)
	}
	g.providers[name] = &provider{Provider: made, cfg: cfg, file: file, keys: keys}
	return nil
}

// digest tells the contents of a file from others. That of no file is empty.
func digest(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

func (g *graph) addPolicy(name string, cfg config.Policy) error {
	c, ok := g.credentials[cfg.Credential]
	if !ok {
		return fmt.Errorf("policies.%s: no credential %q", name, cfg.Credential)
	}
	policy := extauthz.Policy{
		Name: name, Anonymous: cfg.Anonymous, Hosts: cfg.Hosts, Preflight: cfg.Preflight == config.PreflightAllow,
		Require: extauthz.Requirement{
			Scopes: cfg.Scopes, AnyScopes: cfg.AnyScopes, Clients: cfg.Clients, Claims: cfg.Claims,
		},
		Credential: c.Credential,
		Bypass:     cfg.Cache == config.CacheBypass,
		Header:     extauthz.Header{Name: c.cfg.Header.Name, Scheme: c.cfg.Header.Scheme},
		Forward:    extauthz.Forward(cfg.Forward),
	}
	if cfg.TokenFrom != nil {
		policy.TokenFrom = extauthz.Place(*cfg.TokenFrom)
	}
	if len(cfg.Callers) > 0 {
		group, err := g.group(cfg.Callers)
		if err != nil {
			return fmt.Errorf("policies.%s: %w", name, err)
		}
		policy.Callers = group
	}
	g.policies = append(g.policies, policy)
	return nil
}

// close closes what g has and kept has not. A nil kept has nothing.
func (g *graph) close(kept *graph) {
	if kept == nil {
		kept = &graph{}
	}
	for name, c := range g.credentials {
		if kept.credentials[name] != c {
			c.Close()
		}
	}
	for name, v := range g.callers {
		if kept.callers[name] != v {
			v.Close()
		}
	}
}

// warm asks every provider once: it starts the fetch of every backend token and
// loads every key set that callers need.
func (g *graph) warm(ctx context.Context, logger *slog.Logger) {
	for _, c := range g.credentials {
		c.Warm()
	}
	for _, v := range g.callers {
		if !v.readsJWTs() {
			continue // asking about no token in particular would say little
		}
		g.loading.Go(func() {
			if err := v.provider.keys.Load(ctx); err != nil {
				logger.LogAttrs(ctx, slog.LevelWarn, "keys of callers' tokens cannot be loaded yet", slog.Any("error", err))
			}
		})
	}
	go func() {
		g.loading.Wait()
		g.loaded.Store(true)
	}()
}

// tried reports whether every provider was asked once, with whatever result.
func (g *graph) tried() bool {
	if !g.loaded.Load() {
		return false
	}
	for _, c := range g.credentials {
		if s := c.Status(); !s.OnRequest && s.Token.Generation == 0 && s.Failures == 0 && !s.Paused {
			return false
		}
	}
	return true
}

// pushed are the publishers of the credentials whose tokens are handed to Envoy.
func (g *graph) pushed() []*secrets.Publisher {
	var pushed []*secrets.Publisher
	for _, policy := range g.cfg.Policies {
		if p := g.credentials[policy.Credential].publisher; policy.Delivery == config.DeliveryPush && p != nil {
			pushed = append(pushed, p)
		}
	}
	return pushed
}

// clients returns the state of every credential's clients.
func (g *graph) clients() []telemetry.ClientState {
	var list []telemetry.ClientState
	for _, name := range slices.Sorted(maps.Keys(g.credentials)) {
		for _, h := range g.credentials[name].health() {
			list = append(list, telemetry.ClientState{Credential: name, MemberHealth: h})
		}
	}
	return list
}

// unsaved returns the credentials with a refresh token, and whether that is in
// memory only.
func (g *graph) unsaved() map[string]bool {
	all := map[string]bool{}
	for name, c := range g.credentials {
		if c.refresh != nil {
			all[name] = c.unsaved() != nil
		}
	}
	return all
}

// providerStates returns what is known of every provider.
func (g *graph) providerStates() []telemetry.ProviderState {
	var list []telemetry.ProviderState
	for _, name := range slices.Sorted(maps.Keys(g.providers)) {
		p := g.providers[name]
		state := telemetry.ProviderState{Name: name}
		state.Skew, state.SkewKnown = p.Skew()
		state.KeysAge, state.KeysKnown = p.keys.Age()
		list = append(list, state)
	}
	return list
}

// statuses returns the state of every credential, by name.
func (g *graph) statuses() []tokens.Status {
	list := make([]tokens.Status, 0, len(g.credentials))
	for _, name := range slices.Sorted(maps.Keys(g.credentials)) {
		list = append(list, g.credentials[name].Status())
	}
	return list
}

// longestTimeout is the longest that a provider may take.
func longestTimeout(cfg *config.Config) time.Duration {
	var longest time.Duration
	for _, p := range cfg.Providers {
		longest = max(longest, p.Timeout)
	}
	return longest
}
