package wiring_test

import (
	"slices"
	"strings"
)

// change is done to a dump as a damage is, but nothing is wrong with it.
type change struct {
	name  string
	edit  func(object map[string]any)
	route string // what the report says of a route ends in it
}

// filters edits every list of filters that has one of a name.
func filters(name string, edit func(list []any) []any) func(map[string]any) {
	return func(o map[string]any) {
		for _, key := range []string{"http_filters", "upstream_http_filters"} {
			if list, ok := o[key].([]any); ok && indexOf(list, name) >= 0 {
				o[key] = edit(list)
			}
		}
	}
}

func indexOf(list []any, name string) int {
	return slices.IndexFunc(list, func(f any) bool {
		o, ok := f.(map[string]any)
		return ok && o["name"] == name
	})
}

// removed takes a filter out where there is another.
func removed(name, beside string) func(map[string]any) {
	return filters(beside, func(list []any) []any {
		return slices.DeleteFunc(list, func(f any) bool { return indexOf([]any{f}, name) == 0 })
	})
}

// moved puts a filter first where there is another.
func moved(name, beside string) func(map[string]any) {
	return filters(beside, func(list []any) []any {
		n := indexOf(list, name)
		first := list[n]
		return slices.Insert(slices.Delete(list, n, n+1), 0, first)
	})
}

// disabled turns a filter off.
func disabled(name string) func(map[string]any) {
	return filters(name, func(list []any) []any {
		if f, ok := list[indexOf(list, name)].(map[string]any); ok {
			f["disabled"] = true
		}
		return list
	})
}

// within edits the objects under a key of those that have all the others.
func within(key string, edit func(map[string]any), others ...string) func(map[string]any) {
	return func(o map[string]any) {
		for _, other := range others {
			if _, ok := o[other]; !ok {
				return
			}
		}
		if inner, ok := o[key].(map[string]any); ok {
			edit(inner)
		}
	}
}

func both(edits ...func(map[string]any)) func(map[string]any) {
	return func(o map[string]any) {
		for _, edit := range edits {
			edit(o)
		}
	}
}

// set gives a key another value where it has one of any kind.
func set(key string, value any) func(map[string]any) {
	return func(o map[string]any) {
		if _, ok := o[key]; ok {
			o[key] = value
		}
	}
}

// firstRoute puts a route before those of every virtual host.
func firstRoute(match map[string]any) func(map[string]any) {
	return func(o map[string]any) {
		if routes, ok := o["routes"].([]any); ok && o["domains"] != nil {
			o["routes"] = slices.Insert(routes, 0, any(map[string]any{"match": match, "direct_response": map[string]any{"status": 200}}))
		}
	}
}

// toCluster replaces what names the cluster of every route.
func toCluster(replace func(action map[string]any, cluster any)) func(map[string]any) {
	return within("route", func(action map[string]any) {
		if cluster, ok := action["cluster"]; ok {
			delete(action, "cluster")
			replace(action, cluster)
		}
	}, "match")
}

// another adds the check of somebody else, before and behind ours.
var another = filters(extAuthz, func(list []any) []any {
	opa := func(name string) any {
		return map[string]any{"name": name, "typed_config": map[string]any{
			"@type":              "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
			"grpc_service":       map[string]any{"envoy_grpc": map[string]any{"cluster_name": "backend_default"}},
			"failure_mode_allow": true,
		}}
	}
	n := indexOf(list, extAuthz)
	return slices.Insert(slices.Insert(list, n+1, opa("opa behind")), n, opa("opa before"))
})

const (
	extAuthz       = "envoy.filters.http.ext_authz"
	customResponse = "envoy.filters.http.custom_response"
)

func spaces(o map[string]any) {
	if on, ok := o["retry_on"].(string); ok {
		o["retry_on"] = "5xx, " + strings.ReplaceAll(on, ",", " , ")
	}
}

func lose(grpc map[string]any) { grpc["cluster_name"] = "lost" }

var (
	noRetries     = damage{"no retries", func(o map[string]any) { set("num_retries", 0)(o) }, "num_retries 0"}
	noHookTimeout = damage{"no message_timeout", without("message_timeout"), "observe has no message_timeout"}
	skipsAnswers  = damage{"skips answers", set("response_header_mode", "SKIP"), "the hook sees no answer"}
	skipsRequests = damage{"skips requests", set("request_header_mode", "SKIP"), "are sent the refused token again"}
	noCheckSaid   = damage{"no metadata of the check", without("forwarding_namespaces"), "observe does not tell the hook what the check said"}
	noMetadata    = damage{"no metadata", without("metadata_options"), "observe does not tell the hook what the check said"}
	noAnswerer    = damage{"custom_response disabled", disabled(customResponse), "no filter answers 503"}
	offAnswerer   = damage{"custom_response disabled", disabled(customResponse), "filter " + customResponse + " is disabled"}
	noObserver    = damage{"observe disabled", disabled("observe"), "lacks observe"}
	offObserver   = damage{"observe disabled", disabled("observe"), "filter observe is disabled"}
	lostHook      = damage{"everything calls no cluster", within("envoy_grpc", lose), `observe calls the cluster "lost", which is not in the dump`}
	guardFirst    = damage{"guard first", moved("guard", "guard"), "the guard comes before observe, watch, inject"}
	takesAll      = damage{"shadowed", firstRoute(map[string]any{"prefix": "/"}), "no request ever takes it: rebearer_outer[0]"}

	// checkDamages fit wherever a check is asked.
	checkDamages = []damage{
		noRetries, noHookTimeout, skipsAnswers, noCheckSaid, noMetadata, noAnswerer, offAnswerer, noObserver, offObserver, lostHook, takesAll,
		{"no timeout of the check", within("grpc_service", without("timeout"), "status_on_error"), "ext_authz has no grpc_service.timeout"},
		{"check disabled", both(disabled(extAuthz), without("typed_per_filter_config")), "ext_authz (" + extAuthz + ") is disabled"},
		{"check calls no cluster", within("grpc_service", within("envoy_grpc", lose), "status_on_error"), `ext_authz calls the cluster "lost", which is not in the dump`},
		{"another's check, ours fails open", both(another, failsOpen.edit), "everybody passes"},
		{"weighted, no retries", both(weighted, noRetries.edit), "num_retries 0"},
	}
	nestedDamages = append(slices.Clone(checkDamages), []damage{
		{"no attempt", removed("attempt", "attempt"), "lacks the attempt filter"},
		{"attempt disabled", disabled("attempt"), "lacks the attempt filter"},
		{"attempt notes elsewhere", set("metadata_namespace", "another"), "lacks the attempt filter"},
		{"attempt first", moved("attempt", "attempt"), "not in the order ext_authz, attempt, observe"},
		{"observe first", moved("observe", "attempt"), "not in the order ext_authz, attempt, observe"},
		{"no observe", removed("observe", "attempt"), "lacks observe"},
		{"no check", removed(extAuthz, "attempt"), "no ext_authz among its filters asks rebearer"},
		{"another's check only", both(another, removed(extAuthz, "attempt")), "no ext_authz among its filters asks rebearer"},
	}...)
	// chainDamages fit upstream chains.
	chainDamages = []damage{
		guardFirst,
		skipsRequests,
		{"inject disabled", disabled("inject"), "lacks inject"},
		{"guard disabled", disabled("guard"), "lacks the guard"},
		{"no message_timeout of inject", without("message_timeout"), "inject has no message_timeout"},
	}
	leanDamages = slices.Concat(checkDamages, chainDamages, []damage{
		{"chosen by a header, no retry policy", both(byHeader, noRetryPolicy.edit), "rejected requests are not retried"},
		{"check asks another", within("grpc_service", within("envoy_grpc", set("cluster_name", "backend_default")), "status_on_error"), "no ext_authz among its filters asks there"},
		{"no metadata of the check for inject", without("forwarding_namespaces"), "inject does not tell the hook what the check said"},
	})
	noCheck     = damage{"no check", removed(extAuthz, extAuthz), "the hook is called (rebearer), but no ext_authz asks there"}
	pushDamages = append(slices.Clone(chainDamages), noRetries, noHookTimeout, skipsAnswers, noAnswerer, noObserver, lostHook, takesAll)

	// harmless fits wherever a check is asked.
	harmless = []change{
		{"retry_on with spaces", spaces, ""},
		{"no num_retries", without("num_retries"), ""},
		{"another's check", another, ""},
		{"another's check only elsewhere", both(another, disabled("opa behind")), ""},
		{"check turned on by routes", disabled(extAuthz), ""}, // by the policy that they name
		{"check wrapped", wrapped, ""},
		{"route with a condition first", firstRoute(map[string]any{"prefix": "/", "headers": []any{map[string]any{"name": "x-debug", "present_match": true}}}), ""},
		{"route with a fraction first", firstRoute(map[string]any{"prefix": "/", "runtime_fraction": map[string]any{"default_value": map[string]any{"numerator": 1}}}), ""},
		{"one path first", firstRoute(map[string]any{"path": "/"}), ""},
	}
	onByHeader = change{"chosen by a header", byHeader, "its cluster is chosen by the header x-cluster, and was not looked at"}
)

func byHeader(o map[string]any) {
	toCluster(func(action map[string]any, _ any) { action["cluster_header"] = "x-cluster" })(o)
}

func weighted(o map[string]any) {
	toCluster(func(action map[string]any, cluster any) {
		action["weighted_clusters"] = map[string]any{"clusters": []any{map[string]any{"name": cluster, "weight": 1}}}
	})(o)
}

// onByWeight expects what the report says of a route whatever names its cluster.
func onByWeight(route string) change { return change{"weighted", weighted, route} }

// wrapped has routes speak to a disabled check the other way that Envoy knows.
func wrapped(o map[string]any) {
	disabled(extAuthz)(o)
	if settings, ok := o["typed_per_filter_config"].(map[string]any); ok && settings[extAuthz] != nil && o["match"] != nil {
		said, _ := settings[extAuthz].(map[string]any)
		if said["disabled"] != true && said["config"] == nil {
			settings[extAuthz] = map[string]any{"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": said}
		}
	}
}
