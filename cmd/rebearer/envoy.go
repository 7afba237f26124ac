package main

import (
	"fmt"
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
	bootstrap bool
	listen    string
	admin     string
	backends  []string
}

func newEnvoy(flags *common) *cobra.Command {
	var f envoyFlags
	c := &cobra.Command{
		Use:   "envoy",
		Short: "Print the Envoy configuration that goes with a configuration file",
		Long: `Prints YAML for Envoy 1.36 or newer in the nested shape: an outer listener that
only retries, and an inner one with the routes, ext_authz and the hook.

Without --bootstrap these are pieces to paste into your own bootstrap; with it, a
whole one that "envoy -c" runs as it is. The policy "default" is served on /, any
other on /POLICY/ with that prefix stripped. A backend is host:port (HTTP/1.1),
h2c://host:port (HTTP/2, for gRPC) or https://host:port.`,
		Example: `  rebearer envoy --config rebearer.yaml
  rebearer envoy --config rebearer.yaml --bootstrap --listen 127.0.0.1:10000 \
      --backend default=127.0.0.1:8080 --backend orders=h2c://127.0.0.1:8081 > envoy.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := readText(flags.config)
			if err != nil {
				return err
			}
			out, err := f.render(cfg)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(out)
			return err
		},
	}
	c.Flags().BoolVar(&f.bootstrap, "bootstrap", false, "print a whole bootstrap")
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1:10000", "`host:port` that callers talk to")
	c.Flags().StringVar(&f.admin, "admin", "", "`host:port` of Envoy's admin interface, on loopback (default: none)")
	c.Flags().StringArrayVar(&f.backends, "backend", nil, "`POLICY=host:port` of a policy's backend; may be repeated")
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

// render returns the YAML.
func (f envoyFlags) render(cfg *config.Config) ([]byte, error) {
	c, err := renderConfig(cfg)
	if err != nil {
		return nil, err
	}
	c.Listen, c.Admin = f.listen, f.admin
	if c.Routes, err = routes(cfg, f.backends); err != nil {
		return nil, err
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
		all = append(all, render.Route{Policy: policy, Backend: given[policy]})
	}
	return all, nil
}
