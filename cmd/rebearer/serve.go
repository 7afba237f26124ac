package main

import (
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/service"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/telemetry"
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
		Long: `Runs the gRPC server (ext_authz, the hook, health and reflection), the status
listener (/healthz, /readyz, /metrics) and the admin API, until SIGTERM or
SIGINT. A changed configuration file is taken without a restart; one that is
wrong is refused, and the old one stays.

The log goes to standard error, one JSON object a line.`,
		Example: `  rebearer serve --config /etc/rebearer/rebearer.yaml
  rebearer serve --log-level debug --log-text`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			relaxGC()
			out := telemetry.NewWriter(cmd.ErrOrStderr())
			defer func() { _ = out.Close() }()
			s, err := service.New(service.Options{
				ConfigFile: flags.config,
				Logger:     newLogger(out, &level, text),
				Level:      &level,
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
