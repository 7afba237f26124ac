package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// The exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// run is the program: it runs one command until it is done or ctx ends, and
// returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot(stdout, stderr)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var usage *usageError
	var silent *silentError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &silent):
		return exitFailure
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "rebearer: %v\nTry: %s --help\n", err, usage.command)
		return exitUsage
	}
	fmt.Fprintf(stderr, "rebearer: %v\n", err)
	return exitFailure
}

// usageError is a command line that makes no sense.
type usageError struct {
	command string
	err     error
}

func (e *usageError) Error() string { return e.err.Error() }

func (e *usageError) Unwrap() error { return e.err }

// silentError is a failure that the command has already shown.
type silentError struct{}

func (*silentError) Error() string { return "failed" }

// common are the flags that every command has.
type common struct {
	config string
}

func newRoot(stdout, stderr io.Writer) *cobra.Command {
	flags := &common{}
	root := &cobra.Command{
		Use:   "rebearer",
		Short: "External authorization for Envoy that survives dead backend tokens",
		Long: `rebearer validates callers' tokens for Envoy (ext_authz) and sends the backend
its own OAuth token. When a backend refuses that token because the identity
provider voided it, rebearer fetches a fresh one and has Envoy send the same
request again: the caller notices nothing.`,
		Example: `  rebearer demo --duration 20s                 see it work
  rebearer validate --config rebearer.yaml      check a configuration
  rebearer serve --config rebearer.yaml         run it
  rebearer envoy --config rebearer.yaml         print Envoy's side`,
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          showHelp,
	}
	root.PersistentFlags().StringVarP(&flags.config, "config", "c", "rebearer.yaml", "configuration `file`")
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return &usageError{c.CommandPath(), err} })
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newServe(flags), newValidate(flags), newEnvoy(flags), newTokens(flags), newSimulate(flags), newDemo())
	refuseArguments(root)
	return root
}

// showHelp is what a command does that only has others below it. Without it
// Cobra would take any word for a request for help.
func showHelp(c *cobra.Command, _ []string) error { return c.Help() }

// refuseArguments makes wrong arguments a usage error, for a command and those
// below it.
func refuseArguments(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return &usageError{c.CommandPath(), err}
			}
			return nil
		}
	}
	for _, below := range c.Commands() {
		refuseArguments(below)
	}
}

// version is that of the module, as the Go tool stamped it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}
