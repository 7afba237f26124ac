package kubernetes

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	extauthzfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/envoy/render"
)

// gatewayRetries are the conditions where the user names none: a request that
// has not reached the backend. Envoy Gateway retries nothing by itself, but a
// BackendTrafficPolicy without conditions would retry every 503.
const gatewayRetries = "connect-failure,refused-stream"

// RouteKind is a kind of route of the Gateway API.
type RouteKind string

// The kinds of routes.
const (
	// HTTPRoute routes HTTP.
	HTTPRoute RouteKind = "HTTPRoute"
	// GRPCRoute routes gRPC.
	GRPCRoute RouteKind = "GRPCRoute"
)

// EnvoyGateway is a Gateway of Envoy Gateway (1.9 or newer) and its routes to
// backends.
type EnvoyGateway struct {
	// Namespace and Gateway name the Gateway.
	Namespace, Gateway string
	// Listeners are the names of those of its listeners that the routes are
	// attached to.
	Listeners []string
	// Routes are the routes to backends, at least one.
	Routes []GatewayRoute
}

// GatewayRoute is a route of the Gateway API.
type GatewayRoute struct {
	// Kind is what it is. Empty means [HTTPRoute].
	Kind RouteKind
	// Namespace is the route's. Empty means the Gateway's.
	Namespace string
	// Name is the route's.
	Name string
	// Policy is the name of one of [render.Config.Routes].
	Policy string
	// Rules is how many rules the route has, which have a cluster each. Only a
	// policy with [render.Route.Push] needs it. 0 means 1.
	Rules int
	// Protocol is what the backends of an HTTPRoute with such a policy speak.
	// Empty means [HTTP1].
	Protocol Protocol
}

// Render returns the objects as YAML. The same arguments always give the same
// bytes. Of cfg it looks at neither Shape nor Listen, nor at backends; its Service
// has one endpoint, a Service of the cluster.
func (g EnvoyGateway) Render(cfg render.Config) ([]byte, error) {
	if g.Namespace == "" || g.Gateway == "" || len(g.Listeners) == 0 || len(g.Routes) == 0 {
		return nil, errors.New("envoy gateway: needs a namespace, a gateway, listeners and routes")
	}
	to, err := rebearerIn(cfg.Service.Endpoints)
	if err != nil {
		return nil, err
	}
	g.Routes = slices.Clone(g.Routes)
	var policies []string
	for i := range g.Routes {
		g.Routes[i].complete(g.Namespace)
		policies = append(policies, g.Routes[i].Policy)
	}
	p, err := newPieces(cfg, policies)
	if err != nil {
		return nil, fmt.Errorf("envoy gateway: %w", err)
	}
	objects, err := g.policies(p, to)
	if err != nil {
		return nil, fmt.Errorf("envoy gateway: %w", err)
	}
	patches, err := g.patches(p)
	if err != nil {
		return nil, fmt.Errorf("envoy gateway: %w", err)
	}
	objects = append(objects, newObject(envoyGateway, "EnvoyPatchPolicy", g.Namespace, name, envoyPatchPolicy{
		TargetRef:   targetRef{Group: gatewayGroup, Kind: "Gateway", Name: g.Gateway},
		Type:        "JSONPatch",
		JSONPatches: patches,
	}))
	return document(gatewayComment, objects)
}

const gatewayComment = `Envoy Gateway resources with rebearer, printed by
"rebearer envoy --target envoy-gateway". EnvoyPatchPolicy has to be allowed in
the configuration of Envoy Gateway itself:

  extensionApis: {enableEnvoyPatchPolicy: true}
`

// complete fills in the defaults.
func (r *GatewayRoute) complete(namespace string) {
	if r.Kind == "" {
		r.Kind = HTTPRoute
	}
	if r.Namespace == "" {
		r.Namespace = namespace
	}
	if r.Kind == GRPCRoute {
		r.Protocol = HTTP2
	}
	r.Rules = max(r.Rules, 1)
}

// kind is the route's kind as names have it.
func (r GatewayRoute) kind() string { return strings.ToLower(string(r.Kind)) }

// object is what the objects for the route are called.
func (r GatewayRoute) object() string { return name + "-" + r.kind() + "-" + r.Name }

func (r GatewayRoute) ref() []targetRef {
	return []targetRef{{Group: gatewayGroup, Kind: string(r.Kind), Name: r.Name}}
}

// policies attach the check and the retries to the routes.
func (g EnvoyGateway) policies(p *pieces, to service) ([]object, error) {
	var objects []object
	asking := map[string]bool{} // the namespaces of routes that are checked
	for _, r := range g.Routes {
		objects = append(objects, newObject(envoyGateway, "BackendTrafficPolicy", r.Namespace, r.object(), r.traffic(p)))
		if _, push := p.Push[r.Policy]; push {
			continue
		}
		security, err := r.security(p, to)
		if err != nil {
			return nil, err
		}
		asking[r.Namespace] = true
		objects = append(objects, newObject(envoyGateway, "SecurityPolicy", r.Namespace, r.object(), security))
	}
	grant, err := granted(to, asking)
	if err != nil {
		return nil, err
	}
	return append(objects, grant...), nil
}

// granted lets SecurityPolicies of other namespaces name rebearer's Service.
func granted(to service, asking map[string]bool) ([]object, error) {
	service, namespace, err := to.object()
	if err != nil {
		return nil, err
	}
	grant := referenceGrant{To: []targetRef{{Kind: "Service", Name: service}}}
	for _, from := range sortedKeys(asking) {
		if from != namespace {
			grant.From = append(grant.From, grantFrom{Group: envoyGroup, Kind: "SecurityPolicy", Namespace: from})
		}
	}
	if grant.From == nil {
		return nil, nil
	}
	return []object{newObject(gatewayGrants, "ReferenceGrant", namespace, name, grant)}, nil
}

// security asks the check. Where the patches are not applied this holds by
// itself: what is left then is that no request is sent again.
func (r GatewayRoute) security(p *pieces, to service) (securityPolicy, error) {
	service, namespace, err := to.object()
	if err != nil {
		return securityPolicy{}, err
	}
	check := &extauthzfilterv3.ExtAuthz{}
	if err := p.Check.GetTypedConfig().UnmarshalTo(check); err != nil {
		return securityPolicy{}, fmt.Errorf("check: %w", err)
	}
	var told []string
	for _, pattern := range check.GetAllowedHeaders().GetPatterns() {
		told = append(told, pattern.GetExact())
	}
	return securityPolicy{
		TargetRefs: r.ref(),
		ExtAuth: extAuth{
			GRPC:             grpcService{BackendRefs: []backendRef{{Name: service, Namespace: namespace, Port: to.port}}},
			StatusOnError:    int(check.GetStatusOnError().GetCode()),
			Timeout:          duration(p.Config.CheckTimeout),
			HeadersToExtAuth: told,
			ContextExtensions: []contextExtension{
				{Name: "policy", Type: "Value", Value: r.Policy},
				{Name: envoy.DetourExtension, Type: "Value", Value: envoy.DetourHeader},
			},
		},
	}, nil
}

// traffic is what a BackendTrafficPolicy can say of retries and timeouts. It
// cannot say which header asks for a retry: a patch does.
func (r GatewayRoute) traffic(p *pieces) backendTrafficPolicy {
	retries := p.retries(gatewayRetries)
	conditions := strings.Split(retries.GetRetryOn(), ",")
	return backendTrafficPolicy{
		TargetRefs:     r.ref(),
		CircuitBreaker: circuitBreaker{MaxParallelRetries: p.Config.MaxRetries},
		Timeout:        routeTimeout{HTTP: httpTimeout{RequestTimeout: duration(p.Config.RouteTimeout)}},
		Retry: retry{
			NumRetries: retries.GetNumRetries().GetValue(),
			RetryOn: retryOn{Triggers: slices.DeleteFunc(conditions, func(c string) bool {
				return c == onHeaders
			})},
			PerRetry: perRetry{
				Timeout: duration(p.Config.Retries.PerTryTimeout),
				BackOff: backOff{
					BaseInterval: duration(retries.GetRetryBackOff().GetBaseInterval().AsDuration()),
					MaxInterval:  duration(retries.GetRetryBackOff().GetMaxInterval().AsDuration()),
				},
			},
		},
	}
}

// onHeaders is the condition that the hook's retries need.
const onHeaders = "retriable-headers"

// duration is d as the Gateway API writes it (GEP-2257), in whole milliseconds;
// empty if there is none.
func duration(d time.Duration) string {
	switch {
	case d <= 0:
		return ""
	case d%time.Second == 0:
		return fmt.Sprintf("%ds", d/time.Second)
	}
	return fmt.Sprintf("%dms", d/time.Millisecond)
}
