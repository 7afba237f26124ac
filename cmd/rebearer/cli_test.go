package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/provider"
)

// The scripts in testdata/script say what the command line does. They run
// beside two providers, and know a few commands more than others:
//
//	expand FILE             replace $NAME in a file
//	exits CODE COMMAND ...  run a command that must exit with that code
//	ready                   wait until the service at $STATUS is ready
func TestScripts(t *testing.T) {
	if testing.Short() {
		t.Skip("runs rebearer in processes of its own")
	}
	t.Parallel()
	_, callers := newProvider(t, provider.JWT, provider.Client{ID: callerID, Secret: callerSecret})
	// JWTs, because a script can tell them from other text.
	_, backend := newProvider(t, provider.JWT, provider.Client{ID: gatewayID, Secret: gatewaySecret})
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("CALLERS", callers.URL())
			e.Setenv("BACKEND", backend.URL())
			e.Setenv("NOBODY", "http://"+freeAddress(t))
			for _, listener := range []string{"GRPC", "STATUS", "ADMIN"} {
				e.Setenv(listener, freeAddress(t))
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"expand": expand,
			"exits":  exits,
			"ready": func(s *testscript.TestScript, _ bool, _ []string) {
				awaitReady(t, "http://"+s.Getenv("STATUS"))
			},
		},
	})
}

func expand(s *testscript.TestScript, _ bool, files []string) {
	for _, name := range files {
		text := os.Expand(s.ReadFile(name), s.Getenv)
		s.Check(os.WriteFile(s.MkAbs(name), []byte(text), 0o600))
	}
}

func exits(s *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		s.Fatalf("usage: exits CODE COMMAND ...")
	}
	want, err := strconv.Atoi(args[0])
	s.Check(err)
	got := exitOK
	if err := s.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			s.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		s.Fatalf("exit code %d, want %d", got, want)
	}
}

// Every command explains itself with an example that names it.
func TestHelp(t *testing.T) {
	t.Parallel()
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		t.Run(c.CommandPath(), func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			args := append(strings.Fields(c.CommandPath())[1:], "--help")
			if code := run(t.Context(), args, &stdout, &stderr); code != exitOK || stderr.Len() > 0 {
				t.Errorf("exit code %d, %s", code, &stderr)
			}
			_, examples, ok := strings.Cut(stdout.String(), "\nExamples:\n")
			examples, _, _ = strings.Cut(examples, "\n\n")
			if !ok || !strings.Contains(examples, c.CommandPath()) {
				t.Errorf("no example of %q in:\n%s", c.CommandPath(), &stdout)
			}
		})
		for _, below := range c.Commands() {
			visit(below)
		}
	}
	visit(newRoot(&bytes.Buffer{}, &bytes.Buffer{}))
}
