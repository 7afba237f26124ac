package envoyproc

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// realEnvoy returns the Envoy that the tests run with, and skips the test
// where there is none, unless the real parts are required.
func realEnvoy(t *testing.T) string {
	t.Helper()
	for _, name := range []string{os.Getenv(Variable), "envoy"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	requireReal(t, "no Envoy: set $ENVOY")
	return ""
}

// requireReal skips the test for a reason, or fails it where
// REBEARER_REQUIRE_REAL=1 says that there must be none.
func requireReal(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("REBEARER_REQUIRE_REAL") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// place makes a file that can be run.
func place(t *testing.T, elements ...string) string {
	t.Helper()
	path := filepath.Join(elements...)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexit 0\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFind(t *testing.T) {
	folder := t.TempDir()
	named := place(t, folder, "named", "envoy-of-mine")
	onPath := place(t, folder, "bin", "envoy")
	cache := filepath.Join(folder, "build")
	cached := place(t, cache, "envoy-"+Pinned, "lib", "python3.11", "site-packages", "envoy", "_bin", "envoy")

	tests := map[string]struct {
		variable, path, cache string
		want                  string
		wantErr               string
	}{
		"variable wins":       {variable: named, path: filepath.Dir(onPath), cache: cache, want: named},
		"variable is wrong":   {variable: filepath.Join(folder, "missing"), path: filepath.Dir(onPath), cache: cache, wantErr: "$ENVOY"},
		"path comes second":   {path: filepath.Dir(onPath), cache: cache, want: onPath},
		"cache comes third":   {path: folder, cache: cache, want: cached},
		"nothing, no python3": {path: folder, cache: filepath.Join(folder, "empty"), wantErr: "python3"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Setenv(Variable, test.variable)
			t.Setenv("PATH", test.path)
			got, err := Find(t.Context(), test.cache, io.Discard)
			if got != test.want {
				t.Errorf("got %q, want %q (%v)", got, test.want, err)
			}
			if (test.wantErr != "") != (err != nil) {
				t.Fatalf("got error %v", err)
			}
			if err != nil && (!errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), test.wantErr)) {
				t.Errorf("got error %v, want one that says %q", err, test.wantErr)
			}
		})
	}
}

// TestInstall installs for real, over the remains of a broken installation.
func TestInstall(t *testing.T) {
	if os.Getenv("REBEARER_REQUIRE_REAL") != "1" {
		t.Skip("installs Envoy from PyPI: only with REBEARER_REQUIRE_REAL=1")
	}
	cache := t.TempDir()
	broken := filepath.Join(cache, "envoy-"+Pinned, "lib")
	if err := os.MkdirAll(broken, 0o750); err != nil {
		t.Fatal(err)
	}
	var progress bytes.Buffer
	for _, wantLines := range []int{1, 1} { // the second time there is nothing to do
		path, err := Install(t.Context(), cache, Pinned, &progress)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(progress.String(), "\n"); got != wantLines {
			t.Errorf("got progress %q, want %d lines", &progress, wantLines)
		}
		if got, err := Version(t.Context(), path); err != nil || got != Pinned {
			t.Errorf("got version %q, want %s (%v)", got, Pinned, err)
		}
	}
	entries, err := os.ReadDir(cache)
	if err != nil || len(entries) != 1 {
		t.Errorf("got %d entries in the cache, want the installation alone (%v)", len(entries), err)
	}
}

func TestInstallUnknownVersion(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		requireReal(t, "no python3")
	}
	t.Setenv("PIP_NO_INDEX", "1") // as good as no network
	cache := t.TempDir()
	_, err := Install(t.Context(), cache, "0.0.0", io.Discard)
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "$ENVOY") {
		t.Errorf("got error %v, want ErrNotFound with what to do", err)
	}
	if entries, err := os.ReadDir(cache); err != nil || len(entries) != 0 {
		t.Errorf("the failed installation left %d entries (%v)", len(entries), err)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	path := realEnvoy(t)
	got, err := Version(t.Context(), path)
	if err != nil || !strings.HasPrefix(got, "1.") {
		t.Errorf("got %q, want 1.x (%v)", got, err)
	}
	if got, err := Version(t.Context(), place(t, t.TempDir(), "envoy")); err == nil {
		t.Errorf("a program without a version has version %q", got)
	}
}
