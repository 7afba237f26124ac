package wiring

import (
	"fmt"
	"slices"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"

	"github.com/rebearer/rebearer/envoy"
)

// Finding is one thing that is not as it must be.
type Finding struct {
	// Where is the listener, route or cluster.
	Where string
	// What is wrong there, what comes of it and what to do.
	What string
}

// String returns the finding as one line.
func (f Finding) String() string { return f.Where + ": " + f.What }

// Report is what was found in a dump.
type Report struct {
	// Findings are what is wrong; none if everything is wired.
	Findings []Finding
	// Routes are the routes that were looked at, each with how it is wired:
	// "LISTENER, route ROUTE: nested".
	Routes []string
}

// minRetries is below what a cluster needs: after a restart of a provider, all
// requests in flight are retried at once, and Envoy's default of 3 answers the
// rest with the rejection.
const minRetries = 100

// Inspect looks through what Envoy's admin interface answers on /config_dump.
// known are the hashes of the configurations that are to run
// (render.Hashes); nil leaves that out. The error says that it is no dump.
func Inspect(data []byte, known []string) (*Report, error) {
	d, err := readDump(data)
	if err != nil {
		return nil, err
	}
	i := inspection{dump: d, known: known, entrances: d.entrances(), report: &Report{}}
	i.services = i.findServices()
	for _, e := range i.entrances {
		i.entrance(e)
	}
	if len(i.report.Routes) == 0 && len(i.report.Findings) == 0 {
		i.found("this Envoy", "no route asks rebearer: print what it must have with `rebearer envoy`")
	}
	return i.report, nil
}

// inspection is an Inspect under way.
type inspection struct {
	*dump
	known     []string
	entrances []entrance
	services  map[string]bool // the clusters that lead to rebearer
	report    *Report
}

func (i *inspection) found(where, format string, args ...any) {
	f := Finding{Where: where, What: fmt.Sprintf(format, args...)}
	if !slices.Contains(i.report.Findings, f) {
		i.report.Findings = append(i.report.Findings, f)
	}
}

// findServices returns the clusters that calls to the hook go to, and notes
// calls that were rendered from another configuration.
func (i *inspection) findServices() map[string]bool {
	services := map[string]bool{}
	note := func(where string, c chain) {
		for name := range c.clusters {
			services[name] = true
		}
		for hash := range c.hashes {
			if i.known != nil && !slices.Contains(i.known, hash) {
				i.found(where, "rendered from another configuration (%s) than this one (%s): render it again, or reload rebearer",
					hash, strings.Join(i.known, " or "))
			}
		}
	}
	for _, e := range i.entrances {
		note("listener "+e.name, e.before)
		note("listener "+e.name, e.router)
	}
	for name, c := range i.clusters {
		if own, ok := ownFilters(c); ok {
			note("cluster "+name, own)
		}
	}
	return services
}

// entrance looks at a listener and its routes.
func (i *inspection) entrance(e entrance) {
	where := "listener " + e.name
	checks := e.before.check != nil && i.isService(e.before)
	if checks {
		i.check(where, e.before.check)
	}
	nested := checks && e.before.roles["observe"]
	if nested {
		i.nested(where, e)
	}
	if e.routes == nil {
		if checks && !nested {
			i.found(where, "its routes are not in the dump: take it again when Envoy has its routes")
		}
		return
	}
	for _, host := range e.routes.GetVirtualHosts() {
		for n, r := range host.GetRoutes() {
			if r.GetRoute() == nil {
				continue
			}
			at := way{entrance: e, host: host, route: r, where: where + ", route " + routeName(host, r, n)}
			i.route(at, checks && !nested && !isOff(host, r))
		}
	}
}

// isService reports whether the check of a chain is ours. Where nothing calls
// the hook it cannot be told from another's, and is taken for ours.
func (i *inspection) isService(c chain) bool {
	return len(i.services) == 0 || i.services[target(c.check.GetGrpcService())]
}

// check looks at what ext_authz does when rebearer does not answer.
func (i *inspection) check(where string, c *extauthzv3.ExtAuthz) {
	if c.GetFailureModeAllow() {
		i.found(where, "ext_authz has failure_mode_allow: while rebearer is down, everybody passes. Turn it off")
	}
	if c.GetStatusOnError().GetCode() != 503 {
		i.found(where, "ext_authz has no status_on_error 503: while rebearer is down, callers are told that they may not (403)")
	}
}

// way is a route with where it is found.
type way struct {
	entrance entrance
	host     *routev3.VirtualHost
	route    *routev3.Route
	where    string
}

func routeName(host *routev3.VirtualHost, r *routev3.Route, n int) string {
	if r.GetName() != "" {
		return r.GetName()
	}
	return fmt.Sprintf("%s[%d]", host.GetName(), n)
}

// isOff reports whether the check is turned off for a route.
func isOff(host *routev3.VirtualHost, r *routev3.Route) bool {
	for _, settings := range []*extauthzv3.ExtAuthzPerRoute{perRoute(r.GetTypedPerFilterConfig()), perRoute(host.GetTypedPerFilterConfig())} {
		if settings != nil {
			return settings.GetDisabled()
		}
	}
	return false
}

// nested looks for the outer listener that leads to an inner one.
func (i *inspection) nested(where string, inner entrance) {
	var outer []way
	for _, e := range i.entrances {
		for _, host := range e.routes.GetVirtualHosts() {
			for n, r := range host.GetRoutes() {
				name := leadsTo(i.clusters[r.GetRoute().GetCluster()])
				if name != "" && name == inner.internal {
					outer = append(outer, way{e, host, r, "listener " + e.name + ", route " + routeName(host, r, n)})
				}
			}
		}
	}
	if len(outer) == 0 {
		i.found(where, "it observes answers itself, so the retry must come from a listener in front of it, and none leads to it: no rejected request is retried")
	}
	for _, at := range outer {
		i.retried(at, inner.before)
		i.report.Routes = append(i.report.Routes, at.where+": nested, through "+inner.name)
	}
}

// route looks at a route whose requests are retried by its own listener, if it
// is one: they passed the check, or Envoy sends the token by itself.
func (i *inspection) route(at way, checked bool) {
	for _, name := range targets(at.route.GetRoute()) {
		c, shape := at.entrance.router, "lean"
		own, has := ownFilters(i.clusters[name])
		switch {
		case has && own.injects != "":
			c, shape = own, "push of "+own.injects
		case !checked:
			continue
		case has && len(own.roles) == 0:
			i.found("cluster "+name, "its own http_filters take the place of the router's: no rejection of %s is seen. Add rebearer's filters to them", at.where)
			continue
		case has:
			c = own
		}
		i.upstream(at, name, c)
		i.retried(at, c)
		i.report.Routes = append(i.report.Routes, fmt.Sprintf("%s to cluster %s: %s", at.where, name, shape))
	}
}

// targets are the clusters that a route leads to.
func targets(r *routev3.RouteAction) []string {
	var list []string
	if name := r.GetCluster(); name != "" {
		list = append(list, name)
	}
	for _, w := range r.GetWeightedClusters().GetClusters() {
		list = append(list, w.GetName())
	}
	return list
}

// upstream looks at the filters that run for every try.
func (i *inspection) upstream(at way, cluster string, c chain) {
	if missing := c.missing(); len(missing) > 0 {
		i.found(at.where, "to cluster %s it lacks %s", cluster, strings.Join(missing, ", "))
	}
	if i.olderThan(1, 37) {
		i.found("this Envoy", "%s crashes on every retry behind an upstream ext_proc: run 1.37 or newer, or use the nested shape", i.release())
	}
}

// retried looks at what makes a route send a request again, or answer it where it
// cannot be. c calls the hook.
func (i *inspection) retried(at way, c chain) {
	action, hook := at.route.GetRoute(), c.longest
	policy := action.GetRetryPolicy()
	if policy == nil {
		policy = at.host.GetRetryPolicy()
	}
	if !retries(policy) {
		i.found(at.where, "it has no retry policy with retriable-headers on %s: rejected requests are not retried", envoy.RetryHeader)
	}
	if !at.host.GetIncludeRequestAttemptCount() {
		i.found(at.where, "virtual host %s lacks include_request_attempt_count: retried requests cannot be told from first ones", at.host.GetName())
	}
	for _, ours := range []string{envoy.RetryHeader, c.guard} {
		if ours != "" && !slices.Contains(at.host.GetResponseHeadersToRemove(), ours) {
			i.found(at.where, "virtual host %s lacks response_headers_to_remove: %s: callers see it where a request is not retried", at.host.GetName(), ours)
		}
	}
	if !at.entrance.before.answers {
		i.found("listener "+at.entrance.name, "no filter answers 503 where %s says that our own token was refused and the request cannot be sent again: the caller sees the backend's 401 and its challenge", envoy.DeadHeader)
	}
	timeout := defaultRouteTimeout
	if action.GetTimeout() != nil {
		timeout = action.GetTimeout().AsDuration()
	}
	if timeout > 0 && hook > 0 && timeout <= hook {
		i.found(at.where, "its timeout of %v is not above the hook's (%v): the wait for a fresh token ends in 504", timeout, hook)
	}
	if perTry := policy.GetPerTryTimeout().AsDuration(); perTry > 0 && hook > 0 && perTry <= hook {
		i.found(at.where, "its per_try_timeout of %v is not above the hook's (%v): the wait for a fresh token ends in 504", perTry, hook)
	}
	for _, name := range targets(action) {
		i.breaker(name)
	}
}

// defaultRouteTimeout is Envoy's (RouteAction.timeout).
const defaultRouteTimeout = 15 * time.Second

// breaker looks at how many requests of a cluster may be retried at a time.
func (i *inspection) breaker(cluster string) {
	for _, t := range i.clusters[cluster].GetCircuitBreakers().GetThresholds() {
		if t.GetRetryBudget() != nil || t.GetMaxRetries().GetValue() >= minRetries {
			return
		}
	}
	i.found("cluster "+cluster, "max_retries is Envoy's default of 3, or near it: after a restart of the provider all but as many requests are lost. Set circuit_breakers.thresholds.max_retries or a retry_budget")
}
