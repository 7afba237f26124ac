package kubernetes_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/envoy/kubernetes"
	"github.com/rebearer/rebearer/envoy/kubernetes/schematest"
	"github.com/rebearer/rebearer/envoy/render"
)

// renderer is one of the targets.
type renderer interface {
	Render(cfg render.Config) ([]byte, error)
}

// checkConfig has a policy that the check decides on.
func checkConfig() render.Config {
	return render.Config{
		Service: render.Service{Endpoints: []string{"rebearer.rebearer.svc.cluster.local:9001"}},
		Routes:  []render.Route{{Policy: "orders"}},
	}
}

// pushConfig has another one, in push mode.
func pushConfig() render.Config {
	cfg := checkConfig()
	cfg.Callers = []render.Caller{{
		Name: "shop", Issuer: "https://idp.example", Audiences: []string{"api://orders"},
		JWKSURL: "https://idp.example/jwks", ClockSkew: 30 * time.Second,
	}}
	cfg.Routes = append(cfg.Routes, render.Route{Policy: "stock", Push: &render.Push{
		Credential: "stock", Header: "x-api-key", Callers: []string{"shop"}, Scopes: []string{"stock.read"},
	}})
	return cfg
}

// tlsConfig has both sides prove who they are.
func tlsConfig() render.Config {
	cfg := checkConfig()
	cfg.Service.TLS = &render.TLS{
		CAFile: "/etc/tls/ca.pem", CertFile: "/etc/tls/cert.pem", KeyFile: "/etc/tls/key.pem", ServerName: "rebearer.internal",
	}
	return cfg
}

// retriesConfig has retries of the user's own.
func retriesConfig() render.Config {
	cfg := checkConfig()
	cfg.Retries = render.Retries{On: "5xx,reset", Attempts: 4, PerTryTimeout: 8500 * time.Millisecond}
	return cfg
}

func istio(routes ...kubernetes.IstioRoute) kubernetes.Istio {
	return kubernetes.Istio{Namespace: "shop", Selector: map[string]string{"istio": "ingress"}, Routes: routes}
}

func gateway(routes ...kubernetes.GatewayRoute) kubernetes.EnvoyGateway {
	return kubernetes.EnvoyGateway{Namespace: "shop", Gateway: "gateway", Listeners: []string{"http"}, Routes: routes}
}

var (
	istioOrders   = kubernetes.IstioRoute{Name: "orders", Policy: "orders"}
	istioStock    = kubernetes.IstioRoute{Name: "stock", Policy: "stock", Service: "stock.shop.svc.cluster.local:80"}
	gatewayOrders = kubernetes.GatewayRoute{Name: "orders", Policy: "orders"}
	gatewayStock  = kubernetes.GatewayRoute{Kind: kubernetes.GRPCRoute, Namespace: "sales", Name: "stock.v1", Policy: "stock", Rules: 2}
)

// TestRender checks which objects there are, that a cluster takes them, and that
// they are the same every time.
func TestRender(t *testing.T) {
	t.Parallel()
	hosts := istio(istioOrders)
	hosts.Hosts = []string{"orders.example"}
	tests := []struct {
		name string
		to   renderer
		cfg  render.Config
		want []string
	}{
		{"istio", istio(istioOrders), checkConfig(), []string{"EnvoyFilter", "AuthorizationPolicy"}},
		{"istio, some hosts, with TLS", hosts, tlsConfig(), []string{"EnvoyFilter", "AuthorizationPolicy", "DestinationRule"}},
		{"istio, with push", istio(istioOrders, istioStock), pushConfig(), []string{"EnvoyFilter", "AuthorizationPolicy"}},
		{"istio, push alone", istio(istioStock), pushConfig(), []string{"EnvoyFilter"}},
		{"gateway", gateway(gatewayOrders), checkConfig(), []string{
			"BackendTrafficPolicy", "SecurityPolicy", "ReferenceGrant", "EnvoyPatchPolicy",
		}},
		{"gateway, own retries, with TLS", gateway(gatewayOrders), retriesConfig(), []string{
			"BackendTrafficPolicy", "SecurityPolicy", "ReferenceGrant", "EnvoyPatchPolicy",
		}},
		{"gateway, with push", gateway(gatewayOrders, gatewayStock), pushConfig(), []string{
			"BackendTrafficPolicy", "SecurityPolicy", "BackendTrafficPolicy", "ReferenceGrant", "EnvoyPatchPolicy",
		}},
		{"gateway, push alone", gateway(gatewayStock), pushConfig(), []string{"BackendTrafficPolicy", "EnvoyPatchPolicy"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			out := mustRender(t, tt.to, tt.cfg)
			if again := mustRender(t, tt.to, tt.cfg); !bytes.Equal(out, again) {
				t.Error("the second time is different")
			}
			var kinds []string
			for _, o := range objects(t, out) {
				kinds = append(kinds, o.Kind)
			}
			if diff := cmp.Diff(tt.want, kinds); diff != "" {
				t.Errorf("kinds (-want +got):\n%s", diff)
			}
			schematest.Check(t, out)
		})
	}
}

func TestRenderRefuses(t *testing.T) {
	t.Parallel()
	change := func(change func(*render.Config)) render.Config {
		cfg := checkConfig()
		change(&cfg)
		return cfg
	}
	tests := map[string]struct {
		to   renderer
		cfg  render.Config
		want string
	}{
		"no route":         {istio(), checkConfig(), "istio: needs a namespace, a selector and routes"},
		"no Gateway route": {gateway(), checkConfig(), "envoy gateway: needs a namespace, a gateway, listeners and routes"},
		"no such policy": {
			istio(kubernetes.IstioRoute{Name: "stock", Policy: "stock"}), checkConfig(),
			`istio: there is no policy "stock"; there are ["orders"]`,
		},
		"two addresses": {
			istio(istioOrders), change(func(c *render.Config) { c.Service.Endpoints = []string{"a.b.svc:1", "c.d.svc:1"} }),
			"rebearer's address: name one Service, whose replicas are Kubernetes' concern",
		},
		"an IP address": {
			istio(istioOrders), change(func(c *render.Config) { c.Service.Endpoints = []string{"192.0.2.1:9001"} }),
			`rebearer's address: "192.0.2.1:9001" is not the host:port of a Service`,
		},
		"a socket": {
			gateway(gatewayOrders), change(func(c *render.Config) { c.Service.Endpoints = []string{"unix:///run/rebearer.sock"} }),
			`rebearer's address: "unix:///run/rebearer.sock" is not the host:port of a Service`,
		},
		"a host outside of the cluster": {
			gateway(gatewayOrders), change(func(c *render.Config) { c.Service.Endpoints = []string{"rebearer:9001"} }),
			`envoy gateway: rebearer's address: "rebearer" does not begin with the name of a Service and its namespace, as rebearer.rebearer.svc does`,
		},
		"push without a backend": {
			istio(kubernetes.IstioRoute{Name: "stock", Policy: "stock"}), pushConfig(),
			`istio: route stock: push needs the backend: "" is not the host:port of a Service`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := tt.to.Render(tt.cfg)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got %v\nwant %s", err, tt.want)
			}
		})
	}
}

// object is what tests look at.
type object struct {
	Kind string         `json:"kind"`
	Spec map[string]any `json:"spec"`
}

func objects(t *testing.T, stream []byte) []object {
	t.Helper()
	var list []object
	for document := range bytes.SplitSeq(stream, []byte("\n---\n")) {
		var o object
		if err := yaml.Unmarshal(document, &o); err != nil {
			t.Fatal(err)
		}
		list = append(list, o)
	}
	return list
}

func mustRender(t *testing.T, to renderer, cfg render.Config) []byte {
	t.Helper()
	out, err := to.Render(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
