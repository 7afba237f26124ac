package render

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	credentialinjectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/credential_injector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	genericv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/injected_credentials/generic/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rebearer/rebearer/envoy"
)

// Push says what Envoy does by itself for a policy: which callers it lets pass,
// and whose token it sends.
type Push struct {
	// Credential is the name of the credential whose token is sent. It reaches
	// Envoy as the secret [envoy.SecretName].
	Credential string
	// Header is the request header that the token is sent in, in lower case.
	// Empty means authorization.
	Header string
	// Callers are the names of those of [Config.Callers] that may pass: the
	// token of any one is enough. None means that nobody's token is looked at.
	Callers []string
	// TokenHeader and TokenScheme are where a caller's token is, and what
	// stands before it. Empty means authorization and Bearer. Envoy takes the
	// header out of the request.
	TokenHeader, TokenScheme string
	// Hosts are the hosts that are served: a name or address without a port,
	// or *.name. Nil means all.
	Hosts []string
	// Scopes must all be in the token, of AnyScopes one.
	Scopes, AnyScopes []string
	// Claims must be in the token, each with one of these values; a claim that
	// is a list must hold one. Numbers and booleans are given as JSON writes
	// them.
	Claims map[string][]string
	// Clients are the client ids that may call. Nil means all.
	Clients []string
	// Strip are further request headers, in lower case, that a caller's own do
	// not get through in: those in which the check tells backends who calls.
	Strip []string
}

// Caller says whose tokens Envoy accepts in push mode.
type Caller struct {
	// Name is what [Push.Callers] calls it.
	Name string
	// Issuer is the iss of the tokens. Required.
	Issuer string
	// Audiences are those of which a token's aud must hold one. Required.
	Audiences []string
	// JWKSURL is where Envoy gets the keys (RFC 7517): http or https.
	// Required.
	JWKSURL string
	// CAFile holds the certificates that an https JWKSURL's must be signed by.
	// Empty means /etc/ssl/certs/ca-certificates.crt.
	CAFile string
	// ClockSkew is how far the issuer's clock may be off, in whole seconds, at
	// least one.
	ClockSkew time.Duration
	// Algorithms are the signature algorithms that are accepted. Nil means
	// every one that fits a key.
	Algorithms []string
	// RequiredClaims must be in every token, whatever their values.
	RequiredClaims []string
}

func (p *Push) header() string {
	if p.Header == "" {
		return authorization
	}
	return p.Header
}

const authorization = "authorization"

func (p *Push) validate(callers []Caller) error {
	if p == nil {
		return nil
	}
	var errs []error
	if p.Credential == "" {
		errs = append(errs, errors.New("needs a credential"))
	}
	for _, name := range append([]string{p.Header, p.TokenHeader}, p.Strip...) {
		if name != "" && !headerName.MatchString(name) {
			errs = append(errs, fmt.Errorf("%q is not a header name in lower case", name))
		}
	}
	for _, name := range p.Callers {
		if !slices.ContainsFunc(callers, func(c Caller) bool { return c.Name == name }) {
			errs = append(errs, fmt.Errorf("there is no caller %q", name))
		}
	}
	if len(p.Callers) == 0 && len(p.Scopes)+len(p.AnyScopes)+len(p.Claims)+len(p.Clients) > 0 {
		errs = append(errs, errors.New("scopes, claims and clients need callers"))
	}
	return errors.Join(errs...)
}

func (c Config) validateCallers() error {
	var errs []error
	seen := map[string]bool{}
	for _, caller := range c.Callers {
		if err := caller.validate(); err != nil {
			errs = append(errs, fmt.Errorf("caller %s: %w", caller.Name, err))
		}
		if seen[caller.Name] {
			errs = append(errs, fmt.Errorf("caller %s: is given twice", caller.Name))
		}
		seen[caller.Name] = true
	}
	return errors.Join(errs...)
}

func (c Caller) validate() error {
	var errs []error
	if !policyName.MatchString(c.Name) {
		errs = append(errs, fmt.Errorf("%q is not a plain name", c.Name))
	}
	if c.Issuer == "" || len(c.Audiences) == 0 {
		errs = append(errs, errors.New("needs an issuer and audiences"))
	}
	if c.ClockSkew < time.Second || c.ClockSkew%time.Second != 0 {
		errs = append(errs, fmt.Errorf("clock skew: Envoy takes whole seconds from 1s on, not %v", c.ClockSkew))
	}
	if _, err := parseJWKS(c); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// parseJWKS returns where the keys of a caller's issuer are.
func parseJWKS(c Caller) (backend, error) {
	u, err := url.Parse(c.JWKSURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return backend{}, fmt.Errorf("JWKS URL: %q is not one that Envoy can get", c.JWKSURL)
	}
	host := u.Host
	if u.Port() == "" {
		host += map[string]string{"http": ":80", "https": ":443"}[u.Scheme]
	}
	return parseBackend(Route{Backend: u.Scheme + "://" + host, CAFile: c.CAFile})
}

// pushes reports whether any route is in push mode.
func (b *builder) pushes() bool { return len(b.pushRoutes()) > 0 }

func (b *builder) pushRoutes() []Route {
	return slices.DeleteFunc(slices.Clone(b.cfg.Routes), func(r Route) bool { return r.Push == nil })
}

func (b *builder) checkRoutes() []Route {
	return slices.DeleteFunc(slices.Clone(b.cfg.Routes), func(r Route) bool { return r.Push != nil })
}

// secretWait is how long Envoy waits for a token before it begins to listen.
const secretWait = 5 * time.Second

// injector puts the token that Envoy was told into the request, in place of what
// is there. While there is none Envoy answers by itself: see missingSecret.
func (b *builder) injector(p *Push) *hcmv3.HttpFilter {
	source := &corev3.ApiConfigSource{
		ApiType:                   corev3.ApiConfigSource_GRPC,
		TransportApiVersion:       corev3.ApiVersion_V3,
		SetNodeOnFirstMessageOnly: true,
		GrpcServices: []*corev3.GrpcService{{
			TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
				ClusterName: b.cfg.Service.cluster(),
				RetryPolicy: &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
					BaseInterval: seconds(100 * time.Millisecond),
					MaxInterval:  seconds(time.Second),
				}},
			}},
		}},
	}
	generic := &genericv3.Generic{
		Header: p.header(),
		Credential: &tlsv3.SdsSecretConfig{
			Name: envoy.SecretName(p.Credential),
			SdsConfig: &corev3.ConfigSource{
				ResourceApiVersion:    corev3.ApiVersion_V3,
				InitialFetchTimeout:   durationpb.New(secretWait),
				ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: source},
			},
		},
	}
	return b.filter("envoy.filters.http.credential_injector", &credentialinjectorv3.CredentialInjector{
		Overwrite:  true,
		Credential: b.coreExtension("envoy.http.injected_credentials.generic", generic),
	})
}

const (
	// missingDetails are Envoy's response code details of that answer.
	missingDetails = "failed_to_inject_credential"
	missingReason  = "backend_token_missing"
	missingProblem = `{"title":"Service Unavailable","status":503,` +
		`"detail":"the gateway has no credential for the backend yet","reason":"` + missingReason + `"}`
)

// tokenScheme is what stands before a caller's token.
func (p *Push) tokenScheme() string {
	if p.TokenHeader == "" && p.TokenScheme == "" {
		return "Bearer "
	}
	if p.TokenScheme == "" {
		return ""
	}
	return strings.TrimSpace(p.TokenScheme) + " "
}
