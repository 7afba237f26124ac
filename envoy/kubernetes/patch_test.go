package kubernetes_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/envoy/kubernetes"
)

// istioPatch is what tests look at.
type istioPatch struct{ applyTo, operation, name, proxies string }

// istioPatches are those of the EnvoyFilter. The name is that of what is put in,
// or of the route or Service that is meant.
func istioPatches(t *testing.T, out []byte) []istioPatch {
	t.Helper()
	var list []istioPatch
	for _, p := range objects(t, out)[0].Spec["configPatches"].([]any) { //nolint:errcheck // a test may panic
		p := p.(map[string]any) //nolint:errcheck // a test may panic
		found := istioPatch{
			applyTo: text(p, "applyTo"), operation: text(p, "patch", "operation"),
			proxies: text(p, "match", "proxy", "proxyVersion"),
			name: text(p, "match", "routeConfiguration", "vhost", "route", "name") +
				text(p, "match", "cluster", "service") + text(p, "patch", "value", "name"),
		}
		if got := text(p, "match", "context"); got != "GATEWAY" {
			t.Errorf("%+v: context %q, want GATEWAY", found, got)
		}
		list = append(list, found)
	}
	return list
}

// text is what a path of keys leads to, empty if there is nothing.
func text(value any, path ...string) string {
	for _, key := range path {
		m, _ := value.(map[string]any)
		value = m[key]
	}
	s, _ := value.(string)
	return s
}

// TestIstioPatches checks what is changed, in which order, and that a route is
// named wherever one is.
func TestIstioPatches(t *testing.T) {
	t.Parallel()
	first := []string{"HTTP_FILTER INSERT_FIRST rebearer.dead", "HTTP_FILTER INSERT_FIRST rebearer.door"}
	callers := []string{"HTTP_FILTER INSERT_FIRST rebearer.rbac", "HTTP_FILTER INSERT_FIRST rebearer.jwt_authn"}
	router := []string{"HTTP_FILTER MERGE envoy.filters.http.router"}
	keys := []string{"CLUSTER ADD keys_shop", "NETWORK_FILTER MERGE envoy.filters.network.http_connection_manager"}
	hosts := []string{"VIRTUAL_HOST MERGE "}
	stock := []string{"CLUSTER MERGE stock.shop.svc.cluster.local", "HTTP_ROUTE MERGE stock"}
	tests := []struct {
		name string
		to   kubernetes.Istio
		want []string
	}{
		{"check", istio(istioOrders), slices.Concat(first, router, hosts, []string{"HTTP_ROUTE MERGE orders"})},
		{"push", istio(istioStock), slices.Concat(callers, first, keys, hosts, stock)},
		{"both", istio(istioOrders, istioStock), slices.Concat(callers, first, router, keys, hosts, []string{"HTTP_ROUTE MERGE orders"}, stock)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, p := range istioPatches(t, mustRender(t, tt.to, pushConfig())) {
				got = append(got, fmt.Sprintf("%s %s %s", p.applyTo, p.operation, p.name))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestIstioVersions checks that no patch reaches a proxy that would crash.
func TestIstioVersions(t *testing.T) {
	t.Parallel()
	for _, p := range istioPatches(t, mustRender(t, istio(istioOrders, istioStock), pushConfig())) {
		proxies := regexp.MustCompile(p.proxies)
		for version, want := range map[string]bool{
			"1.9.9": false, "1.28.3": false, "1.2": false, "0.29": false, "1.29": true, "1.29.0": true, "1.29-alpha.7": true,
			"1.31.1": true, "1.40.0": true, "1.100.0": true, "2.0.0": true, "11.29.0": false,
		} {
			if got := proxies.MatchString(version); got != want {
				t.Errorf("%s %s: proxies of version %s: got %t, want %t", p.applyTo, p.name, version, got, want)
			}
		}
	}
}

// TestRoutesKeepTheirRules checks that a route in push mode says nothing to
// filters that are not ours.
func TestRoutesKeepTheirRules(t *testing.T) {
	t.Parallel()
	for name, to := range map[string]renderer{"istio": istio(istioStock), "gateway": gateway(gatewayStock)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := string(mustRender(t, to, pushConfig()))
			for _, foreign := range []string{"envoy.filters.http.jwt_authn:", "envoy.filters.http.rbac:", "/envoy.filters.http.", "envoy.filters.http.ext_authz:"} {
				if strings.Contains(out, foreign) {
					t.Errorf("it says something to %s", foreign)
				}
			}
		})
	}
}

// TestOwnRetries checks that a user's retries go on.
func TestOwnRetries(t *testing.T) {
	t.Parallel()
	for name, to := range map[string]renderer{"istio": istio(istioOrders), "gateway": gateway(gatewayOrders)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := string(mustRender(t, to, retriesConfig()))
			for _, want := range []string{"5xx,reset,retriable-headers", ": 5\n"} {
				if !strings.Contains(out, want) {
					t.Errorf("no %q", want)
				}
			}
		})
	}
}
