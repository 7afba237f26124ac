package render

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	rulesv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	commonmatchingv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	compositev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/composite/v3"
	extprocfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	upstreamcodecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/envoy/rejection"
)

const (
	// sentFormat is the value of [envoy.SentHeader].
	sentFormat = "%REQUEST_TX_DURATION% %PROTOCOL% %RESP(:STATUS)%/%RESP(GRPC-STATUS)% %REQ(X-ENVOY-ATTEMPT-COUNT)%"
	// mayBeHeld are answers to requests that went out whole, to callers who have a
	// connection for each. Where several share one, as with HTTP/2, and it has more
	// to write than its buffer holds, Envoy tells all of them to stop reading, and
	// crashes over one whose backend has ended while its answer is held (1.37.0 to
	// 1.40.0).
	mayBeHeld = `[0-9]+ HTTP/1\.[01] .*`
	// isResent are the rejections of the other callers that the router sends again
	// unasked, with the statuses to come.
	isResent = `[0-9]+ HTTP/[23]\S* (?:%s) 1`
)

// resent is the value of [envoy.SentHeader] on answers with one of the statuses
// whose requests are sent again unasked.
func resent(statuses []int) string {
	var either []string
	for _, status := range statuses {
		either = append(either, fmt.Sprintf("%d/.*", status))
		if status == http.StatusUnauthorized {
			either = append(either, ".*/"+rejection.GRPCUnauthenticated)
		}
	}
	return fmt.Sprintf(isResent, strings.Join(either, "|"))
}

// upstream are the filters that the router runs for every try: requests pass them
// from the first to the last, answers from the last to the first. The route is
// nil but in push mode.
func (b *builder) upstream(r *Route) []*hcmv3.HttpFilter {
	var filters []*hcmv3.HttpFilter
	if r != nil {
		filters = append(filters, b.injector(r.Push))
	}
	return append(filters,
		b.filter("inject", b.onRetry(b.injectToken(r))),
		b.filter("observe", b.onAnswer(b.upstreamObserver(r), b.watcher(r))),
		b.filter("guard", guard()),
		b.filter("envoy.filters.http.upstream_codec", &upstreamcodecv3.UpstreamCodec{}),
	)
}

// guard is nearest to the backend. It removes what a backend says in our name,
// and notes what decides whether the answer may be held. If observe held one that
// came before the request had gone out whole, as it does to an upload that is
// refused early and to every refused WebSocket, Envoy would crash (backends over
// HTTP/1.1; 1.37.0 to 1.40.0).
func guard() *headermutationv3.HeaderMutation {
	sent := overwrite(envoy.SentHeader, sentFormat)
	return mutateResponse(remove(envoy.RetryHeader), remove(envoy.DeadHeader), remove(envoy.SentHeader),
		&rulesv3.HeaderMutation{Action: &rulesv3.HeaderMutation_Append{Append: sent}})
}

func mutateResponse(mutations ...*rulesv3.HeaderMutation) *headermutationv3.HeaderMutation {
	return &headermutationv3.HeaderMutation{Mutations: &headermutationv3.Mutations{ResponseMutations: mutations}}
}

func remove(name string) *rulesv3.HeaderMutation {
	return &rulesv3.HeaderMutation{Action: &rulesv3.HeaderMutation_Remove{Remove: name}}
}

// onRetry calls the hook about every try but the first.
func (b *builder) onRetry(inject *extprocfilterv3.ExternalProcessor) *commonmatchingv3.ExtensionWithMatcher {
	return b.composite(b.choose(b.when(b.isLater(), "inject", b.execute("inject", inject))))
}

// isLater holds for every try but the first. Where a virtual host does not count
// the tries it never does: otherwise the hook would be called about all requests.
func (b *builder) isLater() *predicate {
	return b.requestMatches(envoy.AttemptHeader, "[2-9]|[1-9][0-9]+")
}

// onAnswer calls the hook about rejections, and about accepted retries: observe
// holds the answer meanwhile; where that is not possible, watch only tells, and
// the router may send the request again unasked ([Config.RetryUnasked]).
func (b *builder) onAnswer(observe, watch *extprocfilterv3.ExternalProcessor) *commonmatchingv3.ExtensionWithMatcher {
	held := b.responseMatches(envoy.SentHeader, mayBeHeld)
	how := b.choose(b.when(held, "observe", b.execute("observe", observe)))
	how.OnNoMatch = b.do("watch", b.execute("watch", watch))
	report := anyOf(append(b.rejections(), b.isLater())...)
	return b.composite(b.choose(&choice{
		Predicate: report,
		OnMatch:   &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Matcher{Matcher: how}},
	}))
}

// composite is a filter that becomes the one that m chooses, and costs next to
// nothing where it chooses none.
func (b *builder) composite(m *xdsmatcherv3.Matcher) *commonmatchingv3.ExtensionWithMatcher {
	return &commonmatchingv3.ExtensionWithMatcher{
		XdsMatcher:      m,
		ExtensionConfig: b.coreExtension("envoy.filters.http.composite", &compositev3.Composite{}),
	}
}

func (b *builder) execute(name string, p *extprocfilterv3.ExternalProcessor) *compositev3.ExecuteFilterAction {
	return &compositev3.ExecuteFilterAction{TypedConfig: b.coreExtension(name, p)}
}

// upstreamProcessor is a processor of the router's own filters.
func (b *builder) upstreamProcessor(role string, r *Route) *extprocfilterv3.ExternalProcessor {
	return onlyNewer(b.processor(role, r))
}

// onlyNewer makes Envoy 1.36, which would crash on the first retry, refuse the
// configuration: it does not know this field. There is no such metadata.
func onlyNewer(p *extprocfilterv3.ExternalProcessor) *extprocfilterv3.ExternalProcessor {
	p.MetadataOptions.ClusterMetadataForwardingNamespaces = &extprocfilterv3.MetadataOptions_MetadataNamespaces{
		Untyped: []string{envoy.MetadataNamespace},
	}
	return p
}

// upstreamObserver is observer for the router's own filters. What it notes down
// about a refused token reaches inject.
func (b *builder) upstreamObserver(r *Route) *extprocfilterv3.ExternalProcessor {
	p := onlyNewer(b.observer(r))
	p.ResponseAttributes = b.upstreamAttributes()
	p.MetadataOptions.ReceivingNamespaces = &extprocfilterv3.MetadataOptions_MetadataNamespaces{
		Untyped: []string{envoy.MetadataNamespace},
	}
	return p
}

func (b *builder) upstreamAttributes() []string {
	return append(b.attributes(), envoy.HeaderAttribute(envoy.AttemptHeader))
}

// watcher tells the hook about an answer and waits for nothing.
func (b *builder) watcher(r *Route) *extprocfilterv3.ExternalProcessor {
	p := b.upstreamProcessor(envoy.RoleWatch, r)
	p.ProcessingMode = &extprocfilterv3.ProcessingMode{
		RequestHeaderMode:  extprocfilterv3.ProcessingMode_SKIP,
		ResponseHeaderMode: extprocfilterv3.ProcessingMode_SEND,
	}
	p.ResponseAttributes = append(b.upstreamAttributes(), envoy.ProtocolAttribute)
	p.ObservabilityMode = true
	return p
}

// injectToken asks the hook for the token of a try that follows another.
func (b *builder) injectToken(r *Route) *extprocfilterv3.ExternalProcessor {
	p := b.upstreamProcessor(envoy.RoleInject, r)
	p.ProcessingMode = &extprocfilterv3.ProcessingMode{
		RequestHeaderMode:  extprocfilterv3.ProcessingMode_SEND,
		ResponseHeaderMode: extprocfilterv3.ProcessingMode_SKIP,
	}
	p.RequestAttributes = []string{envoy.RequestIDAttribute, envoy.RouteAttribute, envoy.ProtocolAttribute}
	p.ForwardRules = &extprocfilterv3.HeaderForwardingRules{AllowedHeaders: headers(envoy.AttemptHeader)}
	p.MessageTimeout = seconds(b.cfg.HookTimeout)
	p.MutationRules = allow(slices.Concat(b.cfg.CredentialHeaders, []string{"retry-after", "content-type", "cache-control", "x-ext-auth-reason"})...)
	return p
}
