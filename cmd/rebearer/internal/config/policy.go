package config

// DefaultPolicy is the name of the policy of a route that names none.
const DefaultPolicy = "default"

// Policy says which callers may pass and which credential is sent.
type Policy struct {
	// Callers are the names of the callers that may pass: the token of any
	// one is enough. Required.
	Callers []string `yaml:"callers"`
	// Credential is the name of the credential whose token the backend gets.
	// Required.
	Credential string `yaml:"credential"`
}

func (p Policy) check(r *report, at string, c *Config) {
	callers := join(at, "callers")
	if len(p.Callers) == 0 {
		r.fail(callers, "is required: name the callers that may pass")
	}
	r.list(callers, p.Callers)
	for i, name := range p.Callers {
		if _, ok := c.Callers[name]; !ok && name != "" {
			unknown(r, item(callers, i), "caller", name, c.Callers)
		}
	}
	lookUp(r, join(at, "credential"), "credential", p.Credential, c.Credentials)
}
