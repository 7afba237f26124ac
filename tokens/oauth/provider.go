package oauth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// Endpoint is one of a provider's endpoints, by the name of its member in the
// provider's metadata (RFC 8414 section 2).
type Endpoint string

// The endpoints that rebearer uses.
const (
	TokenEndpoint         Endpoint = "token_endpoint"
	JWKSEndpoint          Endpoint = "jwks_uri"
	IntrospectionEndpoint Endpoint = "introspection_endpoint"
	RevocationEndpoint    Endpoint = "revocation_endpoint"
)

const (
	defaultTimeout = 5 * time.Second

	// answerLimit bounds token answers and metadata: real ones have a few KiB.
	answerLimit = 64 << 10
	// keysLimit bounds a key set: a hundred keys with certificates fit.
	keysLimit = 512 << 10
)

// ProviderConfig says which authorization server a [Provider] is.
type ProviderConfig struct {
	// Name is the provider's name in the configuration, for errors.
	Name string
	// Issuer is its issuer identifier (RFC 8414 section 2). It may be empty
	// only where every endpoint that is used is given below.
	Issuer string
	// TokenURL, JWKSURL, IntrospectionURL and RevocationURL are used as they
	// are; one that is empty is taken from the provider's metadata.
	TokenURL         string
	JWKSURL          string
	IntrospectionURL string
	RevocationURL    string
	// CAFile names a PEM file of certificates that are trusted instead of the
	// system's. It is read once. Empty means the system's.
	CAFile string
	// Timeout bounds one exchange, from the dial to the last byte of the
	// answer. Zero means 5 s; negative is an error.
	Timeout time.Duration
	// Insecure allows http URLs that are not on loopback.
	Insecure bool
}

// Provider is an authorization server. It is safe for concurrent use and
// starts no exchange before one is needed.
type Provider struct {
	name       string
	issuer     string
	insecure   bool
	configured map[Endpoint]string
	metadata   *discovery
	clock      clock
	transport  *http.Transport // of answers and keys
	timeout    time.Duration   // of one exchange

	// answers and keys differ in how large an answer may be.
	answers *http.Client
	keys    *http.Client
}

// NewProvider checks cfg and reads its CA file. It asks the provider nothing.
func NewProvider(cfg ProviderConfig) (*Provider, error) {
	p := &Provider{
		name:     cfg.Name,
		issuer:   cfg.Issuer,
		insecure: cfg.Insecure,
		timeout:  cfg.Timeout,
		configured: map[Endpoint]string{
			TokenEndpoint:         cfg.TokenURL,
			JWKSEndpoint:          cfg.JWKSURL,
			IntrospectionEndpoint: cfg.IntrospectionURL,
			RevocationEndpoint:    cfg.RevocationURL,
		},
	}
	if err := p.validate(); err != nil {
		return nil, fmt.Errorf("provider %q: %w", cfg.Name, err)
	}
	if cfg.Timeout < 0 {
		return nil, fmt.Errorf("provider %q: timeout is negative", cfg.Name)
	}
	if p.timeout == 0 {
		p.timeout = defaultTimeout
	}
	transport, err := newTransport(cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("provider %q: %w", cfg.Name, err)
	}
	p.transport = transport
	p.answers = p.newAnswers(transport)
	p.keys = newClient(transport, p.timeout, keysLimit)
	p.metadata = &discovery{fetch: p.discover, timeout: p.timeout}
	return p, nil
}

// newAnswers returns a client for every endpoint but the key set.
func (p *Provider) newAnswers(transport http.RoundTripper) *http.Client {
	return newClient(clockTransport{next: transport, clock: &p.clock}, p.timeout, answerLimit)
}

// validate checks the issuer and the configured URLs.
func (p *Provider) validate() error {
	given := 0
	for endpoint, text := range p.configured {
		if text == "" {
			continue
		}
		given++
		if err := checkURL(text, p.insecure); err != nil {
			return fmt.Errorf("%s: %w", endpoint, err)
		}
	}
	if p.issuer == "" {
		if given == 0 {
			return errors.New("neither an issuer nor an endpoint is given")
		}
		return nil
	}
	u, err := url.Parse(p.issuer)
	if err == nil && u.RawQuery != "" {
		return errors.New("issuer: must have no query (RFC 8414 section 2)")
	}
	if err := checkURL(p.issuer, p.insecure); err != nil {
		return fmt.Errorf("issuer: %w", err)
	}
	return nil
}

// Name returns the provider's name in the configuration.
func (p *Provider) Name() string { return p.name }

// Issuer returns the configured issuer identifier; it may be empty.
func (p *Provider) Issuer() string { return p.issuer }

// Skew returns how far the provider's clock is ahead of ours, by the Date header
// of its last answer: up to a second and the time of travel too little. known is
// false before the first answer that has one.
func (p *Provider) Skew() (skew time.Duration, known bool) {
	if noted := p.clock.skew.Load(); noted != nil {
		return *noted, true
	}
	return 0, false
}

// audience returns what names the provider in the audience of an assertion (RFC
// 7523 section 3): its issuer identifier, or else its token endpoint. It is empty
// only where neither is configured.
func (p *Provider) audience() string { return cmp.Or(p.issuer, p.configured[TokenEndpoint]) }

// Endpoint returns the URL of an endpoint: the configured one, or else that of
// the provider's metadata, for which it may block until ctx ends. Its error wraps
// [errors.ErrUnsupported] where there is none.
func (p *Provider) Endpoint(ctx context.Context, endpoint Endpoint) (string, error) {
	if text := p.configured[endpoint]; text != "" {
		return text, nil
	}
	if p.issuer == "" {
		return "", fmt.Errorf("provider %q: no %s is configured, and no issuer to discover it: %w", p.name, endpoint, errors.ErrUnsupported)
	}
	found, err := p.metadata.get(ctx)
	if err != nil {
		return "", fmt.Errorf("provider %q: metadata: %w", p.name, err)
	}
	text, ok := found[endpoint]
	if !ok {
		return "", fmt.Errorf("provider %q: its metadata names no %s: %w", p.name, endpoint, errors.ErrUnsupported)
	}
	return text, nil
}

// JWKS returns the provider's JSON Web Key Set (RFC 7517 section 5) as it was
// sent: at most 512 KiB, and otherwise unchecked. It blocks until ctx ends at
// most, and does not cache.
func (p *Provider) JWKS(ctx context.Context) ([]byte, error) {
	address, err := p.Endpoint(ctx, JWKSEndpoint)
	if err != nil {
		return nil, err
	}
	body, err := get(ctx, p.keys, address)
	if err != nil {
		return nil, fmt.Errorf("provider %q: keys from %s: %w", p.name, address, err)
	}
	return body, nil
}

// get returns the body of a successful GET. Its errors are fit for logs.
func get(ctx context.Context, client *http.Client, address string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, errors.New("not a URL that can be asked")
	}
	request.Header.Set("Accept", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return nil, exchangeError(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", response.StatusCode)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, exchangeError(err)
	}
	return body, nil
}

// checkURL reports why text is not a URL that secrets and tokens may go to.
func checkURL(text string, insecure bool) error {
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Host == "", u.Opaque != "":
		return errors.New("not an absolute URL")
	case u.User != nil:
		return errors.New("must hold no user or password")
	case u.Fragment != "":
		return errors.New("must have no fragment")
	case u.Scheme == "https":
		return nil
	case u.Scheme != "http":
		return errors.New("must be an https URL")
	case !insecure && !loopback(u.Hostname()):
		return errors.New("must be an https URL: http is for loopback only")
	}
	return nil
}

// loopback reports whether host is this machine, without asking DNS.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
