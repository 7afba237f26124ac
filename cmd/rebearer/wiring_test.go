package main

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/api"
)

// configDump is what Envoy's admin interface says that it runs.
func (s *stack) configDump(t testing.TB) string {
	t.Helper()
	response, err := http.Get(s.envoy.Admin + "/config_dump")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// `rebearer envoy --check` finds nothing wrong with an Envoy that runs what it
// printed, whichever way, and says what is wrong with any other.
func TestCheckWiring(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		s := newStack(t, newest(), stackOptions{way: w, processes: true}) // which have addresses
		dump := s.configDump(t)
		check := func(config, dump string) (int, string) {
			file := filepath.Join(t.TempDir(), "dump.json")
			write(t, file, dump)
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), []string{"envoy", "--config", config, "--check", file}, &stdout, &stderr)
			return code, stdout.String() + stderr.String()
		}
		if code, out := check(s.config, dump); code != exitOK || !strings.Contains(out, "The whole chain is wired.") {
			t.Errorf("what runs: exit code %d\n%s", code, out)
		}
		broken := strings.ReplaceAll(dump, "retriable-headers", "5xx")
		if code, out := check(s.config, broken); code != exitFailure || !strings.Contains(out, "rejected requests are not retried") {
			t.Errorf("without our retries: exit code %d\n%s", code, out)
		}
		other := filepath.Join(filepath.Dir(s.config), "other.yaml")
		write(t, other, s.editedConfig(t))
		if code, out := check(other, dump); code != exitFailure || !strings.Contains(out, "rendered from another configuration") {
			t.Errorf("of another configuration: exit code %d\n%s", code, out)
		}
	})
}

// editedConfig is the configuration with a change that Envoy has to be told of.
func (s *stack) editedConfig(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	edited := strings.Replace(string(text), "route_timeout: 30s", "route_timeout: 40s", 1)
	if edited == string(text) {
		t.Fatal("nothing was changed")
	}
	return edited
}

// An Envoy that runs what an older configuration gave is reported, and works on.
func TestConfigMismatch(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		s := newStack(t, newest(), stackOptions{way: w})
		const mismatches = "rebearer_envoy_config_mismatches_total"
		observe := func() { s.send(t, http.MethodGet, api.ForbiddenPath, nil).want(t, http.StatusForbidden) }
		observe()
		s.wantMetrics(t, map[string]float64{mismatches: 0})
		write(t, s.config, s.editedConfig(t))
		await(t, "the other configuration to be taken", func() bool { return strings.Contains(s.logs.String(), "the changed configuration is in use") })
		observe()
		if s.metric(t, mismatches) == 0 || !strings.Contains(s.logs.String(), "an Envoy runs a configuration that does not fit ours") {
			t.Errorf("it is not reported; the log:\n%s", s.logs)
		}
	})
}
