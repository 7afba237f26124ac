package config

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// FuzzParse: no text makes Parse panic or answer with neither or both of a
// configuration and an error, and what it accepts can be asked everything.
func FuzzParse(f *testing.F) {
	archives, err := filepath.Glob("testdata/errors/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range archives {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			f.Add(file.Data)
		}
	}
	f.Add([]byte("version: 1\nx-a: &a [*a]\nproviders: {<<: [*a, {p: {}}]}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := Parse(data, "rebearer.yaml")
		if (cfg == nil) == (err == nil) {
			t.Fatalf("Parse = %v, %v", cfg, err)
		}
		if err != nil {
			if !strings.HasPrefix(err.Error(), "rebearer.yaml:") {
				t.Errorf("the error does not start with the file: %v", err)
			}
			return
		}
		cfg.Warnings()
		cfg.Files()
		_, _ = cfg.EnvoyAddresses()
	})
}
