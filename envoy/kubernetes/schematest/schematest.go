// Package schematest checks objects of the Kubernetes API in tests, as a cluster
// would that has Istio and Envoy Gateway: kubectl-validate runs the API server's
// own code on the schemas, rules in CEL and unknown fields included.
//
// $REBEARER_KUBECTL_VALIDATE is that program, and $REBEARER_SCHEMAS a folder of
// custom resource definitions; `make schemas` installs both. A test that needs
// them is skipped where they are missing, or fails where REBEARER_REQUIRE_REAL=1.
package schematest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Check fails the test if a cluster would refuse any of the objects in a YAML
// stream. It blocks for about a second.
func Check(tb testing.TB, objects []byte) {
	tb.Helper()
	program, schemas := os.Getenv("REBEARER_KUBECTL_VALIDATE"), os.Getenv("REBEARER_SCHEMAS")
	if program == "" || schemas == "" {
		const hint = "nothing to check objects with: run `make schemas`, and set REBEARER_KUBECTL_VALIDATE and REBEARER_SCHEMAS as `make test-e2e` does"
		if os.Getenv("REBEARER_REQUIRE_REAL") == "1" {
			tb.Fatal(hint)
		}
		tb.Skip(hint)
	}
	path := filepath.Join(tb.TempDir(), "objects.yaml")
	if err := os.WriteFile(path, objects, 0o600); err != nil {
		tb.Fatal(err)
	}
	out, err := exec.CommandContext(tb.Context(), program, "--local-crds", schemas, path).CombinedOutput() //nolint:gosec // the developer says which program to run
	if err != nil {
		tb.Errorf("a cluster would refuse it: %v\n%s", err, out)
	}
}
