// Package kubernetes prints what puts rebearer into an Envoy that a control plane
// programs: [Istio] and [EnvoyGateway] are objects of the Kubernetes API, made of
// the lean shape's parts (see [github.com/rebearer/rebearer/envoy/render]).
//
// # What goes where
//
//	            Istio                         Envoy Gateway
//	check       extension provider and        SecurityPolicy (extAuth)
//	            AuthorizationPolicy (CUSTOM)
//	filters     EnvoyFilter                   EnvoyPatchPolicy
//	retries     EnvoyFilter, on named routes  BackendTrafficPolicy, EnvoyPatchPolicy
//	TLS         DestinationRule               EnvoyPatchPolicy (a cluster of ours)
//
// Both put ext_authz before their own jwt_authn, which would then be shown our
// token for the caller's. So the check is asked to send it on a detour: see
// [envoy.DetourHeader]. In push mode the filters that check callers come first,
// and the caller's token stays until the router takes it out.
//
// Istio's build of Envoy has no custom_response, for which it would refuse the
// whole listener; a Lua script does the same there.
//
// # What is left alone
//
// Retries are added to the routes that are named, and to no others: a control
// plane writes a retry policy on every route, and a merge without a name would
// reach them all. The router's filters are one list for a whole listener; on
// other routes they do nothing, because no check left its metadata there. Our
// filters have names of our own, since what a route says to a filter goes by its
// name, and a control plane has filters of the same kinds.
//
// # Versions
//
// Istio 1.29 is the first with an Envoy (1.37) that does not crash on a retry
// behind these filters. Every patch says so (proxyVersion), so an older proxy
// gets none of them.
package kubernetes
