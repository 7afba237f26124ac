package render

import (
	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	networkinputsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	metadatamatcherv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/input_matchers/metadata/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"

	"github.com/rebearer/rebearer/envoy"
)

type (
	choice          = xdsmatcherv3.Matcher_MatcherList_FieldMatcher
	predicate       = xdsmatcherv3.Matcher_MatcherList_Predicate
	singlePredicate = xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate
)

// choose does what the first of the choices says whose predicate holds, and
// nothing where none does.
func (b *builder) choose(list ...*choice) *xdsmatcherv3.Matcher {
	return &xdsmatcherv3.Matcher{MatcherType: &xdsmatcherv3.Matcher_MatcherList_{
		MatcherList: &xdsmatcherv3.Matcher_MatcherList{Matchers: list},
	}}
}

// when does one thing where p holds.
func (b *builder) when(p *predicate, name string, action proto.Message) *choice {
	return &choice{Predicate: p, OnMatch: b.do(name, action)}
}

func (b *builder) do(name string, action proto.Message) *xdsmatcherv3.Matcher_OnMatch {
	return &xdsmatcherv3.Matcher_OnMatch{
		OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{Action: b.extension(name, action)},
	}
}

func not(p *predicate) *predicate {
	return &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_NotMatcher{NotMatcher: p}}
}

func anyOf(list ...*predicate) *predicate {
	return &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_OrMatcher{
		OrMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: list},
	}}
}

func allOf(list ...*predicate) *predicate {
	return &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_AndMatcher{
		AndMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: list},
	}}
}

// equals holds where the input is exactly that text.
func (b *builder) equals(name string, input proto.Message, text string) *predicate {
	return single(&singlePredicate{
		Input: b.extension(name, input),
		Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{
			ValueMatch: &xdsmatcherv3.StringMatcher{
				MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: text},
			},
		},
	})
}

func (b *builder) responseHeader(header, value string) *predicate {
	return b.equals("header", &matcherv3.HttpResponseHeaderMatchInput{HeaderName: header}, value)
}

// responseMatches holds where a header of the answer is wholly what the regular
// expression says.
func (b *builder) responseMatches(header, regex string) *predicate {
	return b.matches(&matcherv3.HttpResponseHeaderMatchInput{HeaderName: header}, regex)
}

// requestMatches is like responseMatches, for a header of the request.
func (b *builder) requestMatches(header, regex string) *predicate {
	return b.matches(&matcherv3.HttpRequestHeaderMatchInput{HeaderName: header}, regex)
}

func (b *builder) matches(header proto.Message, regex string) *predicate {
	return single(&singlePredicate{
		Input: b.extension("header", header),
		Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{
			ValueMatch: &xdsmatcherv3.StringMatcher{
				MatchPattern: &xdsmatcherv3.StringMatcher_SafeRegex{SafeRegex: &xdsmatcherv3.RegexMatcher{
					EngineType: &xdsmatcherv3.RegexMatcher_GoogleRe2{GoogleRe2: &xdsmatcherv3.RegexMatcher_GoogleRE2{}},
					Regex:      regex,
				}},
			},
		},
	})
}

// attemptFrom holds for the try of that number and later ones, where the attempt
// filter has noted one.
func (b *builder) attemptFrom(number float64) *predicate {
	input := &networkinputsv3.DynamicMetadataInput{
		Filter: envoy.MetadataNamespace,
		Path: []*networkinputsv3.DynamicMetadataInput_PathSegment{{
			Segment: &networkinputsv3.DynamicMetadataInput_PathSegment_Key{Key: envoy.AttemptKey},
		}},
	}
	fromNumber := &metadatamatcherv3.Metadata{Value: &matcherv3.ValueMatcher{
		MatchPattern: &matcherv3.ValueMatcher_DoubleMatch{DoubleMatch: &matcherv3.DoubleMatcher{
			MatchPattern: &matcherv3.DoubleMatcher_Range{Range: &typev3.DoubleRange{Start: number, End: 1e9}},
		}},
	}}
	return single(&singlePredicate{
		Input: b.extension("attempt", input),
		Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_CustomMatch{
			CustomMatch: b.extension("from", fromNumber),
		},
	})
}

func single(p *singlePredicate) *predicate {
	return &predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{SinglePredicate: p}}
}

// coreExtension is extension in the other of Envoy's two forms.
func (b *builder) coreExtension(name string, config proto.Message) *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{Name: name, TypedConfig: b.pack(config)}
}

func (b *builder) extension(name string, config proto.Message) *xdscorev3.TypedExtensionConfig {
	return &xdscorev3.TypedExtensionConfig{Name: name, TypedConfig: b.pack(config)}
}
