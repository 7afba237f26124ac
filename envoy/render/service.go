package render

import (
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extauthzfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/rebearer/rebearer/envoy"
)

const (
	extAuthzFilter = "envoy.filters.http.ext_authz"

	// serviceRetries bounds the replicas that are tried after the first one,
	// and hostSelections the attempts to hit upon one that was not tried yet.
	serviceRetries = 2
	hostSelections = 5

	serviceRetryOn = "connect-failure,refused-stream,reset,unavailable"
)

// check asks rebearer whether the request may pass, and for the backend token.
func (b *builder) check() *extauthzfilterv3.ExtAuthz {
	service := b.service(b.cfg.CheckTimeout)
	service.Timeout = seconds(b.cfg.CheckTimeout)
	names := []string{"authorization", "x-request-id"}
	if b.cfg.Shape == Nested {
		// In the lean shape this would be what the caller sent: Envoy's own
		// router, which counts, comes after the check.
		names = append(names, envoy.AttemptHeader)
	}
	return &extauthzfilterv3.ExtAuthz{
		Services:            &extauthzfilterv3.ExtAuthz_GrpcService{GrpcService: service},
		TransportApiVersion: corev3.ApiVersion_V3,
		FailureModeAllow:    false,
		StatusOnError:       &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		ValidateMutations:   true,
		// Otherwise two authorization headers arrive joined as one.
		EncodeRawHeaders: true,
		AllowedHeaders:   headers(slices.Concat(names, b.cfg.CheckHeaders)...),
	}
}

func exactly(text string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: text}}
}

func headers(names ...string) *matcherv3.ListStringMatcher {
	m := &matcherv3.ListStringMatcher{}
	for _, name := range names {
		m.Patterns = append(m.Patterns, exactly(name))
	}
	return m
}

// service is how the filters call rebearer, and wait for it so long. A call that
// a replica did not answer goes to another one.
func (b *builder) service(wait time.Duration) *corev3.GrpcService {
	service := &corev3.GrpcService{
		TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
			EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: b.cfg.Service.cluster()},
		},
	}
	if b.clusterRetries() {
		return service
	}
	name, otherHost := b.otherHost()
	service.RetryPolicy = &corev3.RetryPolicy{
		RetryOn:    serviceRetryOn,
		NumRetries: wrapperspb.UInt32(serviceRetries),
		RetryBackOff: &corev3.BackoffStrategy{
			BaseInterval: seconds(time.Millisecond),
			// Envoy makes of this the timeout of each try as well. It
			// must never be the one that ends a call.
			MaxInterval: seconds(2 * wait),
		},
		RetryHostPredicate: []*corev3.RetryPolicy_RetryHostPredicate{{
			Name:       name,
			ConfigType: &corev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: otherHost},
		}},
		HostSelectionRetryMaxAttempts: hostSelections,
	}
	return service
}

// clusterRetries reports whether rebearer's cluster says how its calls are tried
// again. Where the filters say it Envoy builds a policy for every call, a tenth
// of what it spends on a request; but before 1.37 there is no other way.
func (b *builder) clusterRetries() bool {
	return b.cfg.Shape == Lean && b.cfg.Service.Cluster == ""
}

// serviceRetryPolicy is that of the cluster.
func (b *builder) serviceRetryPolicy() *routev3.RetryPolicy {
	name, otherHost := b.otherHost()
	return &routev3.RetryPolicy{
		RetryOn:    serviceRetryOn,
		NumRetries: wrapperspb.UInt32(serviceRetries),
		RetryBackOff: &routev3.RetryPolicy_RetryBackOff{
			BaseInterval: seconds(time.Millisecond),
			MaxInterval:  seconds(10 * time.Millisecond),
		},
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name:       name,
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: otherHost},
		}},
		HostSelectionRetryMaxAttempts: hostSelections,
	}
}

// otherHost lets a retry go to no host that was tried.
func (b *builder) otherHost() (name string, predicate *anypb.Any) {
	return "envoy.retry_host_predicates.previous_hosts", b.pack(&previoushostsv3.PreviousHostsPredicate{})
}
