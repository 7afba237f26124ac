package render

import (
	"cmp"
	"slices"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extauthzfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/rebearer/rebearer/envoy"
)

// maxRetries bounds the retries of one request. One is the rule; the hook asks
// for another only where a token that it handed out was refused as well.
const maxRetries = 3

// outerRoutes sends every request on, and again where the hook says so: to the
// inner listener, or where that is not needed straight to the backend.
func (b *builder) outerRoutes() *routev3.RouteConfiguration {
	host := b.host()
	host.RequestHeadersToRemove = []string{envoy.RetryHeader}
	if b.nests() && !b.pushes() {
		host.Routes = append(host.Routes, innerRoute("/"))
		return routeConfig(outerListener, host)
	}
	for _, r := range mostSpecificFirst(b.cfg.Routes) {
		if b.cfg.Shape == Lean || r.Push != nil {
			host.Routes = append(host.Routes, b.directRoute(r))
		} else {
			host.Routes = append(host.Routes, innerRoute(r.pathPrefix()))
		}
	}
	return routeConfig(outerListener, host)
}

// innerRoute leads to the inner listener.
func innerRoute(path string) *routev3.Route {
	return &routev3.Route{
		Match: prefix(path),
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: innerName},
			Timeout:          seconds(0), // the inner route's own timeout rules
			RetryPolicy:      RetryPolicy(nil, nil),
		}},
	}
}

// host is what a virtual host says whose routes send requests again. The router
// removes our headers after it has decided on that, and before the listener's
// filters see the answer.
func (b *builder) host() *routev3.VirtualHost {
	return &routev3.VirtualHost{
		IncludeRequestAttemptCount: true,
		RequestBodyBufferLimit:     wrapperspb.UInt64(uint64(b.cfg.BodyBuffer)),
		ResponseHeadersToRemove:    []string{envoy.RetryHeader, envoy.SentHeader},
	}
}

// RetryPolicy returns a route's retry policy with the retries that the hook asks
// for. Those of own go on: it is not changed, and nil is none. The hook's share
// their number, which is therefore one above own's, and both come after one or two
// milliseconds: the hook has waited already. unasked is [Config.RetryUnasked]; it
// is for routes whose tries pass the filters of [Parts.Upstream].
func RetryPolicy(own *routev3.RetryPolicy, unasked []int) *routev3.RetryPolicy {
	const onHeaders = "retriable-headers"
	policy := &routev3.RetryPolicy{NumRetries: wrapperspb.UInt32(maxRetries)}
	if own != nil {
		policy = proto.CloneOf(own)
		policy.NumRetries = wrapperspb.UInt32(max(own.GetNumRetries().GetValue(), 1) + 1)
	}
	if conditions := strings.Split(policy.RetryOn, ","); !slices.Contains(conditions, onHeaders) {
		policy.RetryOn = strings.Trim(policy.RetryOn+","+onHeaders, ",")
	}
	policy.RetriableHeaders = append(policy.RetriableHeaders, &routev3.HeaderMatcher{
		Name:                 envoy.RetryHeader,
		HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true},
	})
	if len(unasked) > 0 {
		policy.RetriableHeaders = append(policy.RetriableHeaders, matchingHeader(envoy.SentHeader, resent(unasked)))
	}
	// The hook has waited already for what makes the retry worth while.
	policy.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{
		BaseInterval: seconds(time.Millisecond),
		MaxInterval:  seconds(2 * time.Millisecond),
	}
	return policy
}

// matchingHeader is a header whose whole value matches a regular expression.
func matchingHeader(name, regex string) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{
		Name:                 name,
		HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: matching(regex).GetStringMatch()},
	}
}

// ownRetries is the user's own retry policy, nil if there is none.
func (b *builder) ownRetries() *routev3.RetryPolicy {
	own := b.cfg.Retries
	if own.On == "" {
		return nil
	}
	policy := &routev3.RetryPolicy{RetryOn: own.On, NumRetries: wrapperspb.UInt32(max(own.Attempts, 1))}
	if own.PerTryTimeout > 0 {
		policy.PerTryTimeout = seconds(own.PerTryTimeout)
	}
	return policy
}

// innerRoutes has one route for each policy.
func (b *builder) innerRoutes() *routev3.RouteConfiguration {
	host := &routev3.VirtualHost{
		// What a backend says in our name is removed before observe sees the
		// answer, so it can cause no retry.
		ResponseHeadersToRemove: []string{envoy.RetryHeader, envoy.DeadHeader},
	}
	for _, r := range mostSpecificFirst(b.checkRoutes()) {
		host.Routes = append(host.Routes, b.policyRoute(r, b.ownRetries()))
	}
	return routeConfig(innerName, host)
}

func mostSpecificFirst(routes []Route) []Route {
	return slices.SortedFunc(slices.Values(routes), func(x, y Route) int {
		return cmp.Or(cmp.Compare(len(y.pathPrefix()), len(x.pathPrefix())), cmp.Compare(x.Policy, y.Policy))
	})
}

// directRoute leads from the caller to the backend, with the hook's retries.
func (b *builder) directRoute(r Route) *routev3.Route {
	route := b.policyRoute(r, RetryPolicy(b.ownRetries(), b.cfg.RetryUnasked))
	if r.Push == nil {
		return route
	}
	route.TypedPerFilterConfig = nil
	proto.Merge(route, b.pushRules(r))
	return route
}

// pushRules are what a route in push mode says to the filters before the router.
func (b *builder) pushRules(r Route) *routev3.Route {
	route := &routev3.Route{TypedPerFilterConfig: b.callerRules(r)}
	if b.cfg.Shape == Lean {
		route.TypedPerFilterConfig[extAuthzFilter] = b.pack(&extauthzfilterv3.ExtAuthzPerRoute{
			Override: &extauthzfilterv3.ExtAuthzPerRoute_Disabled{Disabled: true},
		})
	}
	// The router takes the caller's token out of the request, and not
	// jwt_authn: other filters may want to see it too.
	route.RequestHeadersToRemove = []string{authorization}
	for _, header := range append([]string{r.Push.TokenHeader}, r.Push.Strip...) {
		if header != "" && !slices.Contains(route.RequestHeadersToRemove, header) {
			route.RequestHeadersToRemove = append(route.RequestHeadersToRemove, header)
		}
	}
	return route
}

// policyRoute leads to the backend of a policy that the check decides on.
func (b *builder) policyRoute(r Route, retries *routev3.RetryPolicy) *routev3.Route {
	action := &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: r.cluster()},
		Timeout:          seconds(b.cfg.RouteTimeout),
		RetryPolicy:      retries,
	}
	if b.cfg.Retries.Hedge {
		action.HedgePolicy = &routev3.HedgePolicy{HedgeOnPerTryTimeout: true}
	}
	if r.Policy != DefaultPolicy {
		action.PrefixRewrite = "/"
	}
	return &routev3.Route{
		Name:                 r.Policy,
		Match:                prefix(r.pathPrefix()),
		Action:               &routev3.Route_Route{Route: action},
		TypedPerFilterConfig: map[string]*anypb.Any{extAuthzFilter: b.pack(RoutePolicy(r.Policy))},
	}
}

// RoutePolicy returns what names a route's policy to the check: the route's
// typed_per_filter_config of ext_authz.
func RoutePolicy(policy string) *extauthzfilterv3.ExtAuthzPerRoute {
	return &extauthzfilterv3.ExtAuthzPerRoute{
		Override: &extauthzfilterv3.ExtAuthzPerRoute_CheckSettings{
			CheckSettings: &extauthzfilterv3.CheckSettings{
				ContextExtensions: map[string]string{"policy": policy},
			},
		},
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
