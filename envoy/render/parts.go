package render

import (
	"fmt"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// Parts are the pieces of the lean shape, for control planes whose listeners,
// routes and clusters are their own. A route needs [RetryPolicy] and
// [RoutePolicy] besides.
type Parts struct {
	// Config is what the pieces are made of, with its defaults.
	Config Config
	// Finish finishes an answer that is not retried. It goes before all other
	// filters of a listener.
	Finish *hcmv3.HttpFilter
	// Host is what the routes' virtual host needs: the number of each try, room
	// for a body that is sent again, and our headers removed.
	Host *routev3.VirtualHost
	// Check asks rebearer whether a request may pass.
	Check *hcmv3.HttpFilter
	// Upstream are the router's upstream_http_filters, or a cluster's
	// http_filters where it has some of its own, which would replace the
	// router's. upstream_codec is the last.
	Upstream []*hcmv3.HttpFilter
	// Push has the http_filters of the clusters of the policies in push mode,
	// by the policies' names; upstream_codec is the last of each.
	Push map[string][]*hcmv3.HttpFilter
	// Callers are the filters that check callers in push mode, on the routes
	// whose typed_per_filter_config asks for it. They go behind Finish.
	Callers []*hcmv3.HttpFilter
	// Rules has what the routes of the policies in push mode need, by the
	// policies' names: typed_per_filter_config and request_headers_to_remove.
	Rules map[string]*routev3.Route
	// Keys are the clusters that lead to the keys of the callers' tokens.
	Keys []*clusterv3.Cluster
	// LocalReply is what push mode needs of a listener; nil without.
	LocalReply *hcmv3.LocalReplyConfig
	// Service is the cluster that leads to rebearer; nil where
	// [Service.Cluster] names another.
	Service *clusterv3.Cluster
}

// NewParts returns the pieces. It looks at neither Shape nor Listen, and at no
// backend. The error names every field of cfg that is wrong.
func NewParts(cfg Config) (*Parts, error) {
	cfg.Shape, cfg.Listen, cfg.Admin = Lean, anyListen, ""
	b, err := newBuilder(cfg)
	if err != nil {
		return nil, fmt.Errorf("envoy configuration: %w", err)
	}
	p := &Parts{
		Config:     b.cfg,
		Finish:     b.finish(),
		Host:       b.host(),
		Check:      b.filter(extAuthzFilter, b.check()),
		Upstream:   b.upstream(nil),
		Push:       map[string][]*hcmv3.HttpFilter{},
		Rules:      map[string]*routev3.Route{},
		LocalReply: b.missingSecret(),
	}
	if b.pushes() {
		p.Callers, p.Keys = b.callerFilters(), b.keyClusters()
	}
	for _, r := range b.pushRoutes() {
		p.Push[r.Policy], p.Rules[r.Policy] = b.upstream(&r), b.pushRules(r)
	}
	if cfg.Service.Cluster == "" {
		p.Service = b.serviceCluster()
	}
	return p, b.err
}
