package kubernetes_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/envoy/envoytest"
)

// seen is what a caller sees of an answer.
type seen struct {
	Status      int
	Body        string
	Headers     map[string]string
	Unwanted    []string // headers that should not be there
	ContentType string
}

// TestIstioAnswersDead checks in a real Envoy the filters that Istio's listeners
// are given: an answer about our own token, which could not be retried, does not
// look to the caller like one about his.
func TestIstioAnswersDead(t *testing.T) {
	t.Parallel()
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		verdict := r.URL.Query().Get("verdict")
		w.Header().Set("X-Rebearer-Retry", verdict)
		if verdict == "dead" {
			w.Header().Set("X-Rebearer-Dead", verdict)
		}
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		if status := r.URL.Query().Get("grpc"); status != "" {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", status)
			return
		}
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, strings.Repeat("the backend's own words ", 1000))
	}))
	t.Cleanup(backend.Close)
	e := envoytest.Start(t, envoytest.Binaries()[0], withFilters(t, strings.TrimPrefix(backend.URL, "http://")))
	url := "http://" + e.Address(t, "test")

	const problem = `{"title":"Service Unavailable","status":503,` +
		`"detail":"the gateway's credential was just renewed, send the request again","reason":"backend_token_renewed"}`
	tests := []struct {
		name, query string
		want        seen
	}{
		{"dead", "verdict=dead", seen{
			Status: 503, Body: problem, ContentType: "application/problem+json",
			Headers: map[string]string{"Retry-After": "0", "X-Ext-Auth-Reason": "backend_token_renewed"},
		}},
		{"dead, gRPC", "verdict=dead&grpc=16", seen{
			Status: 200, ContentType: "application/grpc", Headers: map[string]string{"Grpc-Status": "14"},
		}},
		{"unclear", "verdict=unclear", seen{
			Status: 401, Body: strings.Repeat("the backend's own words ", 1000), ContentType: "text/plain; charset=utf-8",
			Headers: map[string]string{"Www-Authenticate": `Bearer error="invalid_token"`},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := ask(t, url+"/?"+tt.query, tt.want.Headers)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// ask returns an answer with the headers of these names, and those of our own
// and a challenge where they should not be.
func ask(t *testing.T, url string, wanted map[string]string) seen {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	got := seen{
		Status: response.StatusCode, Body: string(body), Headers: map[string]string{},
		ContentType: response.Header.Get("Content-Type"),
	}
	for name := range wanted {
		got.Headers[name] = response.Header.Get(name)
	}
	for _, name := range []string{"X-Rebearer-Retry", "Www-Authenticate"} {
		if _, ok := wanted[name]; !ok && response.Header.Get(name) != "" {
			got.Unwanted = append(got.Unwanted, name)
		}
	}
	return got
}

// withFilters is a bootstrap with the filters that go before all of Istio's.
func withFilters(t *testing.T, backend string) []byte {
	t.Helper()
	var filters []any
	var host map[string]any
	for _, p := range objects(t, mustRender(t, istio(istioOrders), checkConfig()))[0].Spec["configPatches"].([]any) { //nolint:errcheck // a test may panic
		patch := p.(map[string]any)               //nolint:errcheck // a test may panic
		change := patch["patch"].(map[string]any) //nolint:errcheck // a test may panic
		if change["operation"] == "INSERT_FIRST" {
			filters = append([]any{change["value"]}, filters...)
		}
		if patch["applyTo"] == "VIRTUAL_HOST" {
			host, _ = change["value"].(map[string]any)
		}
	}
	text, err := yaml.Marshal(append(filters, map[string]any{
		"name":         "envoy.filters.http.router",
		"typed_config": map[string]any{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
	}))
	if err != nil {
		t.Fatal(err)
	}
	remove, err := json.Marshal(host["response_headers_to_remove"])
	if err != nil {
		t.Fatal(err)
	}
	address, port, _ := strings.Cut(backend, ":")
	indented := strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", "\n          ")
	return fmt.Appendf(nil, `
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - name: test
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: test
          route_config: {virtual_hosts: [{name: all, domains: ["*"], response_headers_to_remove: %s, routes: [{match: {prefix: /}, route: {cluster: backend}}]}]}
          http_filters:
          %s
  clusters:
  - name: backend
    type: STATIC
    load_assignment:
      cluster_name: backend
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]
`, remove, indented, address, port)
}
