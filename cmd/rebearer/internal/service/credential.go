package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/telemetry"
	"github.com/rebearer/rebearer/envoy/hook"
	"github.com/rebearer/rebearer/envoy/rejection"
	"github.com/rebearer/rebearer/envoy/secrets"
	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

// credential is a backend token, and who gets it.
type credential struct {
	*tokens.Credential
	cfg     config.Credential
	file    string // digest of the token file
	members []member
	over    *oauth.Failover    // of the members; nil where a file has the token
	static  *oauth.StaticToken // nil unless a file has the token
	refresh *oauth.RefreshFile // nil but for the grant refresh_token
	target  hook.Target

	publisher *secrets.Publisher // nil where nobody is told of its tokens
}

// refreshFile returns what keeps a credential's refresh token: it goes on with the
// one that is kept already, which may be one that could not be written.
func (p parts) refreshFile(old *graph, cfg config.Credential) (*oauth.RefreshFile, error) {
	if cfg.TokenFile != "" || cfg.Grant != config.GrantRefreshToken {
		return nil, nil //nolint:nilnil // there is none to keep
	}
	made, err := oauth.NewRefreshFile(p.logger, oauth.RefreshFileConfig{
		File: cfg.RefreshToken.File, StateFile: cfg.RefreshToken.StateFile, Expiry: cfg.Expiry.RefreshToken,
	})
	if err != nil {
		return nil, err
	}
	for _, o := range old.credentials {
		if o.refresh != nil {
			made.Adopt(o.refresh)
		}
	}
	return made, nil
}

// member is one of a credential's clients.
type member struct {
	provider *provider
	source   *oauth.TokenSource
	asks     telemetry.Introspector // as the same client
}

func (p parts) addCredential(g, old *graph, name string, cfg config.Credential) error {
	file, err := digest(cfg.TokenFile)
	if err != nil {
		return fmt.Errorf("credentials.%s.token_file: %w", name, err)
	}
	o := old.credentials[name]
	if o != nil && reflect.DeepEqual(o.cfg, cfg) && o.file == file && o.stands(g.providers) {
		g.credentials[name] = o
		return nil
	}
	n := &credential{cfg: cfg, file: file}
	if n.refresh, err = p.refreshFile(old, cfg); err == nil {
		err = p.makeCredential(n, g.providers, name)
	}
	if err != nil {
		return fmt.Errorf("credentials.%s: %w", name, err)
	}
	if o != nil {
		n.Adopt(o.Credential)
	}
	g.credentials[name] = n
	return nil
}

// stands reports whether the clients' providers are still the same.
func (n *credential) stands(providers map[string]*provider) bool {
	for i, m := range n.members {
		if providers[n.cfg.Clients[i].Provider] != m.provider {
			return false
		}
	}
	return true
}

// makeCredential makes what n is configured for.
func (p parts) makeCredential(n *credential, providers map[string]*provider, name string) error {
	source, key, err := p.newSource(n, providers, name)
	if err != nil {
		return err
	}
	rules, err := rules(n.cfg.Rejection)
	if err != nil {
		return err
	}
	cfg := tokens.Config{
		Name: name, Provider: n.provider(), Key: name + "\x00" + key,
		Source: source, Timeout: n.timeout(),
		Expiry: tokens.Expiry{
			Default: n.cfg.Expiry.Default, Max: n.cfg.Expiry.Max, Margin: n.cfg.Expiry.Margin,
			Least: n.cfg.Expiry.Least, Refresh: n.cfg.Expiry.RefreshToken,
		},
		Action: action(n.cfg.Rejection.Action), CoolDown: n.cfg.Rejection.CoolDown,
		OnBehalf: n.cfg.OnBehalfOf(), Bypass: n.cfg.Bypasses(),
		Observer: p.observe,
	}
	if p.publisher != nil {
		n.publisher = p.publisher(name, n.cfg.Header.Scheme)
		cfg.Publish = n.publisher.Publish
	}
	if n.Credential, err = tokens.NewCredential(p.cache, cfg); err != nil {
		return err
	}
	n.target = hook.Target{
		Credential: n.Credential, Header: n.cfg.Header.Name, Scheme: n.cfg.Header.Scheme,
		Statuses: n.cfg.Rejection.Statuses, Methods: n.cfg.Rejection.Methods, Rules: rules,
	}
	if n.cfg.Rejection.Introspect && n.over != nil {
		n.target.Introspect = n.introspect
	}
	return nil
}

// newSource makes the source of a credential's tokens, and what tells them from
// others.
func (p parts) newSource(n *credential, providers map[string]*provider, name string) (tokens.Source, string, error) {
	var err error
	if n.cfg.TokenFile != "" {
		n.static, err = oauth.NewStaticToken(n.cfg.TokenFile)
		return n.static, n.cfg.TokenFile + "\x00" + n.file, err
	}
	var (
		over []oauth.Member
		key  strings.Builder
	)
	for i, c := range n.cfg.Clients {
		m, err := p.newMember(n, c, providers[c.Provider])
		if err != nil {
			return nil, "", fmt.Errorf("clients[%d]: %w", i, err)
		}
		n.members = append(n.members, m)
		source := p.requests.Measure(m.source, telemetry.Client{Credential: name, Provider: c.Provider, ID: c.ID})
		over = append(over, oauth.Member{Source: source, Provider: c.Provider, Client: c.ID})
		own := m.source.Key()
		key.Write(own[:])
	}
	if n.refresh != nil {
		key.WriteString(n.cfg.RefreshToken.File)
	}
	logger := p.logger.With(slog.String("credential", name))
	n.over, err = oauth.NewFailover(over, oauth.FailoverConfig{Changed: func(h oauth.MemberHealth) { report(logger, h) }})
	return n.over, key.String(), err
}

func (p parts) newMember(n *credential, c config.Client, from *provider) (member, error) {
	if from == nil {
		return member{}, fmt.Errorf("no provider %q", c.Provider)
	}
	client, err := newClient(from, c.ClientIdentity)
	if err != nil {
		return member{}, err
	}
	source, err := oauth.NewTokenSource(client, p.logger, n.tokenConfig())
	if err != nil {
		return member{}, err
	}
	return member{
		provider: from, source: source, asks: p.requests.MeasureIntrospection(client, c.Provider),
	}, source.Check()
}

// newClient makes our client at a provider.
func newClient(from *provider, c config.ClientIdentity) (*oauth.Client, error) {
	return oauth.NewClient(from.Provider, oauth.ClientConfig{
		ID: c.ID, AuthMethod: oauth.AuthMethod(c.AuthMethod),
		Secret:  func() (tokens.Secret, error) { return config.ReadSecret(c.SecretFile) },
		KeyFile: c.KeyFile, CertFile: c.CertFile, KeyID: c.KeyID, Algorithm: c.Algorithm, AssertionAudience: c.AssertionAudience,
	})
}

// tokenConfig says which token is asked for, and how.
func (n *credential) tokenConfig() oauth.TokenConfig {
	cfg := n.cfg
	how := oauth.TokenConfig{Grant: oauth.GrantType(cfg.Grant), Scopes: cfg.Scopes, Audience: cfg.Audience, Params: cfg.Params}
	if cfg.Resource != "" {
		how.Resources = []string{cfg.Resource}
	}
	switch x, a := cfg.TokenExchange, cfg.JWTBearer; {
	case cfg.Grant == config.GrantTokenExchange && x != nil:
		how.Exchange = oauth.ExchangeConfig(*x)
	case cfg.Grant == config.GrantJWTBearer && a != nil:
		how.Assertion = &oauth.AssertionConfig{
			Issuer: a.Issuer, Subject: a.Subject, Audience: a.Audience,
			KeyFile: a.KeyFile, KeyID: a.KeyID, Algorithm: a.Algorithm, Lifetime: a.Lifetime, Claims: map[string]any{},
		}
		for name, value := range a.Claims {
			how.Assertion.Claims[name] = value
		}
	case n.refresh != nil:
		how.Store = n.refresh
	}
	return how
}

// report says that a client began to fail, or is well again.
func report(logger *slog.Logger, h oauth.MemberHealth) {
	attrs := []slog.Attr{slog.String("provider", h.Provider), slog.String("client", h.Client)}
	if h.Err != nil {
		attrs = append(attrs, slog.Any("error", h.Err))
	}
	if !h.NextTry.IsZero() {
		attrs = append(attrs, slog.Time("next_try", h.NextTry))
	}
	ctx := context.Background()
	switch {
	case h.Alarm:
		logger.LogAttrs(ctx, slog.LevelError, "a provider refuses our client: check its id, its secret or key, and its rights", attrs...)
	case h.Err != nil:
		logger.LogAttrs(ctx, slog.LevelWarn, "a client gets no token", attrs...)
	default:
		logger.LogAttrs(ctx, slog.LevelInfo, "a client gets tokens again", attrs...)
	}
}

// provider is the name of the preferred one; empty where a file has the token.
func (n *credential) provider() string {
	if len(n.cfg.Clients) == 0 || n.cfg.TokenFile != "" {
		return ""
	}
	return n.cfg.Clients[0].Provider
}

// timeout bounds a fetch, whichever clients it asks: Envoy waits for the longest
// provider and not for all of them one after the other.
func (n *credential) timeout() time.Duration {
	var longest time.Duration
	for _, m := range n.members {
		longest = max(longest, m.provider.cfg.Timeout)
	}
	return longest
}

// health is the state of the clients, in their order.
func (n *credential) health() []oauth.MemberHealth {
	if n.over == nil {
		return nil
	}
	return n.over.Health()
}

// unsaved is why its refresh token is in memory only; nil if it is not.
func (n *credential) unsaved() error {
	if n.refresh == nil {
		return nil
	}
	return n.refresh.Unsaved()
}

// introspectTimeout bounds the question about a token of ours: a caller waits for
// the answer, and for a fresh token after that.
const introspectTimeout = time.Second

// introspect asks whether one of our tokens is active. Who of several clients got
// it is not known any more, so one that says yes is enough, and none may be
// missing for a no.
func (n *credential) introspect(ctx context.Context, token string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, introspectTimeout)
	defer cancel()
	var errs []error
	for _, m := range n.members {
		said, err := m.asks.Introspect(ctx, token)
		switch {
		case err != nil:
			errs = append(errs, err)
		case said.Active:
			return true, nil
		}
	}
	return false, errors.Join(errs...)
}

// rules are the rules for bodies; nil if there are none.
func rules(cfg config.Rejection) (*rejection.Rules, error) {
	var all []rejection.Rule
	for _, r := range cfg.Rules {
		all = append(all, rejection.Rule{
			Name: rejection.CustomPrefix + r.Name, Statuses: r.Statuses, ContentTypes: r.ContentTypes,
			Conditions: []rejection.Condition{{Pointer: r.Pointer, Pattern: r.Matches}}, Verdict: verdict(r.Verdict),
		})
	}
	presets := cfg.Presets
	if slices.Contains(presets, config.PresetAll) {
		presets = rejection.Presets()
	}
	for _, name := range presets {
		preset, ok := rejection.Preset(name)
		if !ok {
			return nil, fmt.Errorf("no preset %q", name)
		}
		all = append(all, preset...)
	}
	if len(all) == 0 {
		return nil, nil
	}
	return rejection.NewRules(all...)
}

func verdict(v config.Verdict) tokens.Verdict {
	if v == config.VerdictNotAllowed {
		return tokens.NotAllowed
	}
	return tokens.Dead
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
