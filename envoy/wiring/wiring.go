package wiring

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

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

// Config is what a running Envoy is compared with.
type Config struct {
	// Hashes are those of the configurations that are to run (render.Hashes). Nil
	// leaves that out.
	Hashes []string
	// Unasked is whether requests over HTTP/2 are to be sent again unasked
	// (render.Config.RetryUnasked).
	Unasked bool
}

// Inspect looks through what Envoy's admin interface answers on /config_dump. The
// error says that it is no dump.
func Inspect(data []byte, cfg Config) (*Report, error) {
	d, err := readDump(data)
	if err != nil {
		return nil, err
	}
	i := inspection{dump: d, Config: cfg, entrances: d.entrances(), report: &Report{}}
	i.services = i.findServices()
	for _, e := range i.entrances {
		i.entrance(e)
	}
	if !i.asked && len(i.report.Findings) == 0 {
		i.nobody()
	}
	return i.report, nil
}

// inspection is an Inspect under way.
type inspection struct {
	*dump
	Config
	entrances []entrance
	services  map[string]bool // where rebearer is called: clusters, as a rule
	asked     bool            // a route asks rebearer
	report    *Report
}

// nobody says that no route asks rebearer.
func (i *inspection) nobody() {
	if len(i.services) == 0 {
		i.found("this Envoy", "no route asks rebearer: print what it must have with `rebearer envoy`")
		return
	}
	i.found("this Envoy", "the hook is called (%s), but no ext_authz asks there: no request is sent a token. Have ext_authz call the same cluster", i.where())
}

// where names what leads to rebearer.
func (i *inspection) where() string { return strings.Join(slices.Sorted(maps.Keys(i.services)), ", ") }

func (i *inspection) found(where, format string, args ...any) {
	f := Finding{Where: where, What: fmt.Sprintf(format, args...)}
	if !slices.Contains(i.report.Findings, f) {
		i.report.Findings = append(i.report.Findings, f)
	}
}

// findServices returns where the hook is called, and looks at those calls.
func (i *inspection) findServices() map[string]bool {
	services := map[string]bool{}
	note := func(where string, c chain) {
		for _, hook := range slices.Concat(c.calls, c.idle) {
			services[target(hook.GetGrpcService())] = true
		}
		i.calls(where, c)
	}
	for _, e := range i.entrances {
		note("listener "+e.name, e.before)
		note("listener "+e.name, e.router)
	}
	for _, name := range slices.Sorted(maps.Keys(i.clusters)) {
		if own, ok := ownFilters(i.clusters[name]); ok {
			note("cluster "+name, own)
		}
	}
	return services
}

// calls looks at the calls to the hook.
func (i *inspection) calls(where string, c chain) {
	for _, filter := range c.off {
		i.found(where, "its filter %s is disabled, and no route turns it on: it counts as if it were not there. Take disabled away", filter)
	}
	for _, hook := range c.calls {
		if hook.hash != "" && i.Hashes != nil && !slices.Contains(i.Hashes, hook.hash) {
			i.found(where, "rendered from another configuration (%s) than this one (%s): render it again, or reload rebearer",
				hook.hash, strings.Join(i.Hashes, " or "))
		}
		i.reachable(where, hook.role, hook.GetGrpcService())
		for _, fault := range hook.faults() {
			i.found(where, "%s", fault)
		}
	}
}

// entrance looks at a listener and its routes.
func (i *inspection) entrance(e entrance) {
	where := "listener " + e.name
	for _, c := range i.ours(e) {
		i.check(where, c)
	}
	if len(e.before.checks) > 0 && len(i.ours(e)) == 0 && len(e.router.calls) > 0 {
		i.found(where, "its router calls the hook (%s), but no ext_authz among its filters asks there: no request is sent a token. Have ext_authz call the same cluster", i.where())
	}
	nested := i.isNested(e)
	if nested {
		i.nested(where, e)
	}
	if e.routes == nil && !nested && len(i.live(e)) > 0 {
		i.found(where, "its routes are not in the dump: take it again when Envoy has its routes")
	}
	for _, host := range e.routes.GetVirtualHosts() {
		all := ways(e, host)
		for _, at := range all {
			if at.route.GetRoute() != nil {
				i.route(at, !nested && i.isChecked(at))
			}
		}
		i.shadowed(all)
	}
}

// isNested reports whether a listener leaves retries to one in front of it.
func (i *inspection) isNested(e entrance) bool {
	return e.before.has(envoy.RoleObserve) || e.before.has(attemptPart) && len(i.live(e)) > 0
}

// nested looks at an inner listener, and for the outer one that leads to it.
func (i *inspection) nested(where string, inner entrance) {
	i.asked = true
	i.order(where, inner)
	var outer []way
	var hidden bool // the cluster of a route is not known
	for _, e := range i.entrances {
		for _, host := range e.routes.GetVirtualHosts() {
			for _, at := range ways(e, host) {
				hidden = hidden || e.name != inner.name && chooser(at.route.GetRoute()) != ""
				if names := i.leadingTo(inner, at); len(names) > 0 {
					outer = append(outer, at)
					i.breakers(names)
				}
			}
		}
	}
	if len(outer) == 0 && !hidden {
		i.found(where, "it observes answers itself, so the retry must come from a listener in front of it, and none leads to it: no rejected request is retried. Have one lead to it, as `rebearer envoy` prints it")
	}
	for _, at := range outer {
		i.retried(at, inner.before)
		i.report.Routes = append(i.report.Routes, at.where+": nested, through "+inner.name)
	}
}

// leadingTo are the clusters of a route that lead to an inner listener.
func (i *inspection) leadingTo(inner entrance, at way) []string {
	return slices.DeleteFunc(targets(at.route.GetRoute()), func(name string) bool {
		to := leadsTo(i.clusters[name])
		return to == "" || to != inner.internal
	})
}

// order looks at the filters of an inner listener: what is noted about a request
// by one is what the next needs.
func (i *inspection) order(where string, inner entrance) {
	places := maps.Clone(inner.before.at)
	for _, c := range i.live(inner) {
		places[checkPart] = c.at
	}
	whole := true
	for _, part := range []struct{ name, without string }{
		{checkPart, "no ext_authz among its filters asks rebearer: no request is sent a token, and none is retried. Put it before the attempt filter, with the cluster that the hook is called at"},
		{attemptPart, "it lacks the attempt filter (header_to_metadata, from " + envoy.AttemptHeader + " to " + envoy.MetadataNamespace + ", " + envoy.AttemptKey + ", a NUMBER): rejected requests are not retried. Put it between ext_authz and observe"},
		{envoy.RoleObserve, "it lacks observe: nobody sees a rejection, and rejected requests are not retried. Put it behind the attempt filter"},
	} {
		if _, ok := places[part.name]; !ok {
			i.found(where, "%s", part.without)
			whole = false
		}
	}
	if whole && (places[checkPart] > places[attemptPart] || places[attemptPart] > places[envoy.RoleObserve]) {
		i.found(where, "its filters are not in the order ext_authz, attempt, observe: rejected requests are not retried. Put them in that order, right before the router")
	}
}

// route looks at a route whose requests are retried by its own listener, if it
// is one: they passed the check, or Envoy sends the token by itself.
func (i *inspection) route(at way, checked bool) {
	if by := chooser(at.route.GetRoute()); by != "" {
		i.report.Routes = append(i.report.Routes, fmt.Sprintf("%s: its cluster is chosen by %s, and was not looked at", at.where, by))
		if checked {
			i.asked = true
			i.retried(at, at.entrance.router)
		}
	}
	for _, name := range targets(at.route.GetRoute()) {
		c, shape := at.entrance.router, "lean"
		own, has := ownFilters(i.clusters[name])
		switch {
		case has && own.injects != "":
			c, shape = own, "push of "+own.injects
		case !checked:
			continue
		case has && len(own.calls) == 0:
			i.found("cluster "+name, "its own http_filters take the place of the router's: no rejection of %s is seen. Add rebearer's filters to them", at.where)
			continue
		case has:
			c = own
		}
		i.asked = true
		i.upstream(at, name, c)
		i.retried(at, c)
		i.breakers([]string{name})
		i.report.Routes = append(i.report.Routes, fmt.Sprintf("%s to cluster %s: %s", at.where, name, shape))
	}
}

// upstream looks at the filters that run for every try.
func (i *inspection) upstream(at way, cluster string, c chain) {
	if missing := c.missing(); len(missing) > 0 {
		i.found(at.where, "to cluster %s it lacks %s", cluster, strings.Join(missing, ", "))
	}
	if late := c.misplaced(); len(late) > 0 {
		i.found(at.where, "to cluster %s the guard comes before %s: answers pass it after them, and it takes away what the hook said, so rejected requests are not retried. Put it right before upstream_codec",
			cluster, strings.Join(late, ", "))
	}
	if i.olderThan(1, 37) {
		i.found("this Envoy", "%s crashes on every retry behind an upstream ext_proc: run 1.37 or newer, or use the nested shape", i.release())
	}
}

// retried looks at what makes a route send a request again, or answer it where it
// cannot be. c calls the hook.
func (i *inspection) retried(at way, c chain) {
	policy := at.route.GetRoute().GetRetryPolicy()
	if policy == nil {
		policy = at.host.GetRetryPolicy()
	}
	if !retries(policy) {
		i.found(at.where, "it has no retry policy with retriable-headers on %s: rejected requests are not retried. Add it", envoy.RetryHeader)
	}
	if i.Unasked && c.guard != "" && !retriesOn(policy, c.guard) {
		i.found(at.where, "its retry policy has no retriable header %s: rejected requests over HTTP/2 are not retried. Add it as rebearer envoy prints it", c.guard)
	}
	if number := policy.GetNumRetries(); number != nil && number.GetValue() == 0 {
		i.found(at.where, "its retry policy has num_retries 0: rejected requests are not retried. Set it to 1 or more, or leave it out, which is 1")
	}
	if !at.host.GetIncludeRequestAttemptCount() {
		i.found(at.where, "virtual host %s lacks include_request_attempt_count: retried requests cannot be told from first ones. Turn it on", at.host.GetName())
	}
	for _, ours := range []string{envoy.RetryHeader, c.guard} {
		if ours != "" && !slices.Contains(at.host.GetResponseHeadersToRemove(), ours) {
			i.found(at.where, "virtual host %s lacks response_headers_to_remove: %s: callers see it where a request is not retried. Add it", at.host.GetName(), ours)
		}
	}
	if !at.entrance.before.answers {
		i.found("listener "+at.entrance.name, "no filter answers 503 where %s says that our own token was refused and the request cannot be sent again: the caller sees the backend's 401 and its challenge. Put rebearer's custom_response before all other filters", envoy.DeadHeader)
	}
	i.waits(at, policy, c.longest())
}

// waits looks at whether a route waits for the hook, which may take so long.
func (i *inspection) waits(at way, policy *routev3.RetryPolicy, hook time.Duration) {
	timeout := defaultRouteTimeout
	if own := at.route.GetRoute().GetTimeout(); own != nil {
		timeout = own.AsDuration()
	}
	if timeout > 0 && hook > 0 && timeout <= hook {
		i.found(at.where, "its timeout of %v is not above the hook's (%v): the wait for a fresh token ends in 504. Raise it", timeout, hook)
	}
	if perTry := policy.GetPerTryTimeout().AsDuration(); perTry > 0 && hook > 0 && perTry <= hook {
		i.found(at.where, "its per_try_timeout of %v is not above the hook's (%v): the wait for a fresh token ends in 504. Raise it", perTry, hook)
	}
}

// defaultRouteTimeout is Envoy's (RouteAction.timeout).
const defaultRouteTimeout = 15 * time.Second

// breakers looks at how many requests of clusters may be retried at a time.
func (i *inspection) breakers(clusters []string) {
	for _, name := range clusters {
		if !manyRetries(i.clusters[name]) {
			i.found("cluster "+name, "max_retries is Envoy's default of 3, or near it: after a restart of the provider all but as many requests are lost. Set circuit_breakers.thresholds.max_retries or a retry_budget")
		}
	}
}

func manyRetries(c *clusterv3.Cluster) bool {
	return slices.ContainsFunc(c.GetCircuitBreakers().GetThresholds(), func(t *clusterv3.CircuitBreakers_Thresholds) bool {
		return t.GetRetryBudget() != nil || t.GetMaxRetries().GetValue() >= minRetries
	})
}
