package render

import (
	"regexp"
	"strconv"
	"strings"

	rulesv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	commonmatchingv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	skipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/matcher/action/v3"
	extprocfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/rebearer/rebearer/envoy"
)

const extProcFilter = "envoy.filters.http.ext_proc"

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
		XdsMatcher:      b.choose(b.when(not(report), "skip", &skipv3.SkipFilter{})),
		ExtensionConfig: b.coreExtension(extProcFilter, b.observer(nil)),
	}
}

// observer is the call to the hook about an answer, which is held meanwhile. It
// fails open, as every call to the hook does: the request is allowed already, and
// the hook can only make its answer better.
func (b *builder) observer(r *Route) *extprocfilterv3.ExternalProcessor {
	p := b.processor(envoy.RoleObserve, r)
	p.ProcessingMode = &extprocfilterv3.ProcessingMode{
		RequestHeaderMode:  extprocfilterv3.ProcessingMode_SKIP,
		ResponseHeaderMode: extprocfilterv3.ProcessingMode_SEND,
	}
	p.ResponseAttributes = b.attributes()
	p.MessageTimeout = seconds(b.cfg.HookTimeout)
	// Where a rule looks into the bodies of rejections, the hook asks for one.
	p.AllowModeOverride = true
	p.MutationRules = allow(envoy.RetryHeader, envoy.DeadHeader, "retry-after", "content-type", "cache-control", "x-ext-auth-reason")
	return p
}

// processor has what is the same in every call to the hook. The route is nil but
// in push mode.
func (b *builder) processor(role string, r *Route) *extprocfilterv3.ExternalProcessor {
	service := b.service(b.cfg.HookTimeout)
	service.InitialMetadata = []*corev3.HeaderValue{
		{Key: envoy.RoleMetadata, Value: role},
		{Key: envoy.ConfigMetadata, Value: b.hash},
	}
	namespaces := []string{envoy.CheckNamespace, envoy.MetadataNamespace}
	if r != nil {
		service.InitialMetadata = append(service.InitialMetadata,
			&corev3.HeaderValue{Key: envoy.CredentialMetadata, Value: r.Push.Credential},
			&corev3.HeaderValue{Key: envoy.PolicyMetadata, Value: r.Policy})
		namespaces = []string{envoy.CallerNamespace, envoy.MetadataNamespace}
	}
	return &extprocfilterv3.ExternalProcessor{
		GrpcService:      service,
		FailureModeAllow: true,
		MetadataOptions: &extprocfilterv3.MetadataOptions{
			ForwardingNamespaces: &extprocfilterv3.MetadataOptions_MetadataNamespaces{Untyped: namespaces},
		},
	}
}

// attributes are those of the hook's streams (Envoy's attributes).
func (b *builder) attributes() []string {
	list := []string{envoy.RequestIDAttribute, envoy.MethodAttribute, envoy.RouteAttribute}
	for _, name := range b.cfg.CredentialHeaders {
		list = append(list, envoy.HeaderAttribute(name))
	}
	return list
}

// allow lets the hook set these headers, and no others.
func allow(names ...string) *rulesv3.HeaderMutationRules {
	var patterns []string
	for _, name := range names {
		patterns = append(patterns, regexp.QuoteMeta(name))
	}
	return &rulesv3.HeaderMutationRules{
		DisallowAll:     yes(),
		AllowExpression: &matcherv3.RegexMatcher{Regex: strings.Join(patterns, "|")},
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
