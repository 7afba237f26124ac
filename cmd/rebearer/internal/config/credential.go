package config

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Cache is what is done with a token after the request that it was got for.
type Cache string

// The cache modes.
const (
	// CacheCached keeps a token until it expires or is evicted.
	CacheCached Cache = "cached"
	// CacheBypass gets a token for every request. Only requests of the same
	// instant share one.
	CacheBypass Cache = "bypass"
)

// Credential is a backend token that rebearer holds, and how it gets it. What a
// credential does not say is taken from defaults.credential, and what that does
// not say from the defaults named here.
type Credential struct {
	// Clients are the clients that may get the token, tried in order: the next
	// one where the provider of the one before is down or refuses it. Required,
	// unless there is a token_file.
	Clients []Client `yaml:"clients"`
	// TokenFile is the file of a token that somebody else renews, instead of
	// clients and a grant; see [ReadSecret]. It is read again when it changes.
	// Default none.
	TokenFile string `yaml:"token_file" file:"secret"`
	// Grant is how the token is got: client_credentials, token_exchange,
	// jwt_bearer or refresh_token. Default client_credentials.
	Grant Grant `yaml:"grant"`
	// TokenExchange goes with the grant of its name. Default as its keys say.
	TokenExchange *TokenExchange `yaml:"token_exchange"`
	// JWTBearer goes with the grant of its name: the assertion that we sign.
	// Default none: the assertion is the caller's own token, and the backend's
	// is on behalf of the caller.
	JWTBearer *JWTBearer `yaml:"jwt_bearer"`
	// RefreshToken goes with the grant of its name, which requires it.
	RefreshToken *RefreshToken `yaml:"refresh_token"`
	// Scopes are asked of the provider. Default none: the provider decides.
	Scopes []string `yaml:"scopes"`
	// Audience is sent as the parameter "audience". Default none.
	Audience string `yaml:"audience"`
	// Resource is sent as the parameter "resource", an absolute URI (RFC
	// 8707). Default none.
	Resource string `yaml:"resource"`
	// Params are further parameters of the token request. Default none.
	Params map[string]string `yaml:"params"`
	// Header is the request header in which the backend gets the token.
	Header Header `yaml:"header"`
	// Expiry says how long a token is used.
	Expiry Expiry `yaml:"expiry"`
	// Cache says what is done with a token after the request that it was got
	// for: cached or bypass. Default cached.
	Cache Cache `yaml:"cache"`
	// Rejection says what a backend's rejection leads to.
	Rejection Rejection `yaml:"rejection"`
}

// Header is the request header that carries a backend token.
type Header struct {
	// Name is the header's name in lower case. Default authorization.
	Name string `yaml:"name"`
	// Scheme stands before the token, with a space between. Empty means the
	// token alone. Default Bearer.
	Scheme string `yaml:"scheme"`
}

// Expiry says how long a backend token is used.
type Expiry struct {
	// Default is the lifetime of a token whose provider states none. More
	// than 0; Max bounds it too. Default 5m.
	Default time.Duration `yaml:"default"`
	// Max bounds the lifetime that a provider may state. More than 0.
	// Default 1h.
	Max time.Duration `yaml:"max"`
	// Margin is how long before its end a token is renewed, at most half of
	// its lifetime. Zero means at its end. Default 30s.
	Margin time.Duration `yaml:"margin"`
	// Least is the least remaining life that a token must have to be given to
	// a request. Less than Default and Max. Default 5s.
	Least time.Duration `yaml:"least"`
	// RefreshToken is the lifetime of a refresh token whose provider states
	// none: none is kept for ever. More than 0. Default 12h.
	RefreshToken time.Duration `yaml:"refresh_token"`
}

// Bypasses says that every request gets a token of its own.
func (c Credential) Bypasses() bool { return c.TokenFile == "" && c.Cache == CacheBypass }

func (c Credential) check(r *report, at string, providers map[string]Provider) {
	if c.TokenFile == "" {
		c.checkClients(r, join(at, "clients"), providers)
		c.checkGrant(r, at)
		c.checkRequest(r, at)
	} else {
		c.checkStatic(r, at)
	}
	c.Header.check(r, join(at, "header"), "name")
	c.Expiry.check(r, join(at, "expiry"))
	oneOf(r, join(at, "cache"), c.Cache, CacheCached, CacheBypass)
	c.Rejection.check(r, join(at, "rejection"))
	for i, client := range c.Clients {
		p, ok := providers[client.Provider]
		switch introspect := join(at, "rejection.introspect"); {
		case !c.Rejection.Introspect || c.TokenFile != "":
		case ok && p.Issuer == "" && p.IntrospectionURL == "":
			r.fail(introspect, "needs an introspection_url or an issuer at the provider of clients[%d]", i)
		case client.AuthMethod == NoClientAuth:
			r.fail(introspect, "needs another auth_method than none at clients[%d]: a provider answers only clients that prove who they are (RFC 7662 section 2.1)", i)
		}
	}
}

// checkStatic reports what asks a provider where there is none.
func (c Credential) checkStatic(r *report, at string) {
	for _, key := range []string{
		"clients", "grant", "token_exchange", "jwt_bearer", "refresh_token",
		"scopes", "audience", "resource", "params", "cache", "rejection.introspect",
	} {
		if r.has(join(at, key)) {
			r.fail(join(at, key), "is not possible with token_file: no provider is asked for the token")
		}
	}
}

func (c Credential) checkClients(r *report, at string, providers map[string]Provider) {
	if len(c.Clients) == 0 {
		r.fail(at, "is required: name the client that gets the token, or a token_file")
	}
	for i, client := range c.Clients {
		client.check(r, item(at, i), providers)
		if slices.ContainsFunc(c.Clients[:i], client.same) {
			r.fail(item(at, i), "is there already: the same client at the same provider")
		}
	}
}

// same says that another client is this one, however it proves itself.
func (c Client) same(other Client) bool { return c.Provider == other.Provider && c.ID == other.ID }

func (x Expiry) check(r *report, at string) {
	positive(r, join(at, "default"), x.Default)
	positive(r, join(at, "max"), x.Max)
	positive(r, join(at, "refresh_token"), x.RefreshToken)
	if shortest := min(x.Default, x.Max); shortest > 0 && x.Least >= shortest {
		r.fail(join(at, "least"), "%v is not possible: tokens that live for %v would never be used", x.Least, shortest)
	}
}

// scopePattern matches one scope (RFC 6749 section 3.3).
var scopePattern = regexp.MustCompile(`^[\x21\x23-\x5B\x5D-\x7E]+$`)

// checkRequest reports parameters of the token request.
func (c Credential) checkRequest(r *report, at string) {
	r.list(join(at, "scopes"), c.Scopes)
	for i, scope := range c.Scopes {
		if scope != "" && !scopePattern.MatchString(scope) {
			r.fail(item(at+".scopes", i), "%s is not a scope: write each scope as an entry of its own", quote(scope))
		}
	}
	text(r, join(at, "audience"), c.Audience)
	if c.Resource != "" {
		u, err := url.Parse(c.Resource)
		if err != nil || !u.IsAbs() || strings.Contains(c.Resource, "#") {
			r.fail(join(at, "resource"), "must be an absolute URI without a fragment (RFC 8707)")
		}
	}
	for name := range sorted(c.Params) {
		param := join(join(at, "params"), printable(name))
		switch name {
		case "":
			r.fail(param, "a parameter needs a name")
		case "scope":
			r.fail(param, "is not possible here: use scopes")
		case "audience", "resource":
			r.fail(param, "is not possible here: use %s", name)
		case "client_secret", "client_assertion", "client_assertion_type", "client_id", "grant_type",
			"assertion", "subject_token", "subject_token_type", "requested_token_type", "refresh_token":
			r.fail(param, "is not possible: rebearer sends it itself")
		}
	}
}

// headerPattern matches a header name that Envoy's configuration can hold and
// that no proxy drops for its underscore. tokenPattern matches a method or an
// authentication scheme (RFC 9110 section 5.6.2).
var (
	headerPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*$`)
	tokenPattern  = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
)

// check reports headers that would break the request, or that Envoy and
// rebearer use for themselves. nameKey is the key that holds the name.
func (h Header) check(r *report, at, nameKey string) {
	name := join(at, nameKey)
	reserved := []string{
		"host", "connection", "content-length", "expect", "keep-alive", "proxy-connection",
		"te", "trailer", "transfer-encoding", "upgrade",
	}
	switch {
	case h.Name == "":
		r.fail(name, "is required")
	case !headerPattern.MatchString(h.Name):
		r.fail(name, "%s is not a header name: write it in lower case, of letters, digits and -", quote(h.Name))
	case slices.Contains(reserved, h.Name), strings.HasPrefix(h.Name, "x-envoy-"), strings.HasPrefix(h.Name, "x-rebearer-"):
		r.fail(name, "%s is not possible: the header has a meaning of its own", quote(h.Name))
	}
	if h.Scheme != "" && !tokenPattern.MatchString(h.Scheme) {
		r.fail(join(at, "scheme"), "%s is not a scheme: it is one word, such as Bearer", quote(h.Scheme))
	}
}
