package render

import (
	"cmp"
	"slices"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extauthzfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/rebearer/rebearer/envoy"
)

// maxRetries bounds the retries of one request. One is the rule; the hook asks
// for another only where a token that it handed out was refused as well.
const maxRetries = 3

// outerRoutes sends everything to the inner listener, and again where the hook
// says so.
func (b *builder) outerRoutes() *routev3.RouteConfiguration {
	return routeConfig(outerListener, &routev3.VirtualHost{
		RequestHeadersToRemove:     []string{envoy.RetryHeader},
		IncludeRequestAttemptCount: true,
		RequestBodyBufferLimit:     wrapperspb.UInt64(uint64(b.cfg.BodyBuffer)),
		Routes: []*routev3.Route{{
			Match: prefix("/"),
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{
				ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: innerName},
				Timeout:          seconds(0), // the inner route's own timeout rules
				RetryPolicy:      retryPolicy(),
			}},
		}},
	})
}

func retryPolicy() *routev3.RetryPolicy {
	return &routev3.RetryPolicy{
		RetryOn:    "retriable-headers",
		NumRetries: wrapperspb.UInt32(maxRetries),
		RetriableHeaders: []*routev3.HeaderMatcher{{
			Name:                 envoy.RetryHeader,
			HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true},
		}},
		// The hook has waited already for what makes the retry worth while.
		RetryBackOff: &routev3.RetryPolicy_RetryBackOff{
			BaseInterval: seconds(time.Millisecond),
			MaxInterval:  seconds(2 * time.Millisecond),
		},
	}
}

// innerRoutes has one route for each policy, the most specific first.
func (b *builder) innerRoutes() *routev3.RouteConfiguration {
	routes := slices.Clone(b.cfg.Routes)
	slices.SortFunc(routes, func(x, y Route) int {
		return cmp.Or(cmp.Compare(len(y.pathPrefix()), len(x.pathPrefix())), cmp.Compare(x.Policy, y.Policy))
	})
	host := &routev3.VirtualHost{
		// A backend's own retry header is removed before observe sees the
		// answer, so it can cause no retry.
		ResponseHeadersToRemove: []string{envoy.RetryHeader},
	}
	for _, r := range routes {
		host.Routes = append(host.Routes, b.policyRoute(r))
	}
	return routeConfig(innerName, host)
}

func (b *builder) policyRoute(r Route) *routev3.Route {
	action := &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: r.cluster()},
		Timeout:          seconds(b.cfg.RouteTimeout),
	}
	if r.Policy != DefaultPolicy {
		action.PrefixRewrite = "/"
	}
	check := &extauthzfilterv3.ExtAuthzPerRoute{
		Override: &extauthzfilterv3.ExtAuthzPerRoute_CheckSettings{
			CheckSettings: &extauthzfilterv3.CheckSettings{
				ContextExtensions: map[string]string{"policy": r.Policy},
			},
		},
	}
	return &routev3.Route{
		Name:                 r.Policy,
		Match:                prefix(r.pathPrefix()),
		Action:               &routev3.Route_Route{Route: action},
		TypedPerFilterConfig: map[string]*anypb.Any{extAuthzFilter: b.pack(check)},
	}
}

func (r Route) pathPrefix() string {
	if r.Policy == DefaultPolicy {
		return "/"
	}
	return "/" + r.Policy + "/"
}

func prefix(path string) *routev3.RouteMatch {
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: path}}
}
