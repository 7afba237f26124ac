package kubernetes

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	upstreamhttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/rebearer/rebearer/envoy/render"
)

// defaultRetries is how often Istio and Envoy Gateway send a request again.
const defaultRetries = 2

// optionsKey is the key of a cluster's typed_extension_protocol_options.
const optionsKey = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// pieces are what the configuration that a control plane writes lacks.
type pieces struct {
	*render.Parts
	// checks and pushes tell which deliveries the routes use.
	checks, pushes bool
	// first are the filters before all others of a listener, in that order.
	first []*hcmv3.HttpFilter
	// upstream are the router's upstream_http_filters. Nil where nothing is
	// checked: a cluster of push mode has filters of its own.
	upstream []*hcmv3.HttpFilter
}

// newPieces makes the pieces for routes with these policies.
func newPieces(cfg render.Config, policies []string) (*pieces, error) {
	parts, err := render.NewParts(cfg)
	if err != nil {
		return nil, err
	}
	p := &pieces{Parts: parts}
	declared := map[string]bool{} // and whether it pushes
	for _, r := range cfg.Routes {
		declared[r.Policy] = r.Push != nil
	}
	for _, policy := range policies {
		push, ok := declared[policy]
		if !ok {
			return nil, fmt.Errorf("there is no policy %q; there are %q", policy, slices.Sorted(maps.Keys(declared)))
		}
		p.checks, p.pushes = p.checks || !push, p.pushes || push
	}
	first, err := door()
	if err != nil {
		return nil, err
	}
	p.first = append([]*hcmv3.HttpFilter{first}, ours([]*hcmv3.HttpFilter{parts.Finish})...)
	if p.pushes {
		p.first = append(p.first, ours(parts.Callers)...)
	}
	if !p.checks {
		return p, nil
	}
	arrival, err := arrive()
	p.upstream = append([]*hcmv3.HttpFilter{arrival}, parts.Upstream...)
	return p, err
}

// retries is the retry policy of routes to backends: that of the user, or else
// the control plane's own conditions, with what the hook asks for.
func (p *pieces) retries(conditions string) *routev3.RetryPolicy {
	own := &routev3.RetryPolicy{RetryOn: conditions, NumRetries: wrapperspb.UInt32(defaultRetries)}
	users := p.Config.Retries
	if users.On != "" {
		own.RetryOn, own.NumRetries = users.On, wrapperspb.UInt32(max(users.Attempts, 1))
	}
	if users.PerTryTimeout > 0 {
		own.PerTryTimeout = durationpb.New(users.PerTryTimeout)
	}
	return render.RetryPolicy(own, p.Config.RetryUnasked)
}

// rules are what a route in push mode says to the filters before the router.
// Where no route asks the check, there is nothing of ours to turn off.
func (p *pieces) rules(policy string) *routev3.Route {
	rules := proto.CloneOf(p.Rules[policy])
	said := rules.GetTypedPerFilterConfig()
	rules.TypedPerFilterConfig = map[string]*anypb.Any{}
	for filter, rule := range said {
		if filter != checkFilter {
			rules.TypedPerFilterConfig[ourName(filter)] = rule
		} else if p.checks {
			rules.TypedPerFilterConfig[filter] = rule
		}
	}
	return rules
}

// ours are filters under names of our own. A control plane has some of the same
// kinds, and what a route says to a filter goes by the filter's name.
func ours(filters []*hcmv3.HttpFilter) []*hcmv3.HttpFilter {
	renamed := make([]*hcmv3.HttpFilter, 0, len(filters))
	for _, filter := range filters {
		filter = proto.CloneOf(filter)
		filter.Name = ourName(filter.GetName())
		renamed = append(renamed, filter)
	}
	return renamed
}

func ourName(filter string) string {
	return name + "." + strings.TrimPrefix(filter, "envoy.filters.http.")
}

// options are the protocol options of a cluster in push mode. They replace the
// control plane's own, so they have to say what the backend speaks.
func (p *pieces) options(policy string, protocol Protocol) (*anypb.Any, error) {
	speaks := &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig{
		ProtocolConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{
			HttpProtocolOptions: &corev3.Http1ProtocolOptions{},
		},
	}
	if protocol == HTTP2 {
		speaks.ProtocolConfig = &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
			Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
		}
	}
	packed, err := anypb.New(&upstreamhttpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: speaks},
		HttpFilters:             p.Push[policy],
	})
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", policy, err)
	}
	return packed, nil
}
