package render

import (
	"fmt"
	"strings"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	internallistenerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/bootstrap/internal_listener/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/rebearer/rebearer/envoy/internal/safeyaml"
)

const bootstrapComment = `Envoy bootstrap with rebearer, printed by "rebearer envoy --bootstrap".
Run it as it is: envoy -c FILE
`

const staticComment = `Pieces of an Envoy configuration with rebearer, printed by "rebearer envoy".
Merge them into your own bootstrap:
`

const nestedStep = `Put what your listener has (TLS, address, settings) into rebearer_outer, and
your routes into rebearer_inner, each with its own policy.
`

const directStep = `Put what your listener has (TLS, address, settings) and your routes into
rebearer_outer, each with its own policy and its retry_policy: keep your own
conditions beside retriable-headers, and allow one retry more.
`

const upstreamStep = `A cluster of yours that has http_filters of its own needs upstream_http_filters
among them: they would take the place of the router's.
`

const chainStep = `Give the http_filters of every cluster YOUR-CLUSTER-FOR-... to your backend's
cluster (typed_extension_protocol_options), and drop the rest of it.
`

const nodeStep = `Give your node an id and a cluster, if it has none.
`

const placeholderStep = `Replace every YOUR-CLUSTER-FOR-... by the name of your backend's cluster.
Until then Envoy refuses the configuration.
`

// versionComment says which Envoys can run it.
func (c Config) versionComment() string {
	if !c.upstream() {
		return fmt.Sprintf("It needs Envoy 1.%d or newer.\n", oldestNested)
	}
	return fmt.Sprintf("It needs Envoy 1.%d or newer. Older ones refuse it; if they did not, they would\n"+
		"crash as soon as a request is retried.\n", oldestUpstream)
}

// staticSteps are what to do with the pieces, numbered.
func (c Config) staticSteps() string {
	direct := c.upstream()
	steps := []string{"Add the entries of listeners, clusters and the like to yours.\n"}
	if c.Shape != Lean {
		steps = append(steps, nestedStep)
	}
	if direct {
		steps = append(steps, directStep)
	}
	if c.Shape == Lean {
		steps = append(steps, upstreamStep)
	}
	var pushed, open, chain bool
	for _, r := range c.Routes {
		pushed = pushed || r.Push != nil
		open = open || r.Backend == ""
		chain = chain || r.Push != nil && r.Backend == ""
	}
	if chain {
		steps = append(steps, chainStep)
	}
	if pushed {
		steps = append(steps, nodeStep)
	}
	if open {
		steps = append(steps, placeholderStep)
	}
	var text strings.Builder
	for i, step := range steps {
		lines := strings.ReplaceAll(strings.TrimSuffix(step, "\n"), "\n", "\n    ")
		fmt.Fprintf(&text, " %d. %s\n", i+1, lines)
	}
	return text.String()
}

// Bootstrap returns a whole Envoy bootstrap as YAML. The same Config always
// gives the same bytes. The error names every field of cfg that is wrong.
func Bootstrap(cfg Config) ([]byte, error) {
	m, err := bootstrap(cfg)
	if err != nil {
		return nil, fmt.Errorf("envoy configuration: %w", err)
	}
	return document(bootstrapComment+cfg.versionComment(), m)
}

// Static returns as YAML what to merge into one's own bootstrap. Where a route
// has no backend, its cluster has a name to replace, which Envoy would refuse.
// The error is like that of [Bootstrap].
func Static(cfg Config) ([]byte, error) {
	cfg.Admin = ""
	m, err := static(cfg)
	if err != nil {
		return nil, fmt.Errorf("envoy configuration: %w", err)
	}
	return document(staticComment+cfg.staticSteps()+cfg.versionComment(), m)
}

func bootstrap(cfg Config) (*bootstrapv3.Bootstrap, error) {
	for _, r := range cfg.Routes {
		if r.Backend == "" {
			return nil, fmt.Errorf("route %s: needs a backend", r.Policy)
		}
	}
	m, err := static(cfg)
	if err != nil {
		return nil, err
	}
	if cfg.Admin != "" {
		admin, err := parseSocket(cfg.Admin)
		if err != nil {
			return nil, fmt.Errorf("admin: %w", err)
		}
		m.Admin = &bootstrapv3.Admin{Address: socketAddress(admin.Addr().String(), admin.Port())}
	}
	return m, nil
}

func static(cfg Config) (*bootstrapv3.Bootstrap, error) {
	b, err := newBuilder(cfg)
	if err != nil {
		return nil, err
	}
	return b.static()
}

func (b *builder) static() (*bootstrapv3.Bootstrap, error) {
	m := &bootstrapv3.Bootstrap{
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{
			Listeners: b.listeners(),
			Clusters:  b.clusters(),
		},
	}
	if b.nests() {
		m.BootstrapExtensions = []*corev3.TypedExtensionConfig{
			b.coreExtension("envoy.bootstrap.internal_listener", &internallistenerv3.InternalListener{}),
		}
	}
	if b.pushes() {
		// Envoy asks for secrets only if it has a name.
		m.Node = &corev3.Node{Id: serviceCluster, Cluster: serviceCluster}
	}
	return m, b.err
}

// document prints m below a comment.
func document(comment string, m proto.Message) ([]byte, error) {
	json, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("envoy configuration: %w", err)
	}
	text, err := safeyaml.FromJSON(json)
	if err != nil {
		return nil, fmt.Errorf("envoy configuration: %w", err)
	}
	var head strings.Builder
	for line := range strings.Lines(comment) {
		head.WriteString("# " + line)
	}
	return append([]byte(head.String()), text...), nil
}
