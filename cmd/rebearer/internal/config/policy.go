package config

import (
	"maps"
	"regexp"
	"slices"
	"strings"
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

// Forward names the request headers that tell the backend who calls, in lower
// case. Each that any policy names is taken out of every caller's own request.
// Values are percent-encoded but for visible ASCII other than % and the comma;
// several values of a claim are parted by commas, scopes by spaces.
type Forward struct {
	// Subject is the header of the token's subject. Access logs get the
	// subject too where it is set. Default none.
	Subject string `yaml:"subject"`
	// Client is the header of the client id. Default none.
	Client string `yaml:"client"`
	// Scopes is the header of the token's scopes. Default none.
	Scopes string `yaml:"scopes"`
	// Claims are the headers of further claims, by the claims' names. Default
	// none.
	Claims map[string]string `yaml:"claims"`
	// Token is the header of the caller's own token, with nothing before it
	// but in authorization, where Bearer is. Default none: the backend does
	// not see the caller's token.
	Token string `yaml:"token"`
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
	p.Forward.check(r, join(at, "forward"), credential.Header.Name)
	if p.Forward.any() && c.Envoy.HeadersWithUnderscores == UnderscoresAllow {
		r.fail(join(at, "forward"), "is not possible with envoy.headers_with_underscores: %s: "+
			"a caller could send x_subject, which many backends take for x-subject", UnderscoresAllow)
	}
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

// headers are the headers by their keys.
func (f Forward) headers() map[string]string {
	headers := map[string]string{"subject": f.Subject, "client": f.Client, "scopes": f.Scopes, "token": f.Token}
	for claim, header := range f.Claims {
		headers["claims."+printable(claim)] = header
	}
	return headers
}

func (f Forward) any() bool {
	for _, name := range f.headers() {
		if name != "" {
			return true
		}
	}
	return false
}

// check reports headers that mean something already. given is the one of the
// backend token.
func (f Forward) check(r *report, at, given string) {
	taken := map[string]bool{given: true}
	for key, name := range sorted(f.headers()) {
		here := join(at, key)
		switch {
		case name == "" && strings.HasPrefix(key, "claims."):
			r.fail(here, "is empty: name a header")
		case name == "":
		case taken[name]:
			r.fail(here, "%s is in use already: every header tells one thing", quote(name))
		case name == "authorization" && key != "token", reservedForBackends(name):
			r.fail(here, "%s is not possible: the header has a meaning of its own", quote(name))
		default:
			Header{Name: name}.check(r, at, key)
		}
		taken[name] = true
	}
	if _, ok := f.Claims[""]; ok {
		r.fail(join(at, "claims"), "a claim needs a name")
	}
}

// reservedForBackends reports headers that backends take for something else than
// the word of a gateway on who calls.
func reservedForBackends(name string) bool {
	names := []string{"cookie", "forwarded", "origin", "referer", "user-agent", "via", "x-request-id", "x-real-ip"}
	prefixes := []string{"accept", "access-control-", "content-", "if-", "proxy-", "sec-", "x-forwarded-"}
	return slices.Contains(names, name) || slices.ContainsFunc(prefixes, func(prefix string) bool {
		return strings.HasPrefix(name, prefix)
	})
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
// to decide, beside authorization, sorted: where tokens are, what tells a preflight from other
// requests, and what form of answer the caller understands.
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
