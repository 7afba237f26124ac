package examples_test

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rebearer/rebearer/envoy/envoytest"
)

// TestEnvoyGateway has Envoy Gateway's own translator program a real Envoy with
// the example, and restarts the backend's provider under load.
func TestEnvoyGateway(t *testing.T) {
	egctl := os.Getenv("REBEARER_EGCTL")
	if egctl == "" {
		t.Skip("REBEARER_EGCTL is the egctl that translates the example: make test-envoy-gateway")
	}
	for _, delivery := range []string{check, push} {
		t.Run(delivery, func(t *testing.T) {
			m := startMesh(t, "envoy-gateway", delivery)
			envoy := envoytest.Start(t, envoytest.Binaries()[0], translate(t, egctl, m).bootstrap(t, map[string]string{
				"httproute/rebearer/api/rule/0": strings.TrimPrefix(m.api, "http://"),
				"rebearer":                      m.rebearer,
			}))
			gateway := envoy.Address(t, "gateway/gateway/http")
			m.checkAnswers(t, gateway)
			m.checkRestarts(t, gateway)
			m.checkWiring(t, envoy.Admin)
		})
	}
}

// translation is what Envoy Gateway gives an Envoy: resources by their names.
type translation struct {
	listeners, routes, clusters map[string]map[string]any
}

// translate has Envoy Gateway make Envoy's resources of the example.
func translate(t *testing.T, egctl string, m *mesh) translation {
	t.Helper()
	in := string(read(t, "envoy-gateway/gateway.yaml")) + "---\n" + m.objects(t, "envoy-gateway") + cluster
	file := filepath.Join(t.TempDir(), "in.yaml")
	if err := os.WriteFile(file, []byte(in), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), egctl, "x", "translate", "--from", "gateway-api", "--to", "xds", "-t", "all", "-o", "json", "-f", file)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("egctl: %v\n%s", err, out)
	}
	var dump struct {
		XDS map[string]struct {
			Configs []struct {
				Listeners []struct {
					State struct {
						Listener map[string]any `json:"listener"`
					} `json:"activeState"`
				} `json:"dynamicListeners"`
				Routes []struct {
					Config map[string]any `json:"routeConfig"`
				} `json:"dynamicRouteConfigs"`
				Clusters []struct {
					Cluster map[string]any `json:"cluster"`
				} `json:"dynamicActiveClusters"`
			} `json:"configs"`
		} `json:"xds"`
	}
	if err := json.Unmarshal(out, &dump); err != nil {
		t.Fatal(err)
	}
	x := translation{listeners: named{}, routes: named{}, clusters: named{}}
	for _, c := range dump.XDS["gateway/gateway"].Configs {
		for _, l := range c.Listeners {
			named(x.listeners).add(l.State.Listener)
		}
		for _, r := range c.Routes {
			named(x.routes).add(r.Config)
		}
		for _, cluster := range c.Clusters {
			named(x.clusters).add(cluster.Cluster)
		}
	}
	return x
}

type named map[string]map[string]any

func (n named) add(resource map[string]any) {
	delete(resource, "@type")
	n[resource["name"].(string)] = resource //nolint:errcheck // every resource has a name
}

// bootstrap makes a static configuration of it, with the Services where they are
// on this machine. What else has a cluster is there already.
func (x translation) bootstrap(t *testing.T, addresses map[string]string) []byte {
	t.Helper()
	const name = "gateway/gateway/http"
	listener := x.listeners[name]
	delete(listener, "accessLog")
	listener["address"] = socket("127.0.0.1:0")
	manager := at(listener, "defaultFilterChain", "filters", 0, "typedConfig")
	delete(manager, "accessLog")
	delete(manager, "rds")
	manager["routeConfig"] = x.routes[name]
	var clusters []any
	for name, cluster := range x.clusters {
		address, ok := addresses[name]
		if !ok && cluster["type"] == "EDS" {
			continue // of the SecurityPolicy, which the patches redirect
		}
		clusters = append(clusters, cluster)
		if !ok {
			continue
		}
		delete(cluster, "edsClusterConfig")
		cluster["type"] = "STATIC"
		cluster["loadAssignment"] = map[string]any{"clusterName": name, "endpoints": []any{map[string]any{
			"lbEndpoints": []any{map[string]any{"endpoint": map[string]any{"address": socket(address)}}},
		}}}
	}
	text, err := json.Marshal(map[string]any{
		"node":            map[string]any{"id": "test", "cluster": "test"},
		"admin":           map[string]any{"address": socket("127.0.0.1:0")},
		"staticResources": map[string]any{"listeners": []any{listener}, "clusters": clusters},
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func socket(address string) map[string]any {
	host, port, _ := net.SplitHostPort(address)
	number, _ := strconv.Atoi(port)
	return map[string]any{"socketAddress": map[string]any{"address": host, "portValue": number}}
}

// cluster is what the example finds in its cluster.
const cluster = `
---
apiVersion: v1
kind: Namespace
metadata: {name: rebearer}
---
apiVersion: v1
kind: Service
metadata: {name: parts, namespace: rebearer}
spec: {clusterIP: 192.0.2.1, ports: [{name: http-api, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: rebearer, namespace: rebearer}
spec: {clusterIP: 192.0.2.2, ports: [{name: grpc, port: 9001, appProtocol: kubernetes.io/h2c}]}
`
