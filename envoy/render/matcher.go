package render

import (
	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	networkinputsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	metadatamatcherv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/input_matchers/metadata/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"

	"github.com/rebearer/rebearer/envoy"
)

type (
	predicate       = xdsmatcherv3.Matcher_MatcherList_Predicate
	singlePredicate = xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate
)

// when does one thing where p holds, and nothing otherwise.
func (b *builder) when(p *predicate, name string, action proto.Message) *xdsmatcherv3.Matcher {
	return &xdsmatcherv3.Matcher{MatcherType: &xdsmatcherv3.Matcher_MatcherList_{
		MatcherList: &xdsmatcherv3.Matcher_MatcherList{
			Matchers: []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher{{
				Predicate: p,
				OnMatch: &xdsmatcherv3.Matcher_OnMatch{
					OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{Action: b.extension(name, action)},
				},
			}},
		},
	}}
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

func (b *builder) extension(name string, config proto.Message) *xdscorev3.TypedExtensionConfig {
	return &xdscorev3.TypedExtensionConfig{Name: name, TypedConfig: b.pack(config)}
}
