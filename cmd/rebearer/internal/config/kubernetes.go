package config

import "regexp"

// maxRules is what the Gateway API allows.
const maxRules = 16

// Istio says what `rebearer envoy --target istio` prints its resources for:
// one gateway's workload, and the routes of virtual services that lead to the
// backends.
type Istio struct {
	// Namespace is that of the gateway's pods. Required.
	Namespace string `yaml:"namespace"`
	// Selector are the labels of the gateway's pods, as in the selector of its
	// Gateway. Required: without it all workloads of the namespace would
	// be meant.
	Selector map[string]string `yaml:"selector"`
	// Hosts are the hosts whose requests are checked, as an
	// AuthorizationPolicy writes them ("orders.example", "*.example"). Requests
	// for other hosts of the gateway pass unchecked. Default: every request of
	// the gateway is checked.
	Hosts []string `yaml:"hosts"`
	// Routes are the routes that lead to backends. Required.
	Routes []IstioRoute `yaml:"routes"`
}

// IstioRoute is a route of a VirtualService.
type IstioRoute struct {
	// Name is the route's name (http[].name in the VirtualService). Required.
	Name string `yaml:"name"`
	// Policy is the name of the policy that its requests have to meet.
	// Required.
	Policy string `yaml:"policy"`
	// Service is the backend that the route leads to, host:port as Istio's
	// registry knows it, like orders.shop.svc.cluster.local:80. Required for a
	// policy with delivery push; not used for another.
	Service Address `yaml:"service"`
	// Protocol is what that backend speaks: http1, or http2 as gRPC does.
	// Default http1.
	Protocol BackendProtocol `yaml:"protocol"`
}

// BackendProtocol is what a backend speaks.
type BackendProtocol string

// The protocols of backends.
const (
	// ProtocolHTTP1 is HTTP/1.1.
	ProtocolHTTP1 BackendProtocol = "http1"
	// ProtocolHTTP2 is HTTP/2, which gRPC needs.
	ProtocolHTTP2 BackendProtocol = "http2"
)

// EnvoyGateway says what `rebearer envoy --target envoy-gateway` prints its
// resources for: one Gateway of Envoy Gateway, and the routes that lead to the
// backends.
type EnvoyGateway struct {
	// Namespace is the Gateway's. Required.
	Namespace string `yaml:"namespace"`
	// Gateway is the Gateway's name. Required.
	Gateway string `yaml:"gateway"`
	// Listeners are the names of those of its listeners that the routes are
	// attached to. Required.
	Listeners []string `yaml:"listeners"`
	// Routes are the routes that lead to backends. Required.
	Routes []GatewayRoute `yaml:"routes"`
}

// GatewayRoute is a route of the Gateway API.
type GatewayRoute struct {
	// Kind is HTTPRoute or GRPCRoute. Default HTTPRoute.
	Kind RouteKind `yaml:"kind"`
	// Namespace is the route's. Default the Gateway's.
	Namespace string `yaml:"namespace"`
	// Name is the route's. Required.
	Name string `yaml:"name"`
	// Policy is the name of the policy that its requests have to meet.
	// Required.
	Policy string `yaml:"policy"`
	// Rules is how many rules the route has, from 1 to 16; each has a cluster.
	// It is used with delivery push. Default 1.
	Rules int64 `yaml:"rules"`
	// Protocol is what the backends of an HTTPRoute speak: http1 or http2. It
	// is used with delivery push. Default http1; a GRPCRoute's is http2.
	Protocol BackendProtocol `yaml:"protocol"`
}

// RouteKind is a kind of route of the Gateway API.
type RouteKind string

// The kinds of routes.
const (
	// HTTPRoute routes HTTP.
	HTTPRoute RouteKind = "HTTPRoute"
	// GRPCRoute routes gRPC.
	GRPCRoute RouteKind = "GRPCRoute"
)

// objectName matches names of Kubernetes' objects that are one label (RFC 1123),
// or several with dots between.
var objectName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)

// object reports a name that no object of Kubernetes can have.
func object(r *report, at, name string) {
	required(r, at, name)
	if name != "" && !objectName.MatchString(name) {
		r.fail(at, "%s is not the name of a Kubernetes object", quote(name))
	}
}

func (i Istio) check(r *report, at string, policies map[string]Policy) {
	object(r, join(at, "namespace"), i.Namespace)
	if len(i.Selector) == 0 {
		r.fail(join(at, "selector"), "is required: it names the gateway's pods")
	}
	r.list(join(at, "hosts"), i.Hosts)
	if len(i.Routes) == 0 {
		r.fail(join(at, "routes"), "is required: it names the routes that lead to backends")
	}
	seen := map[string]bool{}
	for n, route := range i.Routes {
		here := item(join(at, "routes"), n)
		route.check(r, here, policies)
		if seen[route.Name] {
			r.fail(join(here, "name"), "%s is there already", quote(route.Name))
		}
		seen[route.Name] = true
	}
}

func (i IstioRoute) check(r *report, at string, policies map[string]Policy) {
	required(r, join(at, "name"), i.Name)
	text(r, join(at, "name"), i.Name)
	policy, _ := lookUp(r, join(at, "policy"), "policy", i.Policy, policies)
	switch {
	case i.Service != "":
		i.Service.check(r, join(at, "service"))
	case policy.Delivery == DeliveryPush:
		r.fail(join(at, "service"), "is required: the policy's tokens are pushed to that backend")
	}
	oneOf(r, join(at, "protocol"), i.Protocol, ProtocolHTTP1, ProtocolHTTP2)
}

func (g EnvoyGateway) check(r *report, at string, policies map[string]Policy) {
	object(r, join(at, "namespace"), g.Namespace)
	object(r, join(at, "gateway"), g.Gateway)
	if len(g.Listeners) == 0 {
		r.fail(join(at, "listeners"), "is required: it names the Gateway's listeners")
	}
	r.list(join(at, "listeners"), g.Listeners)
	if len(g.Routes) == 0 {
		r.fail(join(at, "routes"), "is required: it names the routes that lead to backends")
	}
	seen := map[GatewayRoute]bool{}
	for n, route := range g.Routes {
		here := item(join(at, "routes"), n)
		route.check(r, here, policies)
		same := GatewayRoute{Kind: route.Kind, Namespace: route.Namespace, Name: route.Name}
		if seen[same] {
			r.fail(join(here, "name"), "%s is there already", quote(route.Name))
		}
		seen[same] = true
	}
}

func (g GatewayRoute) check(r *report, at string, policies map[string]Policy) {
	oneOf(r, join(at, "kind"), g.Kind, HTTPRoute, GRPCRoute)
	oneOf(r, join(at, "protocol"), g.Protocol, ProtocolHTTP1, ProtocolHTTP2)
	within(r, join(at, "rules"), g.Rules, 1, maxRules)
	if g.Namespace != "" {
		object(r, join(at, "namespace"), g.Namespace)
	}
	object(r, join(at, "name"), g.Name)
	lookUp(r, join(at, "policy"), "policy", g.Policy, policies)
}
