package examples_test

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// mesh is what a control plane is tested with: the parts of the demo, and a
// rebearer with the example's configuration.
type mesh struct {
	program               string // rebearer
	config                string // its configuration
	callers, backend, api string // URLs of the demo's parts
	rebearer              string // host:port of rebearer's gRPC port
}

// The deliveries that a control plane is tested with.
const (
	check = "check"
	push  = "push"
)

// startMesh starts the demo's parts, and rebearer with the configuration of the
// example, less its addresses, and its policy with another delivery.
func startMesh(t *testing.T, example, delivery string) *mesh {
	t.Helper()
	m := &mesh{program: filepath.Join(t.TempDir(), "rebearer")}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", m.program, "../cmd/rebearer").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	parts := start(t, nil, m.program, "demo", "parts", "--restart-every", "2s")
	m.callers = parts.find(t, `^callers' provider +(\S+)`)
	m.backend = parts.find(t, `^backend's provider +(\S+)`)
	m.api = parts.find(t, `^protected API +(\S+)`)

	m.config = m.configuration(t, example, delivery)
	serve := start(t, nil, m.program, "serve", "--config", m.config)
	m.rebearer = serve.find(t, `"listener":"server.grpc".*"address":"([^"]+)"`)
	serve.find(t, `"event":"(issued)"`)
	return m
}

// configuration writes the example's configuration for this machine.
func (m *mesh) configuration(t *testing.T, example, delivery string) string {
	t.Helper()
	var file map[string]any
	if err := yaml.Unmarshal([]byte(m.local(string(read(t, example+"/rebearer.yaml")))), &file); err != nil {
		t.Fatal(err)
	}
	const anywhere = "127.0.0.1:0"
	file["server"] = map[string]any{
		"grpc":   map[string]any{"address": anywhere, "insecure": true},
		"admin":  map[string]any{"address": anywhere},
		"status": map[string]any{"address": anywhere},
	}
	policy := at(file, "policies", "api")
	policy["delivery"], policy["clients"] = delivery, []string{"demo-caller"}
	if delivery == push {
		// What Envoy has to be told where it asks nobody.
		at(file, "providers", "callers")["jwks_url"] = m.callers + "/jwks"
		if istio, ok := at(file, "envoy")["istio"]; ok {
			at(istio, "routes", 0)["service"] = "parts.rebearer.svc.cluster.local:8080"
		}
	}
	text, err := yaml.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	name := filepath.Join(folder, "rebearer.yaml")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(folder, "secrets"), os.DirFS(example+"/secrets")); err != nil {
		t.Fatal(err)
	}
	return name
}

// objects are those that rebearer prints for a control plane.
func (m *mesh) objects(t *testing.T, target string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), m.program, "envoy", "--config", m.config, "--target", target).Output()
	if err != nil {
		t.Fatalf("rebearer envoy: %v\n%s", err, out)
	}
	return string(out)
}

// local has the demo's providers where they are on this machine.
func (m *mesh) local(text string) string {
	return strings.NewReplacer(
		"http://parts.rebearer.svc:8081", m.callers,
		"http://parts.rebearer.svc:8082", m.backend,
	).Replace(text)
}

// token is one of a caller.
func (m *mesh) token(t *testing.T) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, m.callers+"/token", strings.NewReader("grant_type=client_credentials"))
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth("demo-caller", "demo-caller-secret")
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	status, body := do(t, request)
	if err := yaml.Unmarshal(body, &answer); err != nil || answer.AccessToken == "" {
		t.Fatalf("no token: status %d, %v", status, err)
	}
	return answer.AccessToken
}

// checkAnswers asks through Envoy as callers do.
func (m *mesh) checkAnswers(t *testing.T, envoy string) {
	t.Helper()
	token := m.token(t)
	for _, tt := range []struct {
		name    string
		headers map[string]string
		want    int
	}{
		{"good", map[string]string{"Authorization": "Bearer " + token}, http.StatusOK},
		{"no token", nil, http.StatusUnauthorized},
		{"bad token", map[string]string{"Authorization": "Bearer nonsense"}, http.StatusUnauthorized},
		{"our own header", map[string]string{"X-Rebearer-Authorization": "Bearer " + token}, http.StatusUnauthorized},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+envoy+"/echo", nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range tt.headers {
			request.Header.Set(name, value)
		}
		status, body := do(t, request)
		if status != tt.want {
			t.Errorf("%s: got %d, want %d\n%s", tt.name, status, tt.want, body)
		}
		if strings.Contains(string(body), token) || strings.Contains(strings.ToLower(string(body)), "x-rebearer") {
			t.Errorf("%s: the API saw what it should not:\n%s", tt.name, body)
		}
	}
}

// checkWiring has rebearer look at what an Envoy runs: it must find nothing wrong
// with it, and have looked at the example's route.
func (m *mesh) checkWiring(t *testing.T, admin string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, admin+"/config_dump", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, dump := do(t, request)
	cmd := exec.CommandContext(t.Context(), m.program, "envoy", "--config", m.config, "--check", "-")
	cmd.Stdin = bytes.NewReader(dump)
	out, err := cmd.CombinedOutput()
	t.Logf("rebearer envoy --check:\n%s", out)
	if err != nil || !bytes.Contains(out, []byte("looked at:")) {
		t.Errorf("the chain is not wired: %v", err)
	}
}

// checkRestarts sends a load while the backend's provider restarts again and
// again: no request may fail, and some must have been sent twice.
func (m *mesh) checkRestarts(t *testing.T, envoy string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), m.program, "demo", "caller", "--duration", "15s",
		"--url", "http://"+envoy+"/", "--token-url", m.callers+"/token").CombinedOutput()
	summaries := regexp.MustCompile(`caller: (\d+) requests, (\d+) failed, (\d+) retried.*`).FindAllStringSubmatch(string(out), -1)
	if err != nil || len(summaries) == 0 {
		t.Fatalf("caller: %v\n%s", err, out)
	}
	last := summaries[len(summaries)-1]
	t.Log(last[0])
	if failed, retried := number(t, last[2]), number(t, last[3]); failed != 0 || retried < 3 {
		t.Errorf("%d requests failed and %d were retried, want 0 and at least 3", failed, retried)
	}
}

// at is what a path of keys and indices leads to.
func at(value any, path ...any) map[string]any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			value = value.(map[string]any)[step] //nolint:errcheck // a test may panic
		case int:
			value = value.([]any)[step] //nolint:errcheck // a test may panic
		}
	}
	return value.(map[string]any) //nolint:errcheck // a test may panic
}
