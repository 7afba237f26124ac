package envoytest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Binary is one version of Envoy.
type Binary struct {
	// Name is "newest" or "oldest", or the version where $ENVOYS lists them.
	Name string
	// Path is the executable, empty where there is none.
	Path string
}

// Binaries returns the Envoys that $ENVOYS lists, or else the newest and the
// oldest, in that order, also where one is missing.
func Binaries() []Binary {
	if list := filepath.SplitList(os.Getenv("ENVOYS")); len(list) > 0 {
		var all []Binary
		for _, path := range list {
			b := Binary{Name: path, Path: path}
			if version, err := b.version(); err == nil {
				b.Name = version
			}
			all = append(all, b)
		}
		return all
	}
	newest := os.Getenv("ENVOY")
	if newest == "" {
		newest, _ = exec.LookPath("envoy")
	}
	return []Binary{
		{Name: "newest", Path: newest},
		{Name: "oldest", Path: os.Getenv("ENVOY_OLDEST")},
	}
}

// Version returns the version, like "1.40.0".
func (b Binary) Version(tb testing.TB) string {
	tb.Helper()
	b.Require(tb)
	version, err := b.version()
	if err != nil {
		tb.Fatal(err)
	}
	return version
}

func (b Binary) version() (string, error) {
	out, err := exec.Command(b.Path, "--version").Output() //nolint:gosec,noctx // the developer says which Envoy to run; it ends at once
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", b.Path, err)
	}
	_, after, _ := strings.Cut(string(out), "version: ") // HASH/1.40.0/Clean/RELEASE/BoringSSL
	if parts := strings.Split(after, "/"); len(parts) > 1 {
		return parts[1], nil
	}
	return "", fmt.Errorf("%s --version: %q names none", b.Path, out)
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
