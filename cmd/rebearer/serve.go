package main

import (
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/service"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/telemetry"
	"github.com/rebearer/rebearer/envoy/render"
)

func newServe(flags *common) *cobra.Command {
	var (
		level slog.LevelVar
		text  bool
		drain time.Duration
	)
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the service that Envoy calls",
		Long: `Runs the gRPC server (ext_authz, the hook, secrets, health and reflection), the
status listener (/healthz, /readyz, /metrics) and the admin API, until SIGTERM
or SIGINT. A changed configuration file is taken without a restart; one that is
wrong is refused, and the old one stays.

The log goes to standard error, one JSON object a line.`,
		Example: `  rebearer serve --config /etc/rebearer/rebearer.yaml
  rebearer serve --log-level debug --log-text`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			relaxGC()
			out := telemetry.NewWriter(cmd.ErrOrStderr(), text)
			defer func() { _ = out.Close() }()
			s, err := service.New(service.Options{
				ConfigFile: flags.config,
				Logger:     newLogger(out, &level, text),
				Level:      &level,
				Hashes:     envoyHashes,
				DrainDelay: drain,
			})
			if err != nil {
				return err
			}
			return s.Run(cmd.Context())
		},
	}
	c.Flags().TextVar(&level, "log-level", &slog.LevelVar{}, "debug, info, warn or error")
	c.Flags().BoolVar(&text, "log-text", false, "log text instead of JSON")
	c.Flags().DurationVar(&drain, "drain-delay", time.Second, "how long to go on serving after saying that the service stops")
	return c
}

// envoyHashes are what an Envoy may say of its configuration that was rendered
// from cfg. Where Envoy reaches the service, and how, does not count.
func envoyHashes(cfg *config.Config) ([]string, error) {
	if len(cfg.Policies) == 0 {
		return nil, nil // there are no routes
	}
	here := *cfg
	here.Server.GRPC.TLS, here.Envoy.TLS = nil, nil
	here.Envoy.Addresses = []config.Address{"127.0.0.1:9001"}
	c, err := renderConfig(&here)
	if err != nil {
		return nil, err
	}
	if c.Routes, err = routes(&here, nil); err != nil {
		return nil, err
	}
	return render.Hashes(c)
}

// newLogger returns a logger that writes lines to out.
func newLogger(out io.Writer, level *slog.LevelVar, text bool) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if text {
		return slog.New(slog.NewTextHandler(out, options))
	}
	return slog.New(slog.NewJSONHandler(out, options))
}

// gcPercent spares a process with little memory most of its garbage collections.
const gcPercent = 400

// relaxGC sets gcPercent, unless the operator has said otherwise.
func relaxGC() {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
