package kubernetes

import (
	"fmt"
	"slices"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	commonmatchingv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/matching/v3"
	compositev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/composite/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rebearer/rebearer/envoy"
)

const customResponseFilter = name + ".custom_response"

// deadScript does what custom_response does elsewhere: it makes a 503 of an
// answer about our own token that could not be retried, and UNAVAILABLE where
// the answer is a gRPC status.
const deadScript = `function envoy_on_response(answer)
  local headers = answer:headers()
  headers:remove("` + envoy.DeadHeader + `")
  headers:remove("www-authenticate")
  headers:replace("x-ext-auth-reason", "backend_token_renewed")
  if headers:get("grpc-status") then
    headers:replace("grpc-status", "14")
    headers:replace("grpc-message", "the gateway's credential was just renewed")
    return
  end
  headers:replace(":status", "503")
  headers:replace("retry-after", "0")
  headers:replace("content-type", "application/problem+json")
  headers:replace("cache-control", "no-store")
  headers:remove("content-encoding")
  local problem = '{"title":"Service Unavailable","status":503,' ..
    '"detail":"the gateway\'s credential was just renewed, send the request again","reason":"backend_token_renewed"}'
  headers:replace("content-length", tostring(answer:body(true):setBytes(problem)))
end
`

// withoutCustomResponse replaces the filter that Istio's build of Envoy does not
// have, and for which it would refuse the whole listener.
func withoutCustomResponse(filters []*hcmv3.HttpFilter) ([]*hcmv3.HttpFilter, error) {
	at := slices.IndexFunc(filters, func(f *hcmv3.HttpFilter) bool { return f.GetName() == customResponseFilter })
	if at < 0 {
		return filters, nil
	}
	answer, err := answerDead()
	if err != nil {
		return nil, err
	}
	filters = slices.Clone(filters)
	filters[at] = answer
	return filters, nil
}

// answerDead runs the script on answers that ask for it, and costs the others
// next to nothing.
func answerDead() (*hcmv3.HttpFilter, error) {
	var p packer
	script := p.pack(&luav3.Lua{DefaultSourceCode: &corev3.DataSource{
		Specifier: &corev3.DataSource_InlineString{InlineString: deadScript},
	}})
	run := p.pack(&compositev3.ExecuteFilterAction{
		TypedConfig: &corev3.TypedExtensionConfig{Name: "envoy.filters.http.lua", TypedConfig: script},
	})
	input := p.pack(&matcherv3.HttpResponseHeaderMatchInput{HeaderName: envoy.DeadHeader})
	composite := p.pack(&compositev3.Composite{})
	if p.err != nil {
		return nil, fmt.Errorf("answer to a dead token: %w", p.err)
	}
	isDead := &xdsmatcherv3.Matcher_MatcherTree{
		Input: &xdscorev3.TypedExtensionConfig{Name: "dead", TypedConfig: input},
		TreeType: &xdsmatcherv3.Matcher_MatcherTree_ExactMatchMap{ExactMatchMap: &xdsmatcherv3.Matcher_MatcherTree_MatchMap{
			Map: map[string]*xdsmatcherv3.Matcher_OnMatch{envoy.RetryDead: {OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{
				Action: &xdscorev3.TypedExtensionConfig{Name: "run", TypedConfig: run},
			}}},
		}},
	}
	return newFilter("rebearer.dead", &commonmatchingv3.ExtensionWithMatcher{
		XdsMatcher:      &xdsmatcherv3.Matcher{MatcherType: &xdsmatcherv3.Matcher_MatcherTree_{MatcherTree: isDead}},
		ExtensionConfig: &corev3.TypedExtensionConfig{Name: "envoy.filters.http.composite", TypedConfig: composite},
	})
}

// packer wraps messages, and keeps the first that cannot be in err.
type packer struct{ err error }

func (p *packer) pack(m proto.Message) *anypb.Any {
	packed, err := anypb.New(m)
	if err != nil && p.err == nil {
		p.err = err
	}
	return packed
}
