package envoytest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Binary is one version of Envoy.
type Binary struct {
	// Name is "newest" or "oldest".
	Name string
	// Path is the executable, empty where there is none.
	Path string
}

// Binaries returns the newest and the oldest Envoy, in that order, also where
// one is missing.
func Binaries() []Binary {
	newest := os.Getenv("ENVOY")
	if newest == "" {
		newest, _ = exec.LookPath("envoy")
	}
	return []Binary{
		{Name: "newest", Path: newest},
		{Name: "oldest", Path: os.Getenv("ENVOY_OLDEST")},
	}
}

// Require skips the test where the binary is missing, or fails it where
// REBEARER_REQUIRE_REAL=1.
func (b Binary) Require(tb testing.TB) {
	tb.Helper()
	if b.Path != "" {
		return
	}
	const hint = "no %s Envoy: run `make envoy`, or set ENVOY and ENVOY_OLDEST"
	if os.Getenv("REBEARER_REQUIRE_REAL") == "1" {
		tb.Fatalf(hint, b.Name)
	}
	tb.Skipf(hint, b.Name)
}

// Validate asks Envoy whether it would accept a bootstrap in YAML, and returns
// what it printed. The error is that of the process: nil means accepted.
func (b Binary) Validate(tb testing.TB, bootstrap []byte) (string, error) {
	tb.Helper()
	b.Require(tb)
	cmd := exec.CommandContext(tb.Context(), b.Path) //nolint:gosec // the developer says which Envoy to run
	cmd.Args = append(cmd.Args, "--mode", "validate", "-c", write(tb, bootstrap), "--use-dynamic-base-id")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func write(tb testing.TB, bootstrap []byte) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "envoy.yaml")
	if err := os.WriteFile(path, bootstrap, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}
