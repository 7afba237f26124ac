package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newSimulate(flags *common) *cobra.Command {
	r := &remote{flags: flags}
	c := &cobra.Command{
		Use:   "simulate",
		Short: "Provoke what rebearer is there for, to see that it works",
		Long: `Talks to the admin API of a running service whose configuration says
server.admin.allow_simulation: true. For staging, not for production.`,
		Example: "  rebearer simulate void orders",
		Args:    cobra.NoArgs,
		RunE:    showHelp,
	}
	r.addFlags(c)
	c.AddCommand(&cobra.Command{
		Use:   "void CREDENTIAL",
		Short: "Have the next request meet a dead token",
		Long: `Puts a token in place of the one that is held which no backend accepts, as if the
provider had voided it. The next request is refused by its backend, and sent again
with a fresh token: its caller notices nothing, and the log and
rebearer_retries_total show it.`,
		Example: "  rebearer simulate void orders",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := r.client()
			if err != nil {
				return err
			}
			after, err := client.Void(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "the next request with %s meets a dead token\n", after.Name)
			return nil
		},
	})
	return c
}
