package config

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Bounds of the cool-down. Below, it would not protect the provider; above, a
// restart that follows a real 403 would be an outage again.
const (
	minCoolDown = time.Second
	maxCoolDown = time.Hour
)

// Grant is how a backend token is got (RFC 6749 section 4).
type Grant string

// The grants. Only client credentials are supported yet.
const (
	// GrantClientCredentials is RFC 6749 section 4.4.
	GrantClientCredentials Grant = "client_credentials"

	grantTokenExchange Grant = "token_exchange"
	grantJWTBearer     Grant = "jwt_bearer"
	grantRefreshToken  Grant = "refresh_token"
)

// AuthMethod is how a client proves who it is (RFC 6749 section 2.3.1).
type AuthMethod string

// The client authentication methods.
const (
	// ClientSecretBasic sends id and secret in the Authorization header.
	ClientSecretBasic AuthMethod = "client_secret_basic"
	// ClientSecretPost sends id and secret in the request body.
	ClientSecretPost AuthMethod = "client_secret_post"
)

// Cache is what is done with a token after the request that it was got for.
type Cache string

// The cache modes. Only cached is supported yet.
const (
	// CacheCached keeps a token until it expires or is evicted.
	CacheCached Cache = "cached"

	cacheBypass Cache = "bypass"
)

// Action is what a rejection leads to.
type Action string

// The actions, each with all of the one before.
const (
	// ActionObserve counts and logs the rejection.
	ActionObserve Action = "observe"
	// ActionEvict evicts a dead token, so that the next request passes.
	ActionEvict Action = "evict"
	// ActionRetry has Envoy repeat the request with a fresh token.
	ActionRetry Action = "retry"
)

// Credential is a client of ours at a provider, and how it gets a backend
// token. What a credential does not say is taken from defaults.credential, and
// what that does not say from the defaults named here.
type Credential struct {
	// Clients are the clients that may get the token. Exactly one: trying
	// several in order is not supported yet.
	Clients []Client `yaml:"clients"`
	// Grant is how the token is got. Default client_credentials, the only
	// one yet.
	Grant Grant `yaml:"grant"`
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
	// for. Default cached, the only mode yet.
	Cache Cache `yaml:"cache"`
	// Rejection says what a backend's rejection leads to.
	Rejection Rejection `yaml:"rejection"`
}

// Client is an OAuth client of ours.
type Client struct {
	// Provider is the name of the provider. Required.
	Provider string `yaml:"provider"`
	// ID is the client's identifier. Required.
	ID string `yaml:"id"`
	// SecretFile is the file of the client's secret; see [ReadSecret].
	// Required.
	SecretFile string `yaml:"secret_file" file:"secret"`
	// AuthMethod is how the client proves who it is: client_secret_basic or
	// client_secret_post. Default client_secret_basic.
	AuthMethod AuthMethod `yaml:"auth_method"`
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
}

// Rejection says what a backend's rejection leads to.
type Rejection struct {
	// Action is what happens: observe, evict or retry. Default retry.
	Action Action `yaml:"action"`
	// Statuses are the HTTP statuses that are rejections: 401, 403 or both.
	// The gRPC status 16 always is one. Default both.
	Statuses []int `yaml:"statuses"`
	// Methods are the HTTP methods that may be retried, in capitals. A
	// rejected request of another method evicts, and the caller is told to
	// come again. Default none named: all may be retried.
	Methods []string `yaml:"methods"`
	// CoolDown is how long after a probe that did not help no other is made
	// for the same caller and route, and the time in which the credential's
	// budget gains one token request. From 1s to 1h. Default 10s.
	CoolDown time.Duration `yaml:"cool_down"`
	// Presets name rules for the answers of well-known systems. Default
	// none; none are supported yet.
	Presets []string `yaml:"presets"`
}

func (c Credential) check(r *report, at string, providers map[string]Provider) {
	c.checkClients(r, join(at, "clients"), providers)
	switch c.Grant {
	case grantTokenExchange, grantJWTBearer, grantRefreshToken:
		r.fail(join(at, "grant"), "%s is not supported yet: only %s is", c.Grant, GrantClientCredentials)
	default:
		oneOf(r, join(at, "grant"), c.Grant, GrantClientCredentials)
	}
	c.checkRequest(r, at)
	c.Header.check(r, join(at, "header"), "name")
	positive(r, join(at, "expiry.default"), c.Expiry.Default)
	positive(r, join(at, "expiry.max"), c.Expiry.Max)
	if c.Cache == cacheBypass {
		r.fail(join(at, "cache"), "%s is not supported yet: only %s is", c.Cache, CacheCached)
	} else {
		oneOf(r, join(at, "cache"), c.Cache, CacheCached)
	}
	c.Rejection.check(r, join(at, "rejection"))
}

func (c Credential) checkClients(r *report, at string, providers map[string]Provider) {
	switch len(c.Clients) {
	case 0:
		r.fail(at, "is required: name the one client that gets the token")
	case 1:
		c.Clients[0].check(r, item(at, 0), providers)
	default:
		r.fail(at, "failover is not supported yet: name exactly one client, not %d", len(c.Clients))
	}
}

func (c Client) check(r *report, at string, providers map[string]Provider) {
	lookUp(r, join(at, "provider"), "provider", c.Provider, providers)
	required(r, join(at, "id"), c.ID)
	text(r, join(at, "id"), c.ID)
	required(r, join(at, "secret_file"), c.SecretFile)
	oneOf(r, join(at, "auth_method"), c.AuthMethod, ClientSecretBasic, ClientSecretPost)
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
		case "client_secret", "client_assertion", "client_assertion_type", "client_id", "grant_type":
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

func (j Rejection) check(r *report, at string) {
	oneOf(r, join(at, "action"), j.Action, ActionObserve, ActionEvict, ActionRetry)
	if len(j.Statuses) == 0 {
		r.fail(join(at, "statuses"), "is empty: name 401, 403 or both")
	}
	for i, status := range j.Statuses {
		if status != http.StatusUnauthorized && status != http.StatusForbidden {
			r.fail(item(at+".statuses", i), "%d is not possible: it must be 401 or 403", status)
		}
		if slices.Contains(j.Statuses[:i], status) {
			r.fail(item(at+".statuses", i), "%d is there already", status)
		}
	}
	if j.Methods != nil && len(j.Methods) == 0 {
		r.fail(join(at, "methods"), "is empty: to retry nothing say action: %s", ActionEvict)
	}
	r.list(join(at, "methods"), j.Methods)
	for i, method := range j.Methods {
		if method != "" && (!tokenPattern.MatchString(method) || strings.ToUpper(method) != method) {
			r.fail(item(at+".methods", i), "%s is not a method: write it in capitals, such as POST", quote(method))
		}
	}
	within(r, join(at, "cool_down"), j.CoolDown, minCoolDown, maxCoolDown)
	if len(j.Presets) > 0 {
		r.fail(join(at, "presets"), "is not supported yet: leave it out")
	}
}
