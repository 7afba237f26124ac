package config

import "time"

// Delivery is how a backend token gets into requests.
type Delivery string

// The values of delivery.
const (
	// DeliveryCheck has Envoy ask rebearer about every request.
	DeliveryCheck Delivery = "check"
	// DeliveryPush hands the token to Envoy, which puts it into requests and
	// checks callers by itself: nothing is asked while requests are accepted,
	// and traffic goes on while rebearer is away. It can do less than check: not
	// with opaque or introspected callers' tokens, tokens on behalf of callers,
	// cache: bypass, forward, preflight: allow, a token in a cookie, or anonymous
	// beside callers; and the provider of the callers needs a jwks_url.
	DeliveryPush Delivery = "push"
)

// checkPush reports what Envoy's own jwt_authn, RBAC and credential_injector do
// not do, or not as rebearer does: a policy must not mean less because of how
// its token travels.
func (p Policy) checkPush(r *report, at string, c *Config) {
	if !c.Server.GRPC.proven() && !c.Server.GRPC.Insecure {
		r.fail(join(at, "delivery"), "push gives tokens without asking who calls, so only over a unix socket or to client certificates: "+
			"server.grpc needs address: unix:///..., or tls with client_ca_file and peers")
	}
	if p.TokenFrom != nil && p.TokenFrom.Cookie != "" {
		r.fail(join(at, "token_from"), "a cookie is not possible with delivery: push: Envoy would leave it for the backend to see")
	}
	if p.Preflight == PreflightAllow {
		r.fail(join(at, "preflight"), "allow is not possible with delivery: push: Envoy would give preflights the backend token")
	}
	if p.Forward.any() {
		r.fail(join(at, "forward"), "is not possible with delivery: push: Envoy forwards claims as they are, not encoded")
	}
	if p.Cache == CacheBypass {
		r.fail(join(at, "cache"), "bypass is not possible with delivery: push: Envoy holds one token for all requests")
	}
	if p.Anonymous && len(p.Callers) > 0 {
		r.fail(join(at, "anonymous"), "is not possible beside callers with delivery: push: leave one of them out")
	}
	if credential, ok := c.Credentials[p.Credential]; ok {
		credential.checkPush(r, join(at, "credential"), p.Credential)
	}
	for i, name := range p.Callers {
		if caller, ok := c.Callers[name]; ok {
			caller.checkPush(r, item(at+".callers", i), name, c.Providers)
		}
	}
}

func (c Credential) checkPush(r *report, at, name string) {
	switch {
	case c.OnBehalfOf():
		r.fail(at, "%s is not possible with delivery: push: its grant %s gives every caller another token", quote(name), c.Grant)
	case c.Bypasses():
		r.fail(at, "%s is not possible with delivery: push: it says cache: bypass, and Envoy holds one token for all requests", quote(name))
	}
}

func (c Caller) checkPush(r *report, at, name string, providers map[string]Provider) {
	if c.Tokens != TokensJWT {
		r.fail(at, "%s is not possible with delivery: push: Envoy does not introspect %s tokens", quote(name), printable(string(c.Tokens)))
		return
	}
	if c.ClockSkew < time.Second || c.ClockSkew%time.Second != 0 {
		r.fail(at, "%s is not possible with delivery: push: Envoy takes a clock_skew of 1s, 2s and so on, not %v", quote(name), c.ClockSkew)
	}
	if provider, ok := providers[c.Provider]; ok && provider.JWKSURL == "" {
		r.fail(at, "%s is not possible with delivery: push: Envoy looks up no metadata, so the provider %s needs a jwks_url",
			quote(name), quote(c.Provider))
	}
}

// proven says that nobody reaches the port without proof of who he is: over a
// socket, which has an owner, or with a certificate.
func (g GRPC) proven() bool {
	network, _ := g.Address.Network()
	return network == "unix" || g.TLS != nil && g.TLS.ClientCAFile != ""
}
