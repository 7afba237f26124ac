package config

import (
	"maps"
	"regexp"
	"slices"
)

// DefaultPolicy is the name of the policy of a route that names none.
const DefaultPolicy = "default"

// Preflight is what becomes of CORS preflights.
type Preflight string

// The values of preflight.
const (
	// PreflightAllow lets them pass, without a backend token and without a
	// word about the caller.
	PreflightAllow Preflight = "allow"
	// PreflightDeny makes no exception for them: they need a token as every
	// request does, and never have one.
	PreflightDeny Preflight = "deny"
)

// Policy says which callers may pass and which credential is sent. Envoy tells
// rebearer only those headers that `rebearer envoy` named to it: after a change of
// token_from or preflight its configuration has to be printed again. Until then
// such requests are refused.
type Policy struct {
	// Callers are the names of the callers that may pass: the token of any
	// one is enough. Required, unless the policy is anonymous.
	Callers []string `yaml:"callers"`
	// Anonymous lets requests without a token pass. A token that is sent must
	// still be good; only where no callers are named, none is looked at. It
	// excludes scopes, any_scopes, claims and clients, which leaving the token
	// out would go round. Default false.
	Anonymous bool `yaml:"anonymous"`
	// TokenFrom is where the caller's token is. Default the header
	// authorization with the scheme Bearer.
	TokenFrom *TokenFrom `yaml:"token_from"`
	// Hosts are the hosts that are served, without a port: a name, an IP
	// address, or *.name for all names below it. Default all.
	Hosts []string `yaml:"hosts"`
	// Preflight is what becomes of CORS preflights: allow or deny. Default
	// deny.
	Preflight Preflight `yaml:"preflight"`
	// Scopes must all be in the token. Default none.
	Scopes []string `yaml:"scopes"`
	// AnyScopes are scopes of which one must be in the token. A caller who has
	// none is told to get the first. Default none.
	AnyScopes []string `yaml:"any_scopes"`
	// Claims must be in the token, each with one of the values named here; a
	// claim that is a list must hold one. Numbers and booleans are compared
	// as JSON writes them: quote them here. Default none.
	Claims map[string][]string `yaml:"claims"`
	// Clients are the client ids (client_id, or else azp) that may call.
	// Default all.
	Clients []string `yaml:"clients"`
	// Credential is the name of the credential whose token the backend gets.
	// Required.
	Credential string `yaml:"credential"`
	// Cache is cached, which leaves it to the credential, or bypass, which
	// gets a token for every request of this policy; not with a token_file.
	// Default cached.
	Cache Cache `yaml:"cache"`
	// Delivery is how the token gets into the request: check or push. Default
	// check.
	Delivery Delivery `yaml:"delivery"`
	// Forward says what the backend is told of the caller. Default nothing.
	Forward Forward `yaml:"forward"`
}

// TokenFrom is where the caller's token is: in one header, or in one cookie.
type TokenFrom struct {
	// Header is the header's name in lower case.
	Header string `yaml:"header"`
	// Scheme stands before the token, with a space between. Default Bearer in
	// authorization, and in other headers none.
	Scheme string `yaml:"scheme"`
	// Cookie is the cookie's name. The backend does not see this cookie.
	Cookie string `yaml:"cookie"`
}

func (p Policy) check(r *report, at string, c *Config) {
	callers := join(at, "callers")
	if len(p.Callers) == 0 && !p.Anonymous {
		r.fail(callers, "is required: name the callers that may pass")
	}
	r.list(callers, p.Callers)
	for i, name := range p.Callers {
		if _, ok := c.Callers[name]; !ok && name != "" {
			unknown(r, item(callers, i), "caller", name, c.Callers)
		}
	}
	if p.TokenFrom != nil {
		p.TokenFrom.check(r, join(at, "token_from"))
	}
	p.checkHosts(r, join(at, "hosts"))
	oneOf(r, join(at, "preflight"), p.Preflight, PreflightAllow, PreflightDeny)
	p.checkRequirements(r, at)
	credential, _ := lookUp(r, join(at, "credential"), "credential", p.Credential, c.Credentials)
	p.checkOnBehalf(r, at, credential)
	oneOf(r, join(at, "cache"), p.Cache, CacheCached, CacheBypass)
	if p.Cache == CacheBypass && credential.TokenFile != "" {
		r.fail(join(at, "cache"), "%s is not possible with the credential %s: its token_file has one token for all requests", CacheBypass, quote(p.Credential))
	}
	oneOf(r, join(at, "delivery"), p.Delivery, DeliveryCheck, DeliveryPush)
	if p.Delivery == DeliveryPush {
		p.checkPush(r, at, c)
	}
	p.Forward.check(r, join(at, "forward"), credential.Header.Name)
	if p.Forward.any() && c.Envoy.HeadersWithUnderscores == UnderscoresAllow {
		r.fail(join(at, "forward"), "is not possible with envoy.headers_with_underscores: %s: "+
			"a caller could send x_subject, which many backends take for x-subject", UnderscoresAllow)
	}
}

// checkOnBehalf reports a policy whose callers may have no token that could be
// shown to the provider.
func (p Policy) checkOnBehalf(r *report, at string, credential Credential) {
	if !credential.OnBehalfOf() || !p.Anonymous {
		return
	}
	r.fail(join(at, "anonymous"), "is not possible with the credential %s, whose grant %s needs the caller's token",
		quote(p.Credential), credential.Grant)
}

func (f TokenFrom) check(r *report, at string) {
	switch {
	case f.Cookie != "" && (f.Header != "" || f.Scheme != ""):
		r.fail(at, "is in a header or in a cookie, not in both")
	case f.Cookie != "" && !tokenPattern.MatchString(f.Cookie):
		r.fail(join(at, "cookie"), "%s is not the name of a cookie", quote(f.Cookie))
	case f.Cookie != "":
	case f.Header == "":
		r.fail(at, "needs a header or a cookie")
	case f.Header == "cookie":
		r.fail(join(at, "header"), "is not possible: use cookie, and name the cookie")
	default:
		Header{Name: f.Header, Scheme: f.Scheme}.check(r, at, "header")
	}
}

// policyHost matches what a host can be compared with.
var policyHost = regexp.MustCompile(`^(?i:(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])$`)

func (p Policy) checkHosts(r *report, at string) {
	if p.Hosts != nil && len(p.Hosts) == 0 {
		r.fail(at, "is empty: leave it out to serve all hosts")
	}
	r.list(at, p.Hosts)
	for i, host := range p.Hosts {
		if host != "" && !policyHost.MatchString(host) {
			r.fail(item(at, i), "%s is not a host: write a name, *.name or an IP address, without a port", quote(host))
		}
	}
}

// checkRequirements reports what no token can meet, or a caller can go round.
func (p Policy) checkRequirements(r *report, at string) {
	lists := []struct {
		key    string
		values []string
	}{{"scopes", p.Scopes}, {"any_scopes", p.AnyScopes}, {"clients", p.Clients}}
	for _, list := range lists {
		here := join(at, list.key)
		r.list(here, list.values)
		if list.values != nil && len(list.values) == 0 {
			r.fail(here, "is empty: leave it out to ask for none")
		}
		if p.Anonymous && len(list.values) > 0 {
			r.fail(here, "is not possible with anonymous: true: who leaves the token out would pass")
		}
		for i, scope := range list.values {
			if list.key != "clients" && scope != "" && !scopePattern.MatchString(scope) {
				r.fail(item(here, i), "%s is not a scope: write each scope as an entry of its own", quote(scope))
			}
		}
	}
	if p.Anonymous && len(p.Claims) > 0 {
		r.fail(join(at, "claims"), "is not possible with anonymous: true: who leaves the token out would pass")
	}
	for name, values := range sorted(p.Claims) {
		here := join(join(at, "claims"), printable(name))
		if name == "" {
			r.fail(here, "a claim needs a name")
		}
		if len(values) == 0 {
			r.fail(here, "is empty: no token could pass")
		}
		r.list(here, values)
	}
}

// maxClaims bounds how many claims of a token are kept.
const maxClaims = 32

// CallerClaims returns the names of the claims that policies look at in the
// tokens of a caller, sorted.
func (c *Config) CallerClaims(caller string) []string {
	names := map[string]bool{}
	for _, p := range c.Policies {
		if !slices.Contains(p.Callers, caller) {
			continue
		}
		for name := range p.Claims {
			names[name] = true
		}
		for name := range p.Forward.Claims {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// CheckHeaders returns the names of the request headers that rebearer must see
// to decide, beside authorization, sorted: where tokens are, what tells a
// preflight from other requests, and what form of answer the caller understands.
func (c *Config) CheckHeaders() []string {
	names := []string{"accept", "content-type"}
	for _, p := range c.Policies {
		if p.Preflight == PreflightAllow {
			names = append(names, "access-control-request-method", "origin")
		}
		switch from := p.TokenFrom; {
		case from == nil:
		case from.Cookie != "":
			names = append(names, "cookie")
		case from.Header != "authorization":
			names = append(names, from.Header)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
