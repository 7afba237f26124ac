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
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
	"github.com/rebearer/rebearer/envoy/hook"
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
	loading     sync.WaitGroup // first loads of key sets
	loaded      atomic.Bool    // they are over, with whatever result
}

// The nodes of a graph know what they were built from, so that the next graph
// can tell whether it may keep them.
type (
	provider struct {
		*oauth.Provider
		cfg  config.Provider
		file string // digest of the CA file
		keys *caller.KeySet
	}
	verifier struct {
		caller.Verifier
		cfg      config.Caller
		claims   []string // that policies look at
		provider *provider
		asks     *oauth.Introspector // nil unless it introspects
	}
	credential struct {
		*tokens.Credential
		cfg      config.Credential
		provider *provider
		source   tokens.Source
		target   hook.Target
	}
)

// parts are what graphs are built with.
type parts struct {
	logger  *slog.Logger
	cache   *tokens.Cache
	measure func(source tokens.Source, provider string) tokens.Source
	observe tokens.Observer
	revoked *caller.Revocations // of all graphs; nil for none
}

// build makes the graph of cfg, and keeps from old, which may be nil, what did
// not change. On an error everything new is closed again.
func (p parts) build(cfg *config.Config, old *graph) (*graph, error) {
	if old == nil {
		old = &graph{}
	}
	g := &graph{
		cfg:         cfg,
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
	client := v.cfg.Client
	asks, err := oauth.NewIntrospector(v.provider.Provider, oauth.Client{
		ID:         client.ID,
		Secret:     func() (tokens.Secret, error) { return config.ReadSecret(client.SecretFile) },
		AuthMethod: oauth.AuthMethod(client.AuthMethod),
	})
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
	return caller.NewOpaque(asks, logger, cfg)
}

func (p parts) addCredential(g, old *graph, name string, cfg config.Credential) error {
	client := cfg.Clients[0]
	from, ok := g.providers[client.Provider]
	if !ok {
		return fmt.Errorf("credentials.%s: no provider %q", name, client.Provider)
	}
	if o := old.credentials[name]; o != nil && reflect.DeepEqual(o.cfg, cfg) && o.provider == from {
		g.credentials[name] = o
		return nil
	}
	source, key, err := newSource(from, cfg, client)
	if err != nil {
		return fmt.Errorf("credentials.%s: %w", name, err)
	}
	made, err := tokens.NewCredential(p.cache, tokens.Config{
		Name: name, Provider: client.Provider, Key: name + "\x00" + key,
		Source:   p.measure(source, client.Provider),
		Timeout:  from.cfg.Timeout,
		Expiry:   tokens.Expiry{Default: cfg.Expiry.Default, Max: cfg.Expiry.Max, Margin: cfg.Expiry.Margin},
		Action:   action(cfg.Rejection.Action),
		CoolDown: cfg.Rejection.CoolDown,
		Observer: p.observe,
	})
	if err != nil {
		return err
	}
	if o := old.credentials[name]; o != nil {
		made.Adopt(o.Credential)
	}
	g.credentials[name] = &credential{
		Credential: made, cfg: cfg, provider: from, source: source,
		target: hook.Target{
			Credential: made, Header: cfg.Header.Name, Scheme: cfg.Header.Scheme,
			Statuses: cfg.Rejection.Statuses, Methods: cfg.Rejection.Methods,
		},
	}
	return nil
}

// newSource makes the source of a credential's tokens, and what tells its
// tokens from others.
func newSource(from *provider, cfg config.Credential, client config.Client) (tokens.Source, string, error) {
	var resources []string
	if cfg.Resource != "" {
		resources = []string{cfg.Resource}
	}
	source, err := oauth.NewClientCredentials(from.Provider, oauth.ClientConfig{
		ID:         client.ID,
		Secret:     func() (tokens.Secret, error) { return config.ReadSecret(client.SecretFile) },
		AuthMethod: oauth.AuthMethod(client.AuthMethod),
		Scopes:     cfg.Scopes, Audience: cfg.Audience, Resources: resources, Params: cfg.Params,
	})
	if err != nil {
		return nil, "", err
	}
	key := source.Key()
	return source, string(key[:]), nil
}

func action(a config.Action) tokens.Action {
	switch a {
	case config.ActionObserve:
		return tokens.Observe
	case config.ActionEvict:
		return tokens.Evict
	case config.ActionRetry:
	}
	return tokens.Retry
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
		if s := c.Status(); s.Token.Generation == 0 && s.Failures == 0 && !s.Paused {
			return false
		}
	}
	return true
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
