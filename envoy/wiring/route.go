package wiring

import (
	"fmt"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"github.com/rebearer/rebearer/envoy"
)

// way is a route with where it is found.
type way struct {
	entrance entrance
	host     *routev3.VirtualHost
	route    *routev3.Route
	where    string
}

// ways are the routes of a virtual host, in the order in which Envoy tries them.
func ways(e entrance, host *routev3.VirtualHost) []way {
	var list []way
	for n, r := range host.GetRoutes() {
		list = append(list, way{entrance: e, host: host, route: r, where: "listener " + e.name + ", route " + routeName(host, r, n)})
	}
	return list
}

func routeName(host *routev3.VirtualHost, r *routev3.Route, n int) string {
	if r.GetName() != "" {
		return r.GetName()
	}
	return fmt.Sprintf("%s[%d]", host.GetName(), n)
}

// targets are the clusters that a route leads to, as far as it names them.
func targets(r *routev3.RouteAction) []string {
	var list []string
	if name := r.GetCluster(); name != "" {
		list = append(list, name)
	}
	for _, w := range r.GetWeightedClusters().GetClusters() {
		if w.GetName() != "" {
			list = append(list, w.GetName())
		}
	}
	return list
}

// chooser is what chooses a cluster of a route where the route does not name it;
// empty if it names them all.
func chooser(r *routev3.RouteAction) string {
	if name := r.GetClusterHeader(); name != "" {
		return "the header " + name
	}
	for _, w := range r.GetWeightedClusters().GetClusters() {
		if name := w.GetClusterHeader(); name != "" {
			return "the header " + name
		}
	}
	if r.GetClusterSpecifierPlugin() != "" || r.GetInlineClusterSpecifierPlugin() != nil {
		return "a plugin"
	}
	return ""
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
	onHeaders := slices.ContainsFunc(strings.Split(p.GetRetryOn(), ","), func(on string) bool {
		return strings.TrimSpace(on) == "retriable-headers" // as Envoy does
	})
	return onHeaders && retriesOn(p, envoy.RetryHeader)
}

// retriesOn reports whether a policy looks for a header.
func retriesOn(p *routev3.RetryPolicy, header string) bool {
	return slices.ContainsFunc(p.GetRetriableHeaders(), func(h *routev3.HeaderMatcher) bool {
		return strings.EqualFold(h.GetName(), header)
	})
}

// takesAll reports whether a match leaves nothing to the routes behind it.
func takesAll(m *routev3.RouteMatch) bool {
	path, ok := m.GetPathSpecifier().(*routev3.RouteMatch_Prefix)
	if !ok || strings.TrimPrefix(path.Prefix, "/") != "" {
		return false
	}
	conditions := proto.CloneOf(m)
	conditions.PathSpecifier, conditions.CaseSensitive = nil, nil
	return proto.Size(conditions) == 0
}

// isTaken reports whether a route that takes all takes a match's requests too:
// those of CONNECT have no path.
func isTaken(m *routev3.RouteMatch) bool { return m.GetConnectMatcher() == nil }

// shadowed looks for routes of a virtual host that can never match.
func (i *inspection) shadowed(all []way) {
	n := slices.IndexFunc(all, func(at way) bool { return takesAll(at.route.GetMatch()) })
	if n < 0 {
		return
	}
	first := all[n]
	for _, at := range all[n+1:] {
		if isTaken(at.route.GetMatch()) && (i.leads(first) || i.leads(at)) {
			i.found(at.where, "no request ever takes it: %s, which stands before it in virtual host %s, matches everything. Put it before that one",
				routeName(first.host, first.route, n), at.host.GetName())
		}
	}
}

// leads reports whether a route leads to rebearer: its requests are checked, here
// or behind an inner listener, or Envoy sends the token by itself.
func (i *inspection) leads(at way) bool {
	if at.route.GetRoute() == nil {
		return false
	}
	if i.isChecked(at) {
		return true
	}
	return slices.ContainsFunc(targets(at.route.GetRoute()), func(name string) bool {
		own, _ := ownFilters(i.clusters[name])
		inner := leadsTo(i.clusters[name])
		return own.injects != "" || inner != "" && slices.ContainsFunc(i.entrances, func(e entrance) bool {
			return e.internal == inner && i.isNested(e)
		})
	})
}
