package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/rebearer/rebearer/envoy/render"
	"github.com/rebearer/rebearer/envoy/wiring"
)

// errNotWired ends the command with another status than 0; what is wrong has
// been said by then.
var errNotWired = errors.New("rejected requests are not all retried: see above")

// checkWiring tells whether the Envoy whose configuration dump is in the file of
// that name ("-" is standard input) has the whole chain.
func checkWiring(name string, in io.Reader, out io.Writer, cfg render.Config) error {
	var (
		data []byte
		err  error
	)
	if name == "-" {
		data, err = io.ReadAll(in)
	} else {
		data, err = os.ReadFile(name)
	}
	if err != nil {
		return err
	}
	known, err := render.Hashes(cfg)
	if err != nil {
		return err
	}
	report, err := wiring.Inspect(data, wiring.Config{Hashes: known, Unasked: len(cfg.RetryUnasked) > 0})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, route := range report.Routes {
		fmt.Fprintf(out, "looked at: %s\n", route)
	}
	for _, finding := range report.Findings {
		fmt.Fprintf(out, "WRONG:     %s\n", finding)
	}
	if len(report.Findings) > 0 {
		return errNotWired
	}
	fmt.Fprintln(out, "The whole chain is wired.")
	return nil
}
