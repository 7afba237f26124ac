package wiring

import (
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// check is an ext_authz among a listener's filters. It need not be ours: others
// have checks too, and some control planes one for each of their policies.
type check struct {
	*extauthzv3.ExtAuthz
	filter string // its name, by which routes speak to it
	at     int    // its place among the filters
	isOff  bool   // where a route does not turn it on
	isDead bool   // no route turns it on either
}

// ours are the checks of an entrance that ask rebearer: those that go where the
// hook is called. Where no call to the hook is found they cannot be told from
// others', and are taken for ours; so is one that goes nowhere, if its listener
// calls the hook and there is no other.
func (i *inspection) ours(e entrance) []check {
	var mine, lost []check
	for _, c := range e.before.checks {
		service := c.GetGrpcService()
		switch {
		case service == nil: // over HTTP, which rebearer does not speak
		case len(i.services) == 0 || i.services[target(service)]:
			mine = append(mine, c)
		case i.lacks(service) && len(e.before.calls)+len(e.router.calls) > 0:
			lost = append(lost, c)
		}
	}
	if len(mine) == 0 {
		return lost
	}
	return mine
}

// live are those of our checks that requests may be asked about.
func (i *inspection) live(e entrance) []check {
	return slices.DeleteFunc(i.ours(e), func(c check) bool { return c.isDead })
}

// isChecked reports whether rebearer is asked about the requests of a route.
func (i *inspection) isChecked(at way) bool {
	return slices.ContainsFunc(i.live(at.entrance), func(c check) bool { return i.asks(c, at) })
}

// asks reports whether a check is asked about the requests of a route. What is
// said nearest to the route holds.
func (i *inspection) asks(c check, at way) bool {
	for _, settings := range []map[string]*anypb.Any{
		at.route.GetTypedPerFilterConfig(), at.host.GetTypedPerFilterConfig(), at.entrance.routes.GetTypedPerFilterConfig(),
	} {
		said, ok := settings[c.filter]
		if !ok {
			continue
		}
		if wrapped := unpack[*routev3.FilterConfig](said); wrapped != nil {
			if wrapped.GetDisabled() {
				return false
			}
			said = wrapped.GetConfig()
		}
		per := unpack[*extauthzv3.ExtAuthzPerRoute](said)
		return !per.GetDisabled() && !i.isElsewhere(per.GetCheckSettings())
	}
	return !c.isOff
}

// isElsewhere reports whether a route has another service than rebearer asked.
func (i *inspection) isElsewhere(s *extauthzv3.CheckSettings) bool {
	service := s.GetGrpcService()
	return s.GetHttpService() != nil || service != nil && len(i.services) > 0 && !i.services[target(service)]
}

// check looks at what ext_authz does when rebearer does not answer.
func (i *inspection) check(where string, c check) {
	if c.isDead {
		i.found(where, "its ext_authz (%s) is disabled, and no route turns it on: nothing is checked, and no token is sent. Take disabled away", c.filter)
		return
	}
	if c.GetFailureModeAllow() {
		i.found(where, "ext_authz has failure_mode_allow: while rebearer is down, everybody passes. Turn it off")
	}
	if c.GetStatusOnError().GetCode() != 503 {
		i.found(where, "ext_authz has no status_on_error 503: while rebearer is down, callers are told that they may not (403). Set it")
	}
	if c.GetGrpcService().GetTimeout() == nil {
		i.found(where, "ext_authz has no grpc_service.timeout: Envoy waits 200ms, and requests that wait for a token longer than that end in an error. Set it to rebearer's check timeout")
	}
	i.reachable(where, "ext_authz", c.GetGrpcService())
}

// reachable looks for the cluster that a call goes to.
func (i *inspection) reachable(where, what string, s *corev3.GrpcService) {
	if i.lacks(s) {
		i.found(where, "%s calls the cluster %q, which is not in the dump: the call always fails. Name rebearer's cluster, or add this one", what, target(s))
	}
}

// turnedOn are the filters that routes say something to, by which they turn on
// what is disabled elsewhere.
func turnedOn(routes *routev3.RouteConfiguration) map[string]bool {
	on := map[string]bool{}
	note := func(settings map[string]*anypb.Any) {
		for filter, said := range settings {
			if !unpack[*routev3.FilterConfig](said).GetDisabled() {
				on[filter] = true
			}
		}
	}
	note(routes.GetTypedPerFilterConfig())
	for _, host := range routes.GetVirtualHosts() {
		note(host.GetTypedPerFilterConfig())
		for _, r := range host.GetRoutes() {
			note(r.GetTypedPerFilterConfig())
		}
	}
	return on
}

// isDead reports whether a filter is disabled and nothing turns it on.
func isDead(f *hcmv3.HttpFilter, on map[string]bool) bool { return f.GetDisabled() && !on[f.GetName()] }
