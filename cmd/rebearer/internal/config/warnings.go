package config

import "fmt"

// Warnings returns what is legal but worth a word, in the order of the file's
// sections, each with its path.
func (c *Config) Warnings() []string {
	var out []string
	warn := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	c.warnInsecure(warn)
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
	proven := grpc.Address.Loopback() || grpc.TLS != nil && grpc.TLS.ClientCAFile != ""
	switch {
	case grpc.Insecure && proven:
		warn("server.grpc.insecure: is not needed: remove it")
	case grpc.Insecure:
		warn("server.grpc.insecure: whoever reaches %s can be given a backend token", grpc.Address)
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
