package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-oauth2/oauth2/v4"
	"github.com/go-oauth2/oauth2/v4/manage"
	"github.com/go-oauth2/oauth2/v4/server"
)

// Format is what the provider's access tokens look like.
type Format int

// The formats.
const (
	// Opaque tokens are random text that only the provider understands.
	Opaque Format = iota
	// JWT tokens are signed and carry their claims (RFC 9068).
	JWT
)

// Fault is a way in which every endpoint of a provider misbehaves.
type Fault int

// The faults.
const (
	// FaultNone is no fault.
	FaultNone Fault = iota
	// FaultGarbage answers 200 with a body that is not JSON.
	FaultGarbage
	// FaultError answers 500.
	FaultError
	// FaultClose closes the connection without an answer.
	FaultClose
)

// defaultTTL is the lifetime of a token where the configuration names none.
const defaultTTL = time.Hour

// Client is an OAuth client that the provider knows.
type Client struct {
	// ID is the client_id; it must not be empty.
	ID string
	// Secret is the client_secret, for client_secret_basic and
	// client_secret_post; it must not be empty.
	Secret string
}

// Config describes a provider.
type Config struct {
	// Issuer is the provider's own URL without a path, such as
	// http://127.0.0.1:8080. All endpoints are named below it.
	Issuer string
	// Clients are those that may ask for tokens. None means that every
	// request for one is refused.
	Clients []Client
	// Tokens is the format of the tokens; zero is Opaque.
	Tokens Format
	// Algorithm signs JWTs: ES256, which is also the zero value's meaning, or
	// RS256.
	Algorithm jose.SignatureAlgorithm
	// Audiences is the aud of every token; empty leaves it out.
	Audiences []string
	// TTL is the lifetime of a token; zero means one hour. Whole seconds, as
	// expires_in knows no others.
	TTL time.Duration
}

// validate checks the configuration and fills in its defaults.
func (c *Config) validate() error {
	issuer, err := url.Parse(c.Issuer)
	if err != nil || issuer.Host == "" || issuer.Path != "" {
		return fmt.Errorf("issuer %q is not a URL of scheme and host", c.Issuer)
	}
	for _, client := range c.Clients {
		if client.ID == "" || client.Secret == "" {
			return errors.New("a client lacks its id or its secret")
		}
	}
	if c.Algorithm == "" {
		c.Algorithm = jose.ES256
	}
	if c.TTL < 0 {
		return errors.New("the lifetime of tokens is negative")
	}
	if c.TTL == 0 {
		c.TTL = defaultTTL
	}
	return nil
}

// Counts is what has happened at a provider since it was made.
type Counts struct {
	// TokenRequests is how many requests reached the token endpoint, whatever
	// became of them.
	TokenRequests int
	// ByClient is the same by the client_id that the request claimed; "" for
	// requests without one.
	ByClient map[string]int
	// Issued is how many of them were answered with a token.
	Issued int
	// Introspections is how many requests reached the introspection endpoint.
	Introspections int
	// Restarts is how often Restart was called.
	Restarts int
}

// Provider is an authorization server. It is an [http.Handler] and safe for
// concurrent use. [New] makes one.
type Provider struct {
	cfg     Config
	clients clientStore
	mux     *http.ServeMux

	// mu makes a restart atomic: requests are handled under its read lock,
	// and what they depend on changes under its write lock.
	mu      sync.RWMutex
	key     signingKey
	manager *manage.Manager
	oauth   *server.Server
	delay   time.Duration
	fault   Fault

	countsMu sync.Mutex
	counts   Counts
}

// New makes a provider. It listens nowhere by itself: serve it at cfg.Issuer.
func New(cfg Config) (*Provider, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("provider: %w", err)
	}
	cfg.Clients, cfg.Audiences = slices.Clone(cfg.Clients), slices.Clone(cfg.Audiences)
	key, err := newSigningKey(cfg.Algorithm)
	if err != nil {
		return nil, fmt.Errorf("provider: %w", err)
	}
	p := &Provider{cfg: cfg, key: key, clients: newClientStore(cfg.Clients)}
	p.counts.ByClient = make(map[string]int)
	p.manager = manage.NewManager()
	p.manager.MapClientStorage(p.clients)
	p.manager.MapTokenStorage(newTokenStore())
	p.manager.MapAccessGenerate(accessGenerator{p})
	p.manager.SetClientTokenCfg(&manage.Config{AccessTokenExp: cfg.TTL})
	p.oauth = server.NewServer(&server.Config{
		TokenType:         "Bearer",
		AllowedGrantTypes: []oauth2.GrantType{oauth2.ClientCredentials},
	}, p.manager)
	p.oauth.ClientInfoHandler = clientOf
	p.oauth.ResponseErrorHandler = challengeClient
	p.mux = p.endpoints()
	return p, nil
}

// Issuer returns the provider's URL.
func (p *Provider) Issuer() string { return p.cfg.Issuer }

// TokenURL returns the URL of the token endpoint.
func (p *Provider) TokenURL() string { return p.cfg.Issuer + tokenPath }

// Restart voids every token and replaces the keys, in one step: a request is
// handled wholly before or wholly after it. It waits for the requests that are
// being handled, but not for those that are held by [Provider.SetDelay]; they
// are handled after it. It fails only if no new key can be made, and then
// changes nothing.
func (p *Provider) Restart() error {
	key, err := newSigningKey(p.cfg.Algorithm)
	if err != nil {
		return fmt.Errorf("restarting the provider: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.key = key
	p.manager.MapTokenStorage(newTokenStore())
	p.count(func(c *Counts) { c.Restarts++ })
	return nil
}

// Valid reports whether the provider issued the token, and it is neither
// expired, nor revoked, nor void by a restart.
func (p *Provider) Valid(token string) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	_, err := p.manager.LoadAccessToken(context.Background(), token)
	return err == nil
}

// Sign signs any claims as a JWT with the present key, whatever the provider's
// format: for tests that need a token the token endpoint would never answer.
// The token is not [Provider.Valid], only its signature is good.
func (p *Provider) Sign(claims any) (string, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.key.sign(claims)
}

// SetDelay makes every request wait before it is handled; zero ends that for
// the requests to come.
func (p *Provider) SetDelay(delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = delay
}

// SetFault makes every endpoint misbehave; FaultNone ends that.
func (p *Provider) SetFault(fault Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
}

// SetTTL sets the lifetime of the tokens to come, in whole seconds. A lifetime
// that is not positive is ignored.
func (p *Provider) SetTTL(ttl time.Duration) {
	if ttl <= 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.manager.SetClientTokenCfg(&manage.Config{AccessTokenExp: ttl})
}

// Counts returns a copy of the counts.
func (p *Provider) Counts() Counts {
	p.countsMu.Lock()
	defer p.countsMu.Unlock()
	counts := p.counts
	counts.ByClient = maps.Clone(counts.ByClient)
	return counts
}

func (p *Provider) count(change func(*Counts)) {
	p.countsMu.Lock()
	defer p.countsMu.Unlock()
	change(&p.counts)
}

// accessGenerator makes the access tokens. The library calls it while the
// provider handles a request, that is under the provider's read lock.
type accessGenerator struct{ provider *Provider }

// Token implements the library's AccessGenerate. There are no refresh tokens.
func (g accessGenerator) Token(_ context.Context, data *oauth2.GenerateBasic, _ bool) (access, refresh string, err error) {
	if g.provider.cfg.Tokens == Opaque {
		return randomText(), "", nil
	}
	access, err = g.provider.key.sign(g.provider.claims(data.TokenInfo))
	return access, "", err
}

// claims are those of RFC 9068 section 2.2, which introspection answers too
// (RFC 7662 section 2.2).
func (p *Provider) claims(token oauth2.TokenInfo) map[string]any {
	issued := token.GetAccessCreateAt()
	claims := map[string]any{
		"iss":       p.cfg.Issuer,
		"sub":       token.GetClientID(),
		"client_id": token.GetClientID(),
		"iat":       issued.Unix(),
		"exp":       issued.Add(token.GetAccessExpiresIn()).Unix(),
		"jti":       randomText(),
	}
	if len(p.cfg.Audiences) > 0 {
		claims["aud"] = p.cfg.Audiences
	}
	if scope := strings.TrimSpace(token.GetScope()); scope != "" {
		claims["scope"] = scope
	}
	return claims
}
