package kubernetes

import (
	"fmt"

	rulesv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rebearer/rebearer/envoy"
)

const (
	checkFilter   = "envoy.filters.http.ext_authz"
	routerFilter  = "envoy.filters.http.router"
	managerFilter = "envoy.filters.network.http_connection_manager"
)

// door is the first filter that a request passes: what rebearer's other filters
// take for their own word does not come from a caller.
func door() (*hcmv3.HttpFilter, error) {
	return mutateRequest("rebearer.door", remove(envoy.DetourHeader), remove(envoy.AttemptHeader))
}

// arrive ends the detour of a token. It is the first of the upstream filters, so
// that the token of a retried try, which comes later, wins.
func arrive() (*hcmv3.HttpFilter, error) {
	move := &rulesv3.HeaderMutation{Action: &rulesv3.HeaderMutation_Append{Append: &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: "authorization", Value: "%REQ(" + envoy.DetourHeader + ")%"},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}}}
	return mutateRequest("rebearer.arrive", move, remove(envoy.DetourHeader))
}

func remove(name string) *rulesv3.HeaderMutation {
	return &rulesv3.HeaderMutation{Action: &rulesv3.HeaderMutation_Remove{Remove: name}}
}

func mutateRequest(name string, mutations ...*rulesv3.HeaderMutation) (*hcmv3.HttpFilter, error) {
	return newFilter(name, &headermutationv3.HeaderMutation{
		Mutations: &headermutationv3.Mutations{RequestMutations: mutations},
	})
}

func newFilter(name string, config proto.Message) (*hcmv3.HttpFilter, error) {
	packed, err := anypb.New(config)
	if err != nil {
		return nil, fmt.Errorf("filter %s: %w", name, err)
	}
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: packed}}, nil
}
