package kubernetes

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extauthzfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/envoy/render"
)

const (
	// istioRetries are the conditions that Istio writes on every route.
	istioRetries = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
	// istioProxies are the versions of Istio's proxy, 1.29 and later.
	istioProxies = `^(1\.(29|[3-9][0-9]|[1-9][0-9]{2,})|[2-9][0-9]*\.[0-9]+)([.-].*)?$`
)

// name is what our objects are called.
const name = "rebearer"

// Istio is a gateway of Istio (1.29 or newer) and its routes to backends.
type Istio struct {
	// Namespace is that of the gateway's pods, and Selector are their labels.
	Namespace string
	Selector  map[string]string
	// Hosts are those that are checked, as AuthorizationPolicy writes them. Nil
	// means all of the gateway's.
	Hosts []string
	// Routes are the routes to backends, at least one.
	Routes []IstioRoute
}

// IstioRoute is a route of a VirtualService.
type IstioRoute struct {
	// Name is the route's (http[].name).
	Name string
	// Policy is the name of one of [render.Config.Routes].
	Policy string
	// Service is the backend, host:port as Istio's registry knows it. Only a
	// policy with [render.Route.Push] needs it.
	Service string
	// Protocol is what that backend speaks. Empty means [HTTP1].
	Protocol Protocol
}

// Render returns the objects as YAML, with what belongs into the mesh
// configuration as a comment before them. The same arguments always give the
// same bytes. Of cfg it looks at neither Shape nor Listen, nor at backends; its
// Service has one endpoint, a Service of the mesh.
func (i Istio) Render(cfg render.Config) ([]byte, error) {
	if i.Namespace == "" || len(i.Selector) == 0 || len(i.Routes) == 0 {
		return nil, errors.New("istio: needs a namespace, a selector and routes")
	}
	s, err := rebearerIn(cfg.Service.Endpoints)
	if err != nil {
		return nil, err
	}
	cfg.Service.Cluster = fmt.Sprintf("outbound|%d||%s", s.port, s.host)
	var policies []string
	for _, r := range i.Routes {
		policies = append(policies, r.Policy)
	}
	p, err := newPieces(cfg, policies)
	if err != nil {
		return nil, fmt.Errorf("istio: %w", err)
	}
	if p.first, err = withoutCustomResponse(p.first); err != nil {
		return nil, fmt.Errorf("istio: %w", err)
	}
	filter, err := i.envoyFilter(p)
	if err != nil {
		return nil, fmt.Errorf("istio: %w", err)
	}
	comment := istioComment
	objects := []object{newObject(istioFilters, "EnvoyFilter", i.Namespace, name, filter)}
	if p.checks {
		comment += meshComment(s, p.Config.CheckTimeout)
		objects = append(objects, newObject(istioSecurity, "AuthorizationPolicy", i.Namespace, name, i.authorizationPolicy()))
	}
	if t := cfg.Service.TLS; t != nil {
		objects = append(objects, newObject(istioNetworking, "DestinationRule", i.Namespace, name, destination(s, t)))
	}
	return document(comment, objects)
}

const istioComment = `Istio resources with rebearer, printed by "rebearer envoy --target istio".
`

// meshComment says what goes into the mesh configuration, which is no object of
// its own.
func meshComment(s service, timeout time.Duration) string {
	return `Add this to the mesh configuration (meshConfig in the values of Istio's chart):

  extensionProviders:
  - name: ` + name + `
    envoyExtAuthzGrpc:
      service: ` + s.host + `
      port: ` + strconv.Itoa(int(s.port)) + `
      timeout: ` + timeout.String() + `
      statusOnError: "503"
`
}

// authorizationPolicy has the gateway's requests checked.
func (i Istio) authorizationPolicy() authorizationPolicy {
	policy := authorizationPolicy{
		Selector: labelSelector{MatchLabels: i.Selector},
		Action:   "CUSTOM",
		Provider: namedProvider{Name: name},
		Rules:    []authorizationRule{{}},
	}
	if len(i.Hosts) > 0 {
		policy.Rules = []authorizationRule{{To: []ruleTo{{Operation: operation{Hosts: i.Hosts}}}}}
	}
	return policy
}

// destination has the gateway and rebearer prove to each other who they are.
func destination(s service, t *render.TLS) destinationRule {
	tls := clientTLS{
		Mode:              "SIMPLE",
		CACertificates:    t.CAFile,
		ClientCertificate: t.CertFile,
		PrivateKey:        t.KeyFile,
		SNI:               t.ServerName,
		SubjectAltNames:   []string{t.ServerName},
	}
	if t.CertFile != "" {
		tls.Mode = "MUTUAL"
	}
	return destinationRule{Host: s.host, TrafficPolicy: trafficPolicy{TLS: tls}}
}

func (i Istio) envoyFilter(p *pieces) (envoyFilter, error) {
	patches, err := listenerPatches(p)
	if err != nil {
		return envoyFilter{}, err
	}
	host, err := hostPatch(p)
	if err != nil {
		return envoyFilter{}, err
	}
	patches = append(patches, host)
	for _, r := range i.Routes {
		more, err := r.patches(p)
		if err != nil {
			return envoyFilter{}, fmt.Errorf("route %s: %w", r.Name, err)
		}
		patches = append(patches, more...)
	}
	return envoyFilter{WorkloadSelector: workloadSelector{Labels: i.Selector}, ConfigPatches: patches}, nil
}

// listenerPatches put our filters among Istio's.
func listenerPatches(p *pieces) ([]configPatch, error) {
	var patches []configPatch
	// Each goes before all that are there, so the last becomes the first.
	for _, filter := range slices.Backward(p.first) {
		patches = append(patches, onManager("HTTP_FILTER", "INSERT_FIRST", filter))
	}
	if p.checks {
		router, err := newFilter(routerFilter, &routerv3.Router{UpstreamHttpFilters: p.upstream})
		if err != nil {
			return nil, err
		}
		patches = append(patches, onRouter(router))
	}
	if !p.pushes {
		return patches, nil
	}
	for _, cluster := range p.Keys {
		patches = append(patches, newPatch("CLUSTER", "ADD", cluster))
	}
	manager, err := anypb.New(&hcmv3.HttpConnectionManager{LocalReplyConfig: p.LocalReply})
	if err != nil {
		return nil, fmt.Errorf("local reply: %w", err)
	}
	return append(patches, onManager("NETWORK_FILTER", "MERGE", &listenerv3.Filter{
		Name:       managerFilter,
		ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: manager},
	})), nil
}

// hostPatch completes all virtual hosts: which of them have our routes is not
// known here.
func hostPatch(p *pieces) (configPatch, error) {
	host := proto.CloneOf(p.Host)
	if p.checks {
		detour, err := checkRules(map[string]string{envoy.DetourExtension: envoy.DetourHeader})
		if err != nil {
			return configPatch{}, err
		}
		host.TypedPerFilterConfig = detour
	}
	return newPatch("VIRTUAL_HOST", "MERGE", host), nil
}

// patches complete the route, and in push mode its backend's cluster.
func (r IstioRoute) patches(p *pieces) ([]configPatch, error) {
	route := &routev3.Route{}
	var patches []configPatch
	if _, push := p.Push[r.Policy]; push {
		route = p.rules(r.Policy)
		cluster, err := r.clusterPatch(p)
		if err != nil {
			return nil, err
		}
		patches = append(patches, cluster)
	} else {
		policy, err := checkRules(map[string]string{"policy": r.Policy})
		if err != nil {
			return nil, err
		}
		route.TypedPerFilterConfig = policy
	}
	route.Action = &routev3.Route_Route{Route: &routev3.RouteAction{RetryPolicy: p.retries(istioRetries)}}
	patch := newPatch("HTTP_ROUTE", "MERGE", route)
	patch.Match.RouteConfiguration = &routesMatch{VHost: vhostMatch{Route: nameMatch{Name: r.Name}}}
	return append(patches, patch), nil
}

func (r IstioRoute) clusterPatch(p *pieces) (configPatch, error) {
	s, err := parseService(r.Service)
	if err != nil {
		return configPatch{}, fmt.Errorf("push needs the backend: %w", err)
	}
	options, err := p.options(r.Policy, r.Protocol)
	if err != nil {
		return configPatch{}, err
	}
	patch := newPatch("CLUSTER", "MERGE", &clusterv3.Cluster{
		TypedExtensionProtocolOptions: map[string]*anypb.Any{optionsKey: options},
	})
	patch.Match.Cluster = &clusterMatch{Service: s.host, PortNumber: uint32(s.port)}
	return patch, nil
}

// checkRules are what a route or a virtual host tells the check. Envoy joins
// those of a route with those of its virtual host.
func checkRules(extensions map[string]string) (map[string]*anypb.Any, error) {
	packed, err := anypb.New(&extauthzfilterv3.ExtAuthzPerRoute{
		Override: &extauthzfilterv3.ExtAuthzPerRoute_CheckSettings{
			CheckSettings: &extauthzfilterv3.CheckSettings{ContextExtensions: extensions},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("rules of the check: %w", err)
	}
	return map[string]*anypb.Any{checkFilter: packed}, nil
}

func onManager(applyTo, operation string, value proto.Message) configPatch {
	p := newPatch(applyTo, operation, value)
	p.Match.Listener = &listenerMatch{FilterChain: filterChainMatch{Filter: filterMatch{Name: managerFilter}}}
	return p
}

func onRouter(filter *hcmv3.HttpFilter) configPatch {
	p := onManager("HTTP_FILTER", "MERGE", filter)
	p.Match.Listener.FilterChain.Filter.SubFilter = &nameMatch{Name: routerFilter}
	return p
}

func newPatch(applyTo, operation string, value proto.Message) configPatch {
	return configPatch{
		ApplyTo: applyTo,
		Match:   patchMatch{Context: "GATEWAY", Proxy: proxyMatch{ProxyVersion: istioProxies}},
		Patch:   patch{Operation: operation, Value: message{value}},
	}
}
