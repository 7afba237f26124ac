package config

import (
	"fmt"
	"time"
)

// longLife is a lifetime beyond which a token should be asked about.
const longLife = 4 * time.Hour

// Warnings returns what is legal but worth a word, in the order of the file's
// sections, each with its path.
func (c *Config) Warnings() []string {
	var out []string
	warn := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	c.warnInsecure(warn)
	for name, credential := range sorted(c.Credentials) {
		credential.warn(warn, "credentials."+name)
	}
	c.warnPolicies(warn)
	c.warnUnused(warn)
	switch _, ok := c.Policies[DefaultPolicy]; {
	case len(c.Policies) == 0:
		warn("policies: there are none, so every request is refused")
	case !ok:
		warn("policies: none is called %s, so a route that names no policy is refused", DefaultPolicy)
	}
	return out
}

func (c *Config) warnInsecure(warn func(string, ...any)) {
	grpc := c.Server.GRPC
	needless := grpc.proven() || grpc.Address.Loopback() && !c.pushes()
	switch {
	case grpc.Insecure && needless:
		warn("server.grpc.insecure: is not needed: remove it")
	case grpc.Insecure && c.pushes():
		warn("server.grpc.insecure: whoever reaches %s is given backend tokens, since policies say delivery: push", grpc.Address)
	case grpc.Insecure:
		warn("server.grpc.insecure: whoever reaches %s can be given a backend token", grpc.Address)
	}
	if c.Server.Admin.AllowSimulation {
		warn("server.admin.allow_simulation: operators can void backend tokens: not for production")
	}
	for name, provider := range sorted(c.Providers) {
		switch {
		case provider.Insecure && provider.plainHTTP():
			warn("providers.%s.insecure: secrets and tokens travel over http:// where others can read them", name)
		case provider.Insecure:
			warn("providers.%s.insecure: is not needed: remove it", name)
		}
	}
}

// pushes says that tokens are handed to Envoy for any policy.
func (c *Config) pushes() bool {
	for _, policy := range c.Policies {
		if policy.Delivery == DeliveryPush {
			return true
		}
	}
	return false
}

func (c Credential) warn(warn func(string, ...any), at string) {
	if c.Bypasses() {
		warn("%s.cache: bypass asks the provider for a token for every request: %s", at, bypassCost)
	}
	if c.Expiry.Max > longLife && !c.Rejection.Introspect {
		warn("%s.expiry.max: a token that leaks is good for up to %v, and that it was voided shows only in rejections", at, c.Expiry.Max)
	}
	if half := min(c.Expiry.Default, c.Expiry.Max) / 2; c.Expiry.Margin > half {
		warn("%s.expiry.margin: is cut to half of a lifetime: tokens whose provider states none are renewed after %v", at, half)
	}
	providers := map[string]bool{}
	for _, client := range c.Clients {
		providers[client.Provider] = true
	}
	if len(c.Clients) > 1 && len(providers) == 1 {
		warn("%s.clients: all are at the provider %s: they do not help when it is down", at, c.Clients[0].Provider)
	}
}

// bypassCost says what bypass comes to.
const bypassCost = "100 requests a second are 100 token requests a second" //nolint:gosec // no credential

func (c *Config) warnPolicies(warn func(string, ...any)) {
	for name, policy := range sorted(c.Policies) {
		if policy.Cache == CacheBypass && !c.Credentials[policy.Credential].Bypasses() {
			warn("policies.%s.cache: bypass asks the provider for a token for every request: %s", name, bypassCost)
		}
	}
}

func (c *Config) warnUnused(warn func(string, ...any)) {
	providers, callers, credentials := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, caller := range c.Callers {
		providers[caller.Provider] = true
	}
	for _, credential := range c.Credentials {
		for _, client := range credential.Clients {
			providers[client.Provider] = true
		}
	}
	for _, policy := range c.Policies {
		credentials[policy.Credential] = true
		for _, name := range policy.Callers {
			callers[name] = true
		}
	}
	for _, name := range unused(c.Providers, providers) {
		warn("providers.%s: no caller and no credential uses it", name)
	}
	for _, name := range unused(c.Callers, callers) {
		warn("callers.%s: no policy uses it", name)
	}
	for _, name := range unused(c.Credentials, credentials) {
		warn("credentials.%s: no policy uses it", name)
	}
}
