package examples_test

import (
	"bytes"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/envoy/envoytest"
)

var update = flag.Bool("update", false, "write the files that rebearer prints")

// TestConfigurations checks every rebearer.yaml, and the files it names.
func TestConfigurations(t *testing.T) {
	t.Parallel()
	for _, name := range find(t, ".", "rebearer.yaml") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rebearer(t, "validate", "--config", name)
		})
	}
}

// TestBootstraps checks that every envoy.yaml is what rebearer prints for the
// example today, and that Envoy accepts it.
func TestBootstraps(t *testing.T) {
	t.Parallel()
	// What the READMEs say to run.
	commands := map[string][]string{
		"compose/envoy.yaml": {
			"envoy", "--config", "compose/rebearer/rebearer.yaml",
			"--bootstrap", "--listen", "0.0.0.0:10000", "--backend", "default=parts:8080",
		},
		"kubernetes/envoy.yaml": {
			"envoy", "--config", "kubernetes/rebearer.yaml",
			"--bootstrap", "--listen", "0.0.0.0:10000", "--backend", "default=parts.rebearer.svc:8080",
		},
	}
	for _, name := range find(t, ".", "envoy.yaml") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			command, ok := commands[name]
			if !ok {
				t.Fatal("nothing says which command prints this file")
			}
			bootstrap := rebearer(t, command...)
			compare(t, name, bootstrap)
			for _, envoy := range envoytest.Binaries() {
				t.Run(envoy.Name, func(t *testing.T) {
					t.Parallel()
					if out, err := envoy.Validate(t, bootstrap); err != nil {
						t.Errorf("Envoy refuses it: %v\n%s", err, out)
					}
				})
			}
		})
	}
}

// compare compares a golden file with what it should hold, or writes it.
func compare(t *testing.T, name string, want []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(read(t, name)), string(want)); diff != "" {
		t.Errorf("not up to date (go test ./examples -update writes it):\n%s", diff)
	}
}

// rebearer runs the program as a user does, and returns what it prints.
func rebearer(t *testing.T, args ...string) []byte {
	t.Helper()
	// The program is no import of this package. Looking at its source tells
	// the cache of "go test" that the result depends on it.
	for _, folder := range []string{"../cmd", "../envoy", "../extauthz", "../tokens"} {
		find(t, folder, "doc.go")
	}
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"run", "-trimpath", "../cmd/rebearer"}, args...)...)
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("rebearer %v: %v\n%s", args, err, &complaints)
	}
	return out
}

// find returns the files of one name in a folder and all below it, at least
// one.
func find(t *testing.T, folder, name string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Name() == name {
			found = append(found, filepath.ToSlash(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 {
		t.Fatalf("no %s in %s", name, folder)
	}
	return found
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
