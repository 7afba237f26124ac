package render

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	customresponsev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/custom_response/v3"
	headertometadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_to_metadata/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	localresponsev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/custom_response/local_response_policy/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/rebearer/rebearer/envoy"
)

// outerFilters are those of the listener that callers talk to.
func (b *builder) outerFilters() []*hcmv3.HttpFilter {
	list := []*hcmv3.HttpFilter{b.finish()}
	if b.pushes() {
		list = append(list, b.callerFilters()...)
	}
	if b.cfg.Shape == Nested {
		return append(list, b.router(nil))
	}
	return append(list, b.filter(extAuthzFilter, b.check()), b.router(b.upstream(nil)))
}

func (b *builder) innerFilters() []*hcmv3.HttpFilter {
	return []*hcmv3.HttpFilter{
		b.filter(extAuthzFilter, b.check()),
		b.filter("attempt", attempt()),
		b.filter("observe", b.observe()),
		b.router(nil),
	}
}

func (b *builder) filter(name string, config proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{
		Name:       name,
		ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: b.pack(config)},
	}
}

func (b *builder) router(upstream []*hcmv3.HttpFilter) *hcmv3.HttpFilter {
	return b.filter("envoy.filters.http.router", &routerv3.Router{UpstreamHttpFilters: upstream})
}

// finish is the filter that sees an answer only where no retry followed. Answers
// pass filters from the last to the first; the router has dealt with retries by
// then.
func (b *builder) finish() *hcmv3.HttpFilter {
	return b.filter("envoy.filters.http.custom_response", b.answerDead())
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

// problemHeaders are those of an answer of Envoy's own about our token.
func problemHeaders(reason string) []*corev3.HeaderValueOption {
	return []*corev3.HeaderValueOption{
		overwrite("retry-after", "0"),
		overwrite("content-type", "application/problem+json"),
		overwrite("cache-control", "no-store"),
		overwrite("x-ext-auth-reason", reason),
	}
}

// answerDead replaces a rejection of our own token, which must not look to the
// caller like a rejection of his: no 401, no challenge. To a gRPC caller Envoy
// says UNAVAILABLE. Envoy calls this filter work in progress and warns of it when
// it starts; only answers that bear our own header, which cannot be forged, ever
// get into it.
func (b *builder) answerDead() *customresponsev3.CustomResponse {
	answer := &localresponsev3.LocalResponsePolicy{
		StatusCode:           wrapperspb.UInt32(uint32(typev3.StatusCode_ServiceUnavailable)),
		Body:                 inline(renewedProblem),
		ResponseHeadersToAdd: problemHeaders(renewedReason),
	}
	isDead := b.responseHeader(envoy.DeadHeader, envoy.RetryDead)
	return &customresponsev3.CustomResponse{CustomResponseMatcher: b.choose(b.when(isDead, "answer_dead", answer))}
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
