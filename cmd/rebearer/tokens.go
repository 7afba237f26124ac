package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/admin"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
)

// remote says which service the tokens commands talk to.
type remote struct {
	flags     *common
	address   string
	tokenFile string
}

func newTokens(flags *common) *cobra.Command {
	r := &remote{flags: flags}
	c := &cobra.Command{
		Use:   "tokens",
		Short: "Look at a running service's backend tokens, and act on them",
		Long: `Talks to the admin API of a running service. Its address and token file come from
the configuration file, or from the flags. No command ever shows a token.`,
		Example: `  rebearer tokens list
  rebearer tokens flush orders
  rebearer tokens list --admin 127.0.0.1:9002 --admin-token-file /run/secrets/admin`,
		Args: cobra.NoArgs,
		RunE: showHelp,
	}
	r.addFlags(c)
	c.AddCommand(r.list(), r.flush(),
		r.change("pause", "Stop a credential's token requests", `No token is requested for the credential until it is resumed, not even to renew
it. The token that is held is sent until it expires; then callers get 503.`, (*admin.Client).Pause),
		r.change("resume", "Undo pause", `Token requests are made again. A token that is missing or due is fetched at once.`, (*admin.Client).Resume))
	return c
}

// addFlags adds the flags that say where the service is, to a command and those
// below it.
func (r *remote) addFlags(c *cobra.Command) {
	c.PersistentFlags().StringVar(&r.address, "admin", "", "`host:port` of the admin API (default: server.admin.address of the configuration)")
	c.PersistentFlags().StringVar(&r.tokenFile, "admin-token-file", "", "`file` of the admin token (default: server.admin.token_file of the configuration)")
}

// client returns a client of the service that the flags or the configuration
// name. The configuration is needed only for what the flags leave out.
func (r *remote) client() (*admin.Client, error) {
	address, tokenFile := r.address, r.tokenFile
	if address == "" {
		cfg, err := config.Load(r.flags.config)
		if err != nil {
			return nil, fmt.Errorf("%w\n(say --admin host:port to do without the configuration)", err)
		}
		_, address = cfg.Server.Admin.Address.Network()
		tokenFile = cmp.Or(tokenFile, cfg.Server.Admin.TokenFile)
	}
	return admin.NewClient(address, tokenFile), nil
}

func (r *remote) list() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "Show every credential's token and clients: state, expiry, fingerprint, health",
		Example: "  rebearer tokens list",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := r.client()
			if err != nil {
				return err
			}
			all, err := client.List(cmd.Context())
			if err != nil {
				return err
			}
			return printCredentials(cmd.OutOrStdout(), all.Credentials)
		},
	}
}

func (r *remote) flush() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "flush [CREDENTIAL]",
		Short: "Drop a credential's token, or all of them, and fetch another",
		Example: `  rebearer tokens flush orders
  rebearer tokens flush --all`,
		Args: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) == 1) {
				return fmt.Errorf("name one credential, or say --all")
			}
			return cobra.MaximumNArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := r.client()
			if err != nil {
				return err
			}
			request := admin.FlushRequest{All: all}
			if !all {
				request.Credential = args[0]
			}
			answer, err := client.Flush(cmd.Context(), request)
			if err != nil {
				return err
			}
			for _, name := range answer.Flushed {
				fmt.Fprintf(cmd.OutOrStdout(), "flushed %s\n", name)
			}
			for _, name := range answer.Paused {
				fmt.Fprintf(cmd.OutOrStdout(), "left %s alone: it is paused\n", name)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&all, "all", false, "flush every credential")
	return c
}

type action func(*admin.Client, context.Context, string) (admin.Credential, error)

// change is a command that does one thing to one credential.
func (r *remote) change(name, short, long string, do action) *cobra.Command {
	return &cobra.Command{
		Use:     name + " CREDENTIAL",
		Short:   short,
		Long:    long,
		Example: "  rebearer tokens " + name + " orders",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := r.client()
			if err != nil {
				return err
			}
			after, err := do(client, cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return printCredentials(cmd.OutOrStdout(), []admin.Credential{after})
		},
	}
}

// printCredentials writes one table of credentials and one of their clients.
func printCredentials(out io.Writer, all []admin.Credential) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "CREDENTIAL\tPROVIDER\tSTATE\tGENERATION\tFINGERPRINT\tEXPIRES IN\tRENEWED IN\tUSES\tCACHE\tCALLERS\tERROR")
	clients := 0
	for _, c := range all {
		state := c.State
		if c.Paused {
			state += ", paused"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%d\t%s\t%d\t%s\n",
			c.Name, cmp.Or(c.Provider, "-"), state, c.Generation, cmp.Or(c.Fingerprint, "-"), until(c.Expires), until(c.Renewal),
			c.Uses, c.Cache, c.Subjects, cmp.Or(c.Error, c.Unsaved, "-"))
		clients += len(c.Clients)
	}
	if err := table.Flush(); err != nil || clients == 0 {
		return err
	}
	fmt.Fprintln(table, "\nCREDENTIAL\tCLIENT\tPROVIDER\tBREAKER\tREFUSED\tFAILURES\tTRIED IN\tERROR")
	for _, c := range all {
		for _, client := range c.Clients {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%t\t%d\t%s\t%s\n", c.Name, cmp.Or(client.ID, "-"), client.Provider,
				client.Breaker, client.Refused, client.Failures, until(client.NextTry), cmp.Or(client.Error, "-"))
		}
	}
	return table.Flush()
}

func until(t *time.Time) string {
	if t == nil {
		return "-"
	}
	if left := time.Until(*t); left > 0 {
		return left.Round(time.Second).String()
	}
	return "over"
}
