package render

import (
	"slices"
	"strconv"
	"time"

	rulesv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	commonmatchingv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	skipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/matcher/action/v3"
	customresponsev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/custom_response/v3"
	extauthzfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	extprocfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	headertometadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_to_metadata/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	localresponsev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/custom_response/local_response_policy/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/rebearer/rebearer/envoy"
)

const (
	extAuthzFilter = "envoy.filters.http.ext_authz"
	extProcFilter  = "envoy.filters.http.ext_proc"

	// serviceRetries bounds the replicas that are tried after the first one,
	// and hostSelections the attempts to hit upon one that was not tried yet.
	serviceRetries = 2
	hostSelections = 5
)

// outerFilters finish an answer that is not retried. Answers pass them from the
// last to the first; the router has dealt with retries by then.
func (b *builder) outerFilters() []*hcmv3.HttpFilter {
	return []*hcmv3.HttpFilter{
		b.filter("envoy.filters.http.header_mutation", hideRetry()),
		b.filter("envoy.filters.http.custom_response", b.answerDead()),
		b.router(),
	}
}

func (b *builder) innerFilters() []*hcmv3.HttpFilter {
	return []*hcmv3.HttpFilter{
		b.filter(extAuthzFilter, b.check()),
		b.filter("attempt", attempt()),
		b.filter("observe", b.observe()),
		b.router(),
	}
}

func (b *builder) filter(name string, config proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{
		Name:       name,
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: b.pack(config)},
	}
}

func (b *builder) router() *hcmv3.HttpFilter {
	return b.filter("envoy.filters.http.router", &routerv3.Router{})
}

// hideRetry removes our header from what the caller gets. The router could do
// it too (response_headers_to_remove), but before answerDead sees the header.
func hideRetry() *headermutationv3.HeaderMutation {
	return &headermutationv3.HeaderMutation{Mutations: &headermutationv3.Mutations{
		ResponseMutations: []*rulesv3.HeaderMutation{{
			Action: &rulesv3.HeaderMutation_Remove{Remove: envoy.RetryHeader},
		}},
	}}
}

const (
	renewedReason = "backend_token_renewed"
	// renewedProblem is a problem document (RFC 9457), as the check's denials are.
	renewedProblem = `{"title":"Service Unavailable","status":503,` +
		`"detail":"the gateway's credential was just renewed, send the request again","reason":"` + renewedReason + `"}`
)

func overwrite(key, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: key, Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

// answerDead replaces a rejection of our own token, which must not look to the
// caller like a rejection of his: no 401, no challenge. To a gRPC caller Envoy
// says UNAVAILABLE. Envoy calls this filter work in progress and warns of it when
// it starts; only answers that bear our own header, which cannot be forged, ever
// get into it.
func (b *builder) answerDead() *customresponsev3.CustomResponse {
	answer := &localresponsev3.LocalResponsePolicy{
		StatusCode: wrapperspb.UInt32(uint32(typev3.StatusCode_ServiceUnavailable)),
		Body:       inline(renewedProblem),
		ResponseHeadersToAdd: []*corev3.HeaderValueOption{
			overwrite("retry-after", "0"),
			overwrite("content-type", "application/problem+json"),
			overwrite("cache-control", "no-store"),
			overwrite("x-ext-auth-reason", renewedReason),
		},
	}
	isDead := b.responseHeader(envoy.RetryHeader, envoy.RetryDead)
	return &customresponsev3.CustomResponse{CustomResponseMatcher: b.when(isDead, "answer_dead", answer)}
}

// check asks rebearer whether the request may pass, and for the backend token.
func (b *builder) check() *extauthzfilterv3.ExtAuthz {
	service := b.service(b.cfg.CheckTimeout)
	service.Timeout = seconds(b.cfg.CheckTimeout)
	told := &matcherv3.ListStringMatcher{}
	for _, name := range slices.Concat([]string{"authorization", envoy.AttemptHeader, "x-request-id"}, b.cfg.CheckHeaders) {
		told.Patterns = append(told.Patterns, exactly(name))
	}
	return &extauthzfilterv3.ExtAuthz{
		Services:            &extauthzfilterv3.ExtAuthz_GrpcService{GrpcService: service},
		TransportApiVersion: corev3.ApiVersion_V3,
		FailureModeAllow:    false,
		StatusOnError:       &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		ValidateMutations:   true,
		// Otherwise two authorization headers arrive joined as one.
		EncodeRawHeaders: true,
		AllowedHeaders:   told,
	}
}

func exactly(text string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: text}}
}

// service is how the filters call rebearer, and wait for it so long. A call that
// a replica did not answer goes to another one.
func (b *builder) service(wait time.Duration) *corev3.GrpcService {
	otherHost := b.pack(&previoushostsv3.PreviousHostsPredicate{})
	return &corev3.GrpcService{
		TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
			EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: serviceCluster},
		},
		RetryPolicy: &corev3.RetryPolicy{
			RetryOn:    "connect-failure,refused-stream,reset,unavailable",
			NumRetries: wrapperspb.UInt32(serviceRetries),
			RetryBackOff: &corev3.BackoffStrategy{
				BaseInterval: seconds(time.Millisecond),
				// Envoy makes of this the timeout of each try as well. It
				// must never be the one that ends a call.
				MaxInterval: seconds(2 * wait),
			},
			RetryHostPredicate: []*corev3.RetryPolicy_RetryHostPredicate{{
				Name:       "envoy.retry_host_predicates.previous_hosts",
				ConfigType: &corev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: otherHost},
			}},
			HostSelectionRetryMaxAttempts: hostSelections,
		},
	}
}

// attempt notes the number of the try where observe and the hook find it, and
// takes away the header, which the backend would not see without rebearer.
func attempt() *headertometadatav3.Config {
	return &headertometadatav3.Config{RequestRules: []*headertometadatav3.Config_Rule{{
		Header: envoy.AttemptHeader,
		OnHeaderPresent: &headertometadatav3.Config_KeyValuePair{
			MetadataNamespace: envoy.MetadataNamespace,
			Key:               envoy.AttemptKey,
			Type:              headertometadatav3.Config_NUMBER,
		},
		Remove: true,
	}}}
}

// observe tells the hook about answers, but not about first tries that were
// accepted: nearly all of them. Nor about the check's own denials, which Envoy
// sends through the filters behind ext_authz too (1.40 does, 1.36 does not):
// such a request has not passed the attempt filter.
func (b *builder) observe() *commonmatchingv3.ExtensionWithMatcher {
	const first, second = 1, 2
	report := allOf(
		b.attemptFrom(first),
		anyOf(append(b.rejections(), b.attemptFrom(second))...),
	)
	return &commonmatchingv3.ExtensionWithMatcher{
		XdsMatcher: b.when(not(report), "skip", &skipv3.SkipFilter{}),
		ExtensionConfig: &corev3.TypedExtensionConfig{
			Name:        extProcFilter,
			TypedConfig: b.pack(b.hook()),
		},
	}
}

// hookHeaders are the headers that the hook may set: the first on an answer of
// the backend, the others on an answer of its own.
const hookHeaders = envoy.RetryHeader + "|retry-after|content-type|cache-control|x-ext-auth-reason"

// hook is the call to rebearer. It fails open: the request is allowed already,
// and the hook can only make its answer better.
func (b *builder) hook() *extprocfilterv3.ExternalProcessor {
	attributes := []string{envoy.RequestIDAttribute, envoy.MethodAttribute, envoy.RouteAttribute}
	for _, name := range b.cfg.CredentialHeaders {
		attributes = append(attributes, envoy.HeaderAttribute(name))
	}
	return &extprocfilterv3.ExternalProcessor{
		GrpcService:      b.service(b.cfg.HookTimeout),
		FailureModeAllow: true,
		MessageTimeout:   seconds(b.cfg.HookTimeout),
		ProcessingMode: &extprocfilterv3.ProcessingMode{
			RequestHeaderMode:  extprocfilterv3.ProcessingMode_SKIP,
			ResponseHeaderMode: extprocfilterv3.ProcessingMode_SEND,
		},
		ResponseAttributes: attributes,
		MetadataOptions: &extprocfilterv3.MetadataOptions{
			ForwardingNamespaces: &extprocfilterv3.MetadataOptions_MetadataNamespaces{
				Untyped: []string{envoy.CheckNamespace, envoy.MetadataNamespace},
			},
		},
		MutationRules: &rulesv3.HeaderMutationRules{
			DisallowAll:     yes(),
			AllowExpression: &matcherv3.RegexMatcher{Regex: hookHeaders},
		},
	}
}

// rejections are the predicates of answers that may be about our token.
func (b *builder) rejections() []*predicate {
	status := &matcherv3.HttpResponseStatusCodeMatchInput{}
	var list []*predicate
	for _, code := range b.cfg.RejectionStatuses {
		list = append(list, b.equals("status", status, strconv.Itoa(code)))
	}
	// UNAUTHENTICATED, from a backend that refused before it answered anything.
	return append(list, b.responseHeader("grpc-status", "16"))
}
