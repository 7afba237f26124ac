package examples_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rebearer/rebearer/envoy/envoytest"
)

// TestIstio has a real istiod program a real Envoy with the example, and restarts
// the backend's provider under load.
func TestIstio(t *testing.T) {
	istiod := os.Getenv("REBEARER_ISTIOD")
	if istiod == "" {
		t.Skip("REBEARER_ISTIOD is the pilot-discovery that runs the example: make test-istio")
	}
	for _, delivery := range []string{check, push} {
		t.Run(delivery, func(t *testing.T) {
			m := startMesh(t, "istio", delivery)
			port := freePort(t)
			envoy := envoytest.Start(t, envoytest.Binaries()[0], istioProxy(startIstiod(t, istiod, m, port)))
			gateway := envoy.Address(t, fmt.Sprintf("0.0.0.0_%d", port))
			m.checkAnswers(t, gateway)
			m.checkRestarts(t, gateway)
			m.checkWiring(t, envoy.Admin)
		})
	}
}

// startIstiod returns the address of an istiod that knows the example and where
// its parts are on this machine. The gateway's port 80 becomes port.
func startIstiod(t *testing.T, istiod string, m *mesh, port int) string {
	t.Helper()
	folder := t.TempDir()
	objects := filepath.Join(folder, "objects")
	if err := os.Mkdir(objects, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	printed := m.objects(t, "istio")
	write("objects/istio.yaml", printed)
	write("objects/gateway.yaml", meshObjects(m.local(string(read(t, "istio/gateway.yaml")))))
	write("objects/machine.yaml", serviceEntry("parts.rebearer.svc.cluster.local", 8080, "HTTP", m.api)+
		serviceEntry("rebearer.rebearer.svc.cluster.local", 9001, "GRPC", m.rebearer)+fmt.Sprintf(workload, port))
	mesh := write("mesh", meshConfig(printed))
	kubeconfig := write("kubeconfig", fmt.Sprintf(kubeconfig, emptyCluster(t)))

	environment := []string{
		"POD_NAME=istiod", "KUBE_FEATURE_WatchListClient=false",
		"ENABLE_CA_SERVER=false", "ENABLE_LEADER_ELECTION=false", "INJECT_ENABLED=false", "VALIDATION_ENABLED=false",
		"PILOT_CERT_PROVIDER=none", "PILOT_ENABLE_GATEWAY_API=false", "PILOT_ENABLE_METADATA_EXCHANGE=false",
	}
	p := start(t, environment, istiod, "discovery", "--registries=Kubernetes", "--kubeconfig="+kubeconfig,
		"--configDir="+objects, "--meshConfig="+mesh, "--httpsAddr=", "--secureGRPCAddr=", "--ctrlz_port=0",
		"--grpcAddr=127.0.0.1:0", "--httpAddr=127.0.0.1:0", "--monitoringAddr=127.0.0.1:0")
	return p.find(t, `starting gRPC discovery service at (\S+)`)
}

// meshObjects are the objects of Istio's own kinds: its files may hold no others.
func meshObjects(stream string) string {
	var kept []string
	for document := range strings.SplitSeq(stream, "\n---\n") {
		if strings.Contains(document, ".istio.io/") {
			kept = append(kept, document)
		}
	}
	return strings.Join(kept, "\n---\n")
}

// meshConfig is what the comment of the printed objects asks for.
func meshConfig(printed string) string {
	text := "enableAutoMtls: false\n"
	for line := range strings.Lines(printed) {
		if indented, ok := strings.CutPrefix(line, "#   "); ok {
			text += indented
		}
	}
	return text
}

// emptyCluster is a Kubernetes API with nothing in it: istiod reads the objects
// from files, but does not start without one.
func emptyCluster(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.Method != http.MethodGet:
			w.WriteHeader(http.StatusNotFound)
			_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`)
		case r.URL.Path == "/version":
			_, _ = io.WriteString(w, `{"major":"1","minor":"36","gitVersion":"v1.36.0"}`)
		case r.URL.Query().Get("watch") != "":
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush() // nothing ever happens
			<-r.Context().Done()
		default:
			_, _ = io.WriteString(w, `{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}`)
		}
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}

const kubeconfig = `
apiVersion: v1
kind: Config
current-context: test
clusters: [{name: test, cluster: {server: %q}}]
users: [{name: test, user: {}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
`

// serviceEntry is a Service of the example, where it is on this machine.
func serviceEntry(host string, port int, protocol, url string) string {
	_, local, _ := net.SplitHostPort(strings.TrimPrefix(url, "http://"))
	return fmt.Sprintf(`
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %q, namespace: istio-ingress}
spec:
  hosts: [%q]
  ports: [{name: main, number: %d, protocol: %s}]
  resolution: STATIC
  endpoints: [{address: 127.0.0.1, ports: {main: %s}}]
`, strings.SplitN(host, ".", 2)[0], host, port, protocol, local)
}

// workload are the gateway's pod and Service. The patch is for Envoy as it comes:
// only Istio's own build has istio.alpn.
const workload = `
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: gateway, namespace: istio-ingress}
spec: {address: 127.0.0.9, labels: {istio: ingress}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: gateway, namespace: istio-ingress}
spec:
  hosts: [istio-ingress.istio-ingress.svc.cluster.local]
  ports: [{name: http, number: 80, targetPort: %d, protocol: HTTP}]
  resolution: STATIC
  workloadSelector: {labels: {istio: ingress}}
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: stock-envoy, namespace: istio-ingress}
spec:
  workloadSelector: {labels: {istio: ingress}}
  configPatches:
  - applyTo: HTTP_FILTER
    match: {context: GATEWAY, listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: istio.alpn}}}}}
    patch: {operation: REMOVE}
`

// istioProxy is the bootstrap of the gateway's Envoy.
func istioProxy(istiod string) []byte {
	host, port, _ := net.SplitHostPort(istiod)
	return fmt.Appendf(nil, `
node:
  id: router~127.0.0.9~gateway.istio-ingress~istio-ingress.svc.cluster.local
  cluster: gateway
  metadata: {LABELS: {istio: ingress}, NAMESPACE: istio-ingress, CLUSTER_ID: Kubernetes, ISTIO_VERSION: 1.31.1}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
dynamic_resources:
  ads_config: {api_type: GRPC, transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{envoy_grpc: {cluster_name: istiod}}]}
  cds_config: {ads: {}, resource_api_version: V3}
  lds_config: {ads: {}, resource_api_version: V3}
static_resources:
  clusters:
  - name: istiod
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment:
      cluster_name: istiod
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]
`, host, port)
}

// freePort is one that nobody listened on a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port //nolint:errcheck // a TCP listener has no other
}

// do returns an answer's status and body.
func do(t *testing.T, request *http.Request) (status int, body []byte) {
	t.Helper()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err = io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, body
}
