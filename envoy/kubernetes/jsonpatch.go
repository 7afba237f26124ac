package kubernetes

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/proto"
)

// The resources of Envoy that are patched, by their type.
const (
	listenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
	routesType   = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	clusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
)

// Places in a listener. There may be several chains of filters, one for each
// certificate.
const (
	everyManager = "$..filters[?@.name == '" + managerFilter + "']"
	everyFilters = "$..http_filters"
	everyRouter  = everyFilters + "[?@.name == '" + routerFilter + "']"
	everyHost    = "$.virtual_hosts[*]"
)

// patches change what Envoy Gateway makes of its own objects.
func (g EnvoyGateway) patches(p *pieces) ([]jsonPatch, error) {
	var patches []jsonPatch
	if p.Service != nil {
		patches = append(patches, addCluster(p.Service))
	}
	if p.pushes {
		for _, cluster := range p.Keys {
			patches = append(patches, addCluster(cluster))
		}
	}
	for _, listener := range g.Listeners {
		resource := fmt.Sprintf("%s/%s/%s", g.Namespace, g.Gateway, listener)
		patches = append(patches, g.listenerPatches(p, resource)...)
		patches = append(patches, g.routePatches(p, resource)...)
	}
	clusters, err := g.clusterPatches(p)
	return append(patches, clusters...), err
}

func addCluster(cluster *clusterv3.Cluster) jsonPatch {
	return jsonPatch{Type: clusterType, Name: cluster.GetName(), Operation: jsonPatchOperation{Op: "add", Value: message{cluster}}}
}

// listenerPatches put our filters among those of Envoy Gateway.
func (g EnvoyGateway) listenerPatches(p *pieces, listener string) []jsonPatch {
	var patches []jsonPatch
	change := func(op, at, path string, value any) {
		patches = append(patches, jsonPatch{Type: listenerType, Name: listener, Operation: jsonPatchOperation{
			Op: op, JSONPath: at, Path: path, Value: value,
		}})
	}
	// Each goes before all that are there, so the last becomes the first.
	for _, filter := range slices.Backward(p.first) {
		change("add", everyFilters, "/0", message{filter})
	}
	if p.checks {
		change("add", everyRouter, "/typed_config/upstream_http_filters", messages(p.upstream))
	}
	for _, r := range g.Routes {
		if _, push := p.Push[r.Policy]; !push {
			check := fmt.Sprintf("%s[?@.name == '%s/securitypolicy/%s/%s']", everyFilters, checkFilter, r.Namespace, r.object())
			change("replace", check, "/typed_config", message{p.Check.GetTypedConfig()})
		}
	}
	if p.pushes {
		change("add", everyManager, "/typed_config/local_reply_config", message{p.LocalReply})
	}
	return patches
}

func messages[M proto.Message](all []M) []message {
	var list []message
	for _, m := range all {
		list = append(list, message{m})
	}
	return list
}

// routePatches complete the virtual hosts and the routes.
func (g EnvoyGateway) routePatches(p *pieces, routes string) []jsonPatch {
	var patches []jsonPatch
	add := func(at, path string, value any) {
		patches = append(patches, jsonPatch{Type: routesType, Name: routes, Operation: jsonPatchOperation{
			Op: "add", JSONPath: at, Path: path, Value: value,
		}})
	}
	add(everyHost, "/include_request_attempt_count", p.Host.GetIncludeRequestAttemptCount())
	add(everyHost, "/request_body_buffer_limit", p.Host.GetRequestBodyBufferLimit().GetValue())
	add(everyHost, "/response_headers_to_remove", p.Host.GetResponseHeadersToRemove())
	retries := p.retries(gatewayRetries)
	for _, r := range g.Routes {
		exactly := strings.ReplaceAll(r.Name, ".", "[.]")
		at := fmt.Sprintf("%s.routes[?@.name =~ '^%s/%s/%s/']", everyHost, r.kind(), r.Namespace, exactly)
		add(at, "/route/retry_policy/retry_on", retries.GetRetryOn())
		add(at, "/route/retry_policy/retriable_headers", messages(retries.GetRetriableHeaders()))
		if _, push := p.Push[r.Policy]; !push {
			continue
		}
		rules := p.rules(r.Policy)
		for _, filter := range sortedKeys(rules.GetTypedPerFilterConfig()) {
			add(at, "/typed_per_filter_config/"+filter, message{rules.GetTypedPerFilterConfig()[filter]})
		}
		if remove := rules.GetRequestHeadersToRemove(); len(remove) > 0 {
			add(at, "/request_headers_to_remove", remove)
		}
	}
	return patches
}

// clusterPatches put the filters of push mode into the backends' clusters.
func (g EnvoyGateway) clusterPatches(p *pieces) ([]jsonPatch, error) {
	var patches []jsonPatch
	for _, r := range g.Routes {
		if _, push := p.Push[r.Policy]; !push {
			continue
		}
		options, err := p.options(r.Policy, r.Protocol)
		if err != nil {
			return nil, err
		}
		for rule := range r.Rules {
			patches = append(patches, jsonPatch{
				Type: clusterType, Name: fmt.Sprintf("%s/%s/%s/rule/%d", r.kind(), r.Namespace, r.Name, rule),
				Operation: jsonPatchOperation{
					Op: "add", Path: "/typed_extension_protocol_options/" + optionsKey, Value: message{options},
				},
			})
		}
	}
	return patches, nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
