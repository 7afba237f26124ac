package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/service"
)

func newValidate(flags *common) *cobra.Command {
	var connect bool
	c := &cobra.Command{
		Use:   "validate",
		Short: "Check a configuration file",
		Long: `Checks the configuration file and every file that it names, and says all that is
wrong with line and column. With --connect it also loads the signing keys of the
callers' providers and fetches one token with every client of every credential, and
prints expiry and fingerprint of each: never the token. Credentials on behalf of
callers are left out, and a refresh token that the provider rotates is kept.

The exit status is 1 if anything is wrong.`,
		Example: `  rebearer validate --config rebearer.yaml
  rebearer validate --config rebearer.yaml --connect`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(flags.config)
			if err != nil {
				return err
			}
			if err := service.Check(cfg); err != nil {
				return fmt.Errorf("%s: %w", flags.config, err)
			}
			out := cmd.OutOrStdout()
			for _, warning := range cfg.Warnings() {
				fmt.Fprintf(out, "warning: %s\n", warning)
			}
			fmt.Fprintf(out, "%s: ok (%d providers, %d callers, %d credentials, %d policies)\n",
				flags.config, len(cfg.Providers), len(cfg.Callers), len(cfg.Credentials), len(cfg.Policies))
			if !connect {
				return nil
			}
			return tryConnect(cmd.Context(), out, cfg)
		},
	}
	c.Flags().BoolVar(&connect, "connect", false, "also ask every provider once")
	return c
}

// tryConnect asks every provider once and prints what came of it.
func tryConnect(ctx context.Context, out io.Writer, cfg *config.Config) error {
	results, err := service.Connect(ctx, cfg)
	if err != nil {
		return err
	}
	failed := false
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, r := range results {
		verdict := "ok"
		if r.Err != nil {
			failed = true
			verdict = "failed: " + r.Err.Error()
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", r.Kind, r.Name, verdict, r.Detail)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if failed {
		return &silentError{}
	}
	return nil
}
