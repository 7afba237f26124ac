package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
	"github.com/rebearer/rebearer/envoy/render"
)

// envoyFlags are what `rebearer envoy` is told beside the configuration.
type envoyFlags struct {
	target    string
	bootstrap bool
	listen    string
	admin     string
	backends  []string
	shape     string
	version   string
	check     string
}

func newEnvoy(flags *common) *cobra.Command {
	var f envoyFlags
	c := &cobra.Command{
		Use:   "envoy",
		Short: "Print the Envoy configuration that goes with a configuration file",
		Long: `Prints YAML for Envoy, in one of two shapes (envoy.shape, or --shape):

  nested  Envoy 1.36 or newer. An outer listener that only retries, and an inner
          one with the routes, ext_authz and the hook.
  lean    Envoy 1.37 or newer; older ones crash. One listener, and filters of the
          router that replace a token that was refused. It costs less, but what
          is refused before the request has ended (uploads, WebSockets, gRPC
          streams) is not retried.

Policies with "delivery: push" need Envoy 1.37 in either shape.

Without --bootstrap these are pieces to paste into your own bootstrap; with it, a
whole one that "envoy -c" runs as it is. The policy "default" is served on /, any
other on /POLICY/ with that prefix stripped. A backend is host:port (HTTP/1.1),
h2c://host:port (HTTP/2, for gRPC) or https://host:port.

With --check nothing is printed for Envoy: it tells whether a running one has the
whole chain, from what its admin interface answers to /config_dump, and exits with
1 if rejected requests would not be retried.`,
		Example: `  rebearer envoy --config rebearer.yaml
  rebearer envoy --config rebearer.yaml --bootstrap --listen 127.0.0.1:10000 \
      --backend default=127.0.0.1:8080 --backend orders=h2c://127.0.0.1:8081 > envoy.yaml
  curl -s http://127.0.0.1:9901/config_dump | rebearer envoy --config rebearer.yaml --check -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := readText(flags.config)
			if err != nil {
				return err
			}
			if f.check != "" {
				return f.checkWiring(cfg, cmd.InOrStdin(), cmd.OutOrStdout())
			}
			out, err := f.render(cfg)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(out)
			return err
		},
	}
	c.Flags().StringVar(&f.target, "target", targetEnvoy, "what is given the configuration: envoy, istio or envoy-gateway")
	c.Flags().StringVar(&f.shape, "shape", "", "`nested|lean` (default: envoy.shape)")
	c.Flags().StringVar(&f.version, "envoy-version", "", "the oldest Envoy that will run it, as in `1.37` (default: envoy.version)")
	c.Flags().BoolVar(&f.bootstrap, "bootstrap", false, "print a whole bootstrap")
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1:10000", "`host:port` that callers talk to")
	c.Flags().StringVar(&f.admin, "admin", "", "`host:port` of Envoy's admin interface, on loopback (default: none)")
	c.Flags().StringArrayVar(&f.backends, "backend", nil, "`POLICY=host:port` of a policy's backend; may be repeated")
	c.Flags().StringVar(&f.check, "check", "", "`FILE` with a running Envoy's /config_dump to look at instead, - for standard input")
	return c
}

// readText reads the configuration file, but none of those that it names:
// Envoy's side can be printed where the secrets are not.
func readText(name string) (*config.Config, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return config.Parse(data, name)
}

// config is what the YAML is made from.
func (f envoyFlags) config(cfg *config.Config) (render.Config, error) {
	c, err := renderConfig(cfg)
	if err != nil {
		return render.Config{}, err
	}
	c.Listen, c.Admin = f.listen, f.admin
	if f.shape != "" {
		c.Shape = render.Shape(f.shape)
	}
	if f.version != "" {
		c.EnvoyVersion = f.version
	}
	c.Routes, err = routes(cfg, f.backends)
	return c, err
}

// checkWiring looks at a running Envoy.
func (f envoyFlags) checkWiring(cfg *config.Config, in io.Reader, out io.Writer) error {
	c, err := f.config(cfg)
	if err != nil {
		return err
	}
	return checkWiring(f.check, in, out, c)
}

// render returns the YAML.
func (f envoyFlags) render(cfg *config.Config) ([]byte, error) {
	c, err := f.config(cfg)
	if err != nil {
		return nil, err
	}
	if f.target != targetEnvoy {
		return renderObjects(f.target, cfg, c)
	}
	if f.bootstrap {
		return render.Bootstrap(c)
	}
	return render.Static(c)
}

// What Envoy waits longer than rebearer: a check waits for a provider, and a
// rejection is held for a moment before that.
const (
	checkGrace = time.Second
	hookGrace  = 2 * time.Second
)

// renderConfig is the part of Envoy's configuration that the configuration file
// decides.
func renderConfig(cfg *config.Config) (render.Config, error) {
	addresses, err := cfg.EnvoyAddresses()
	if err != nil {
		return render.Config{}, err
	}
	var longest time.Duration
	for _, p := range cfg.Providers {
		longest = max(longest, p.Timeout)
	}
	c := render.Config{
		Shape:          render.Shape(cfg.Envoy.Shape),
		EnvoyVersion:   cfg.Envoy.Version,
		Callers:        callers(cfg),
		Retries:        retries(cfg.Envoy.Retries),
		MaxRetries:     uint32(cfg.Envoy.MaxRetries), //nolint:gosec // the configuration bounds it
		CheckTimeout:   longest + checkGrace,
		HookTimeout:    longest + hookGrace,
		RouteTimeout:   unbounded(cfg.Envoy.RouteTimeout),
		IdleTimeout:    unbounded(cfg.Envoy.IdleTimeout),
		CheckHeaders:   cfg.CheckHeaders(),
		BodyBuffer:     uint32(cfg.Envoy.MaxBodyBytes), //nolint:gosec // the configuration bounds it
		Underscores:    string(cfg.Envoy.HeadersWithUnderscores),
		EscapedSlashes: string(cfg.Envoy.EscapedSlashes),
		TrustedHops:    uint32(cfg.Envoy.TrustedHops), //nolint:gosec // the configuration bounds it
		AccessLog:      cfg.Envoy.AccessLog,
	}
	for _, a := range addresses {
		c.Service.Endpoints = append(c.Service.Endpoints, string(a))
	}
	if t := cfg.Envoy.TLS; t != nil {
		c.Service.TLS = &render.TLS{CAFile: t.CAFile, CertFile: t.CertFile, KeyFile: t.KeyFile, ServerName: t.ServerName}
	}
	c.RetryUnasked = cfg.UnaskedStatuses()
	for _, name := range slices.Sorted(maps.Keys(cfg.Credentials)) {
		credential := cfg.Credentials[name]
		c.CredentialHeaders = append(c.CredentialHeaders, credential.Header.Name)
		c.RejectionStatuses = append(c.RejectionStatuses, credential.Rejection.Statuses...)
	}
	slices.Sort(c.CredentialHeaders)
	c.CredentialHeaders = slices.Compact(c.CredentialHeaders)
	slices.Sort(c.RejectionStatuses)
	c.RejectionStatuses = slices.Compact(c.RejectionStatuses)
	return c, nil
}

// unbounded translates "no bound", which is 0 in the configuration and below it
// for the renderer.
func unbounded(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// routes has one route for each policy, with its backend if one is given.
func routes(cfg *config.Config, backends []string) ([]render.Route, error) {
	given := map[string]string{}
	for _, b := range backends {
		policy, backend, ok := strings.Cut(b, "=")
		if !ok || policy == "" || backend == "" {
			return nil, fmt.Errorf("--backend %q: write POLICY=host:port", b)
		}
		if _, ok := cfg.Policies[policy]; !ok {
			return nil, fmt.Errorf("--backend %q: the configuration has no policy %q; it has %s",
				b, policy, strings.Join(slices.Sorted(maps.Keys(cfg.Policies)), ", "))
		}
		if given[policy] != "" {
			return nil, fmt.Errorf("--backend %q: the policy has a backend already", b)
		}
		given[policy] = backend
	}
	var all []render.Route
	for _, policy := range slices.Sorted(maps.Keys(cfg.Policies)) {
		all = append(all, render.Route{Policy: policy, Backend: given[policy], Push: push(cfg, cfg.Policies[policy])})
	}
	return all, nil
}

func retries(own config.Retries) render.Retries {
	return render.Retries{
		On: own.Conditions, Attempts: uint32(own.Attempts), PerTryTimeout: own.PerTryTimeout, Hedge: own.Hedge, //nolint:gosec // the configuration bounds it
	}
}

// push is what Envoy does by itself for a policy, nil if it asks rebearer.
func push(cfg *config.Config, p config.Policy) *render.Push {
	if p.Delivery != config.DeliveryPush {
		return nil
	}
	pushed := &render.Push{
		Credential: p.Credential, Header: cfg.Credentials[p.Credential].Header.Name, Callers: p.Callers, Hosts: p.Hosts,
		Scopes: p.Scopes, AnyScopes: p.AnyScopes, Claims: p.Claims, Clients: p.Clients, Strip: cfg.ForwardHeaders(),
	}
	if from := p.TokenFrom; from != nil {
		pushed.TokenHeader, pushed.TokenScheme = from.Header, from.Scheme
	}
	return pushed
}

// callers are those that Envoy checks by itself, sorted by name.
func callers(cfg *config.Config) []render.Caller {
	names := map[string]bool{}
	for _, p := range cfg.Policies {
		if p.Delivery != config.DeliveryPush {
			continue
		}
		for _, name := range p.Callers {
			names[name] = true
		}
	}
	var all []render.Caller
	for _, name := range slices.Sorted(maps.Keys(names)) {
		caller := cfg.Callers[name]
		provider := cfg.Providers[caller.Provider]
		c := render.Caller{
			Name: name, Issuer: provider.Issuer, Audiences: caller.Audiences,
			JWKSURL: provider.JWKSURL, CAFile: provider.CAFile,
			ClockSkew: caller.ClockSkew, RequiredClaims: caller.RequiredClaims,
		}
		if !caller.AnyAlgorithm() {
			c.Algorithms = caller.Algorithms
		}
		all = append(all, c)
	}
	return all
}
