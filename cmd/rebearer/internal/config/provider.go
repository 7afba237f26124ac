package config

import (
	"net/url"
	"time"
)

// maxProviderTimeout bounds a request to a provider: callers wait that long.
const maxProviderTimeout = time.Minute

// Provider is an authorization server. It needs an issuer, or a token_url if
// it only gives backend tokens. All URLs are https, or http to loopback or
// with insecure: true.
type Provider struct {
	// Issuer is the issuer identifier, compared with the "iss" of callers'
	// tokens letter for letter. The endpoints come from its metadata (RFC
	// 8414, OIDC discovery) unless they are given here. Without it no caller
	// can use the provider, and token_url is required.
	Issuer string `yaml:"issuer"`
	// JWKSURL is where the signing keys are. Default: from the metadata.
	JWKSURL string `yaml:"jwks_url"`
	// TokenURL is the token endpoint. Default: from the metadata.
	TokenURL string `yaml:"token_url"`
	// IntrospectionURL is the introspection endpoint (RFC 7662). Default:
	// from the metadata.
	IntrospectionURL string `yaml:"introspection_url"`
	// RevocationURL is the revocation endpoint (RFC 7009). Default: from the
	// metadata.
	RevocationURL string `yaml:"revocation_url"`
	// CAFile is the PEM file of the authorities that sign the provider's
	// certificate, instead of the system's. Default: the system's.
	CAFile string `yaml:"ca_file" file:"certificates"`
	// Timeout bounds one request to the provider. More than 0, at most 60s.
	// Default 5s.
	Timeout time.Duration `yaml:"timeout"`
	// Insecure allows http:// to other machines: secrets and tokens travel
	// where everybody on the way reads them. Default false.
	Insecure bool `yaml:"insecure"`
}

// urls are the provider's URLs by their keys.
func (p Provider) urls() map[string]string {
	return map[string]string{
		"issuer":            p.Issuer,
		"jwks_url":          p.JWKSURL,
		"token_url":         p.TokenURL,
		"introspection_url": p.IntrospectionURL,
		"revocation_url":    p.RevocationURL,
	}
}

func (p Provider) check(r *report, at string) {
	for key, text := range sorted(p.urls()) {
		if text != "" {
			p.checkURL(r, join(at, key), text)
		}
	}
	if u, err := url.Parse(p.Issuer); err == nil && (u.RawQuery != "" || u.ForceQuery) {
		r.fail(join(at, "issuer"), "must not have a query")
	}
	if p.Issuer == "" && p.TokenURL == "" {
		r.fail(at, "needs an issuer, or a token_url if it only gives backend tokens")
	}
	within(r, join(at, "timeout"), p.Timeout, time.Millisecond, maxProviderTimeout)
}

// checkURL reports what is wrong with a URL without repeating it: somebody may
// have put a password into it.
func (p Provider) checkURL(r *report, at, text string) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "" || u.Opaque != "":
		r.fail(at, "is not a URL: write https://host/path")
	case u.User != nil:
		r.fail(at, "must not hold a user or password: clients have an id and a secret_file")
	case u.Fragment != "" || u.RawFragment != "":
		r.fail(at, "must not have a fragment (#)")
	case u.Scheme != "https" && u.Scheme != "http":
		r.fail(at, "must start with https://")
	case u.Scheme == "http" && !loopbackHost(u.Hostname()) && !p.Insecure:
		r.fail(at, "uses http:// to another machine: use https://, or say insecure: true beside it")
	}
}

// plainHTTP reports whether the provider is asked over http:// elsewhere.
func (p Provider) plainHTTP() bool {
	for _, text := range p.urls() {
		if u, err := url.Parse(text); err == nil && u.Scheme == "http" && !loopbackHost(u.Hostname()) {
			return true
		}
	}
	return false
}
