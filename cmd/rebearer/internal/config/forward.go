package config

import (
	"maps"
	"slices"
	"strings"
)

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

// headers are the headers by their keys.
func (f Forward) headers() map[string]string {
	headers := map[string]string{"subject": f.Subject, "client": f.Client, "scopes": f.Scopes, "token": f.Token}
	for claim, header := range f.Claims {
		headers["claims."+printable(claim)] = header
	}
	return headers
}

// ForwardHeaders are the headers in which any policy tells who calls, sorted. No
// caller's own get through to any backend.
func (c *Config) ForwardHeaders() []string {
	names := map[string]bool{}
	for _, p := range c.Policies {
		for _, name := range p.Forward.headers() {
			names[name] = true
		}
	}
	delete(names, "")
	return slices.Sorted(maps.Keys(names))
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
