package wiring

import (
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	credentialinjectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/credential_injector/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	extprocfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rebearer/rebearer/envoy"
)

// chain is what a list of filters does for rebearer.
type chain struct {
	roles    map[string]bool // of the calls to the hook
	hashes   map[string]bool // of the configurations that they were rendered from
	clusters map[string]bool // that they lead to
	longest  time.Duration   // that one of them may take
	guard    string          // the header that its guard sets; empty if it has none
	answers  bool            // it answers 503 where a rejection is about our own token
	injects  string          // the credential whose secret is injected; empty if none is
	check    *extauthzv3.ExtAuthz
}

// chainOf looks through filters, but not into those that the router runs.
func chainOf(filters []*hcmv3.HttpFilter) chain {
	c := chain{roles: map[string]bool{}, hashes: map[string]bool{}, clusters: map[string]bool{}}
	for _, f := range filters {
		if unpack[*routerv3.Router](f.GetTypedConfig()) != nil {
			continue
		}
		walk(f.GetTypedConfig(), c.note)
	}
	return c
}

// note takes a message into account that is part of a filter.
func (c *chain) note(m proto.Message) {
	switch m := m.(type) {
	case *extprocfilterv3.ExternalProcessor:
		c.noteProcessor(m)
	case *headermutationv3.HeaderMutation:
		for _, r := range m.GetMutations().GetResponseMutations() {
			if sent := r.GetAppend().GetHeader(); strings.Contains(sent.GetValue(), "REQUEST_TX_DURATION") {
				c.guard = sent.GetKey()
			}
		}
	case *credentialinjectorv3.CredentialInjector:
		walk(m.GetCredential().GetTypedConfig(), func(m proto.Message) {
			if secret, ok := m.(*tlsv3.SdsSecretConfig); ok {
				c.injects, _ = envoy.SecretCredential(secret.GetName())
			}
		})
	case *matcherv3.HttpResponseHeaderMatchInput:
		c.answers = c.answers || strings.EqualFold(m.GetHeaderName(), envoy.DeadHeader)
	case *extauthzv3.ExtAuthz:
		c.check = m
	}
}

// noteProcessor notes a call that says that it is one to our hook.
func (c *chain) noteProcessor(p *extprocfilterv3.ExternalProcessor) {
	role := ""
	for _, h := range p.GetGrpcService().GetInitialMetadata() {
		switch h.GetKey() {
		case envoy.RoleMetadata:
			role = h.GetValue()
		case envoy.ConfigMetadata:
			c.hashes[h.GetValue()] = true
		}
	}
	if role == "" {
		return
	}
	c.roles[role] = true
	c.clusters[target(p.GetGrpcService())] = true
	if !p.GetObservabilityMode() {
		c.longest = max(c.longest, p.GetMessageTimeout().AsDuration())
	}
}

// target is the cluster that a call goes to.
func target(s *corev3.GrpcService) string { return s.GetEnvoyGrpc().GetClusterName() }

// missing are the parts that a chain of the router's own filters lacks.
func (c *chain) missing() []string {
	var list []string
	for _, role := range []string{envoy.RoleObserve, envoy.RoleWatch, envoy.RoleInject} {
		if !c.roles[role] {
			list = append(list, role)
		}
	}
	if c.guard == "" {
		list = append(list, "the guard (without it Envoy crashes when an upload or a WebSocket is refused early)")
	}
	return list
}

// entrance is a connection manager: where requests come in.
type entrance struct {
	name     string // of its listener
	internal string // the name under which an internal listener is reached, if it is one
	before   chain  // its own filters
	router   chain  // those that its router runs
	routes   *routev3.RouteConfiguration
}

// entrances are all connection managers of a dump.
func (d *dump) entrances() []entrance {
	var list []entrance
	for _, l := range d.listeners {
		walk(l, func(m proto.Message) {
			h, ok := m.(*hcmv3.HttpConnectionManager)
			if !ok {
				return
			}
			e := entrance{name: l.GetName(), before: chainOf(h.GetHttpFilters()), routes: h.GetRouteConfig()}
			if l.GetInternalListener() != nil {
				e.internal = l.GetName()
			}
			if rds := h.GetRds(); rds != nil {
				e.routes = d.routes[rds.GetRouteConfigName()]
			}
			for _, f := range h.GetHttpFilters() {
				if router := unpack[*routerv3.Router](f.GetTypedConfig()); router != nil {
					e.router = chainOf(router.GetUpstreamHttpFilters())
				}
			}
			list = append(list, e)
		})
	}
	return list
}

// ownFilters returns the filters that a cluster has of its own, which take the
// place of the router's. It reports false where it has none.
func ownFilters(c *clusterv3.Cluster) (chain, bool) {
	for _, options := range c.GetTypedExtensionProtocolOptions() {
		if o := unpack[*httpv3.HttpProtocolOptions](options); len(o.GetHttpFilters()) > 0 {
			return chainOf(o.GetHttpFilters()), true
		}
	}
	return chain{}, false
}

// leadsTo returns the internal listener that a cluster leads to, or nothing.
func leadsTo(c *clusterv3.Cluster) string {
	for _, locality := range c.GetLoadAssignment().GetEndpoints() {
		for _, e := range locality.GetLbEndpoints() {
			if name := e.GetEndpoint().GetAddress().GetEnvoyInternalAddress().GetServerListenerName(); name != "" {
				return name
			}
		}
	}
	return ""
}

// retries reports whether a policy sends a request again when the hook asks.
func retries(p *routev3.RetryPolicy) bool {
	on := strings.Split(p.GetRetryOn(), ",")
	return slices.Contains(on, "retriable-headers") && slices.ContainsFunc(p.GetRetriableHeaders(), func(h *routev3.HeaderMatcher) bool {
		return strings.EqualFold(h.GetName(), envoy.RetryHeader)
	})
}

// perRoute returns the settings of ext_authz for a route, under whatever name its
// filter has.
func perRoute(settings map[string]*anypb.Any) *extauthzv3.ExtAuthzPerRoute {
	for _, a := range settings {
		if found := unpack[*extauthzv3.ExtAuthzPerRoute](a); found != nil {
			return found
		}
	}
	return nil
}
