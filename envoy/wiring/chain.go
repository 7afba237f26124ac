package wiring

import (
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	credentialinjectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/credential_injector/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	extprocfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	headertometadatav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_to_metadata/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"

	"github.com/rebearer/rebearer/envoy"
)

// The parts of a chain, beside the roles of its calls to the hook.
const (
	checkPart   = "ext_authz"
	attemptPart = "attempt"
	guardPart   = "guard"
)

// chain is what a list of filters does for rebearer.
type chain struct {
	at      map[string]int // the places of its parts among the filters
	calls   []call
	checks  []check
	guard   string            // the header that its guard sets; empty if it has none
	answers bool              // it answers 503 where a rejection is about our own token
	injects string            // the credential whose secret is injected; empty if none is
	off     []string          // filters of ours that are disabled
	idle    []call            // the calls in those
	here    *hcmv3.HttpFilter // the filter that is looked at
	place   int               // of that filter
}

// chainOf looks through filters, but not into those that the router runs. A
// disabled filter that is not turned on counts as if it were not there.
func chainOf(filters []*hcmv3.HttpFilter, on map[string]bool) chain {
	c := chain{at: map[string]int{}}
	for n, f := range filters {
		if unpack[*routerv3.Router](f.GetTypedConfig()) != nil {
			continue
		}
		if isDead(f, on) {
			c.noteDead(f, n)
			continue
		}
		c.here, c.place = f, n
		walk(f.GetTypedConfig(), c.note)
	}
	return c
}

// noteDead takes a filter into account that does nothing: only what it would do
// is known of it, and where it would call.
func (c *chain) noteDead(f *hcmv3.HttpFilter, place int) {
	would := chain{at: map[string]int{}, here: f, place: place}
	walk(f.GetTypedConfig(), would.note)
	for _, k := range would.checks {
		k.isDead = true
		c.checks = append(c.checks, k)
	}
	c.idle = append(c.idle, would.calls...)
	if len(would.at) > 0 || would.answers || would.injects != "" {
		c.off = append(c.off, f.GetName())
	}
}

// note takes a message into account that is part of a filter.
func (c *chain) note(m proto.Message) {
	switch m := m.(type) {
	case *extprocfilterv3.ExternalProcessor:
		if hook, ok := callOf(m); ok {
			c.calls = append(c.calls, hook)
			c.at[hook.role] = c.place
		}
	case *headertometadatav3.Config:
		if slices.ContainsFunc(m.GetRequestRules(), countsTries) {
			c.at[attemptPart] = c.place
		}
	case *headermutationv3.HeaderMutation:
		c.noteGuard(m)
	case *credentialinjectorv3.CredentialInjector:
		walk(m.GetCredential().GetTypedConfig(), func(m proto.Message) {
			if secret, ok := m.(*tlsv3.SdsSecretConfig); ok {
				c.injects, _ = envoy.SecretCredential(secret.GetName())
			}
		})
	case *matcherv3.HttpResponseHeaderMatchInput:
		c.answers = c.answers || strings.EqualFold(m.GetHeaderName(), envoy.DeadHeader)
	case *extauthzv3.ExtAuthz:
		c.checks = append(c.checks, check{ExtAuthz: m, filter: c.here.GetName(), at: c.place, isOff: c.here.GetDisabled()})
	}
}

func (c *chain) noteGuard(m *headermutationv3.HeaderMutation) {
	for _, r := range m.GetMutations().GetResponseMutations() {
		if sent := r.GetAppend().GetHeader(); strings.Contains(sent.GetValue(), "REQUEST_TX_DURATION") {
			c.guard = sent.GetKey()
			c.at[guardPart] = c.place
		}
	}
}

// countsTries reports whether a rule notes the number of the try where observe
// and the hook look for it.
func countsTries(r *headertometadatav3.Config_Rule) bool {
	to := r.GetOnHeaderPresent()
	return strings.EqualFold(r.GetHeader(), envoy.AttemptHeader) &&
		to.GetMetadataNamespace() == envoy.MetadataNamespace && to.GetKey() == envoy.AttemptKey &&
		to.GetType() == headertometadatav3.Config_NUMBER
}

// has reports whether a chain has a part.
func (c *chain) has(part string) bool {
	_, ok := c.at[part]
	return ok
}

// longest is how long a call to the hook may hold a request.
func (c *chain) longest() time.Duration {
	var longest time.Duration
	for _, hook := range c.calls {
		if !hook.GetObservabilityMode() {
			longest = max(longest, hook.GetMessageTimeout().AsDuration())
		}
	}
	return longest
}

// missing are the parts that a chain of the router's own filters lacks.
func (c *chain) missing() []string {
	var list []string
	for _, role := range []string{envoy.RoleObserve, envoy.RoleWatch, envoy.RoleInject} {
		if !c.has(role) {
			list = append(list, role)
		}
	}
	if c.guard == "" {
		list = append(list, "the guard (without it Envoy crashes when an upload or a WebSocket is refused early)")
	}
	return list
}

// misplaced are the calls to the hook that do not come before the guard, as they
// must.
func (c *chain) misplaced() []string {
	var list []string
	for _, role := range []string{envoy.RoleObserve, envoy.RoleWatch, envoy.RoleInject} {
		if c.has(guardPart) && c.has(role) && c.at[role] > c.at[guardPart] {
			list = append(list, role)
		}
	}
	return list
}

// entrance is a connection manager: where requests come in.
type entrance struct {
	name     string // of its listener
	internal string // the name under which an internal listener is reached, if it is one
	before   chain  // its own filters
	router   chain  // those that its router runs
	routes   *routev3.RouteConfiguration
}

// entrances are all connection managers of a dump.
func (d *dump) entrances() []entrance {
	var list []entrance
	for _, l := range d.listeners {
		walk(l, func(m proto.Message) {
			h, ok := m.(*hcmv3.HttpConnectionManager)
			if !ok {
				return
			}
			e := entrance{name: l.GetName(), routes: h.GetRouteConfig()}
			if l.GetInternalListener() != nil {
				e.internal = l.GetName()
			}
			if rds := h.GetRds(); rds != nil {
				e.routes = d.routes[rds.GetRouteConfigName()]
			}
			e.filters(h.GetHttpFilters())
			list = append(list, e)
		})
	}
	return list
}

// filters notes what the filters of an entrance do, and those of its router.
func (e *entrance) filters(list []*hcmv3.HttpFilter) {
	on := turnedOn(e.routes)
	if e.routes == nil { // they may turn on whatever there is
		for _, f := range list {
			on[f.GetName()] = true
		}
	}
	e.before = chainOf(list, on)
	for _, f := range list {
		if router := unpack[*routerv3.Router](f.GetTypedConfig()); router != nil {
			e.router = chainOf(router.GetUpstreamHttpFilters(), on)
		}
	}
}

// ownFilters returns the filters that a cluster has of its own, which take the
// place of the router's. It reports false where it has none.
func ownFilters(c *clusterv3.Cluster) (chain, bool) {
	for _, options := range c.GetTypedExtensionProtocolOptions() {
		if o := unpack[*httpv3.HttpProtocolOptions](options); len(o.GetHttpFilters()) > 0 {
			return chainOf(o.GetHttpFilters(), nil), true
		}
	}
	return chain{}, false
}
