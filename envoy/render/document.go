package render

import (
	"fmt"
	"strings"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	internallistenerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/bootstrap/internal_listener/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"
)

const bootstrapComment = `Envoy bootstrap with rebearer, printed by "rebearer envoy --bootstrap".
Run it as it is: envoy -c FILE
`

const staticComment = `Pieces of an Envoy configuration with rebearer, printed by "rebearer envoy".
Merge them into your own bootstrap:
 1. Add the entries of bootstrap_extensions, listeners and clusters to yours.
 2. Put what your listener has (TLS, address, settings) into rebearer_outer, and
    your routes into rebearer_inner, each with its own policy.
`

const placeholderComment = ` 3. Replace every YOUR-CLUSTER-FOR-... by the name of your backend's cluster.
    Until then Envoy refuses the configuration.
`

// Bootstrap returns a whole Envoy bootstrap as YAML. The same Config always
// gives the same bytes. The error names every field of cfg that is wrong.
func Bootstrap(cfg Config) ([]byte, error) {
	m, err := bootstrap(cfg)
	if err != nil {
		return nil, fmt.Errorf("envoy configuration: %w", err)
	}
	return document(bootstrapComment, m)
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
	comment := staticComment
	for _, r := range cfg.Routes {
		if r.Backend == "" {
			comment += placeholderComment
			break
		}
	}
	return document(comment, m)
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
	m := &bootstrapv3.Bootstrap{
		BootstrapExtensions: []*corev3.TypedExtensionConfig{{
			Name:        "envoy.bootstrap.internal_listener",
			TypedConfig: b.pack(&internallistenerv3.InternalListener{}),
		}},
		StaticResources: &bootstrapv3.Bootstrap_StaticResources{
			Listeners: []*listenerv3.Listener{b.outer(), b.inner()},
			Clusters:  b.clusters(),
		},
	}
	return m, b.err
}

// document prints m below a comment. sigs.k8s.io/yaml quotes what YAML 1.1
// would read as something other than a string, and sorts keys.
func document(comment string, m proto.Message) ([]byte, error) {
	json, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("envoy configuration: %w", err)
	}
	text, err := yaml.JSONToYAML(json)
	if err != nil {
		return nil, fmt.Errorf("envoy configuration: %w", err)
	}
	var head strings.Builder
	for line := range strings.Lines(comment) {
		head.WriteString("# " + line)
	}
	return append([]byte(head.String()), text...), nil
}
