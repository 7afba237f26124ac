package wiring

import (
	"errors"
	"fmt"
	"strings"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	skipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/matcher/action/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
)

// dump is what an Envoy runs.
type dump struct {
	version   *corev3.BuildVersion // nil if it does not say
	listeners []*listenerv3.Listener
	clusters  map[string]*clusterv3.Cluster
	routes    map[string]*routev3.RouteConfiguration // those that listeners name
}

var errNoDump = errors.New(`not a configuration dump: it is what Envoy's admin interface answers on /config_dump`)

// lenient resolves types that this program does not know to a message without
// fields, so that what is in them is skipped.
type lenient struct{ *protoregistry.Types }

// FindMessageByURL implements the resolver of protojson.
func (l lenient) FindMessageByURL(url string) (protoreflect.MessageType, error) {
	if found, err := l.Types.FindMessageByURL(url); err == nil {
		return found, nil
	}
	return (&skipv3.SkipFilter{}).ProtoReflect().Type(), nil
}

// readDump decodes a configuration dump. Its errors quote nothing of it.
func readDump(data []byte) (*dump, error) {
	var all adminv3.ConfigDump
	options := protojson.UnmarshalOptions{DiscardUnknown: true, Resolver: lenient{protoregistry.GlobalTypes}}
	if err := options.Unmarshal(data, &all); err != nil {
		return nil, errNoDump
	}
	d := &dump{clusters: map[string]*clusterv3.Cluster{}, routes: map[string]*routev3.RouteConfiguration{}}
	var bootstrap *bootstrapv3.Bootstrap
	for _, part := range all.GetConfigs() {
		m, err := part.UnmarshalNew()
		if err != nil {
			continue // a part that this program does not know
		}
		switch m := m.(type) {
		case *adminv3.BootstrapConfigDump:
			bootstrap = m.GetBootstrap()
		case *adminv3.ListenersConfigDump:
			d.readListeners(m)
		case *adminv3.ClustersConfigDump:
			d.readClusters(m)
		case *adminv3.RoutesConfigDump:
			d.readRoutes(m)
		}
	}
	if bootstrap == nil || len(d.listeners) == 0 {
		return nil, fmt.Errorf("%w; it has no bootstrap or no listener", errNoDump)
	}
	d.version = bootstrap.GetNode().GetUserAgentBuildVersion()
	return d, nil
}

func (d *dump) readListeners(m *adminv3.ListenersConfigDump) {
	var found []*anypb.Any
	for _, l := range m.GetStaticListeners() {
		found = append(found, l.GetListener())
	}
	for _, l := range m.GetDynamicListeners() {
		found = append(found, l.GetActiveState().GetListener())
	}
	for _, a := range found {
		if l := unpack[*listenerv3.Listener](a); l != nil {
			d.listeners = append(d.listeners, l)
		}
	}
}

func (d *dump) readClusters(m *adminv3.ClustersConfigDump) {
	var found []*anypb.Any
	for _, c := range m.GetDynamicWarmingClusters() { // unless there is an older one
		found = append(found, c.GetCluster())
	}
	for _, c := range m.GetStaticClusters() {
		found = append(found, c.GetCluster())
	}
	for _, c := range m.GetDynamicActiveClusters() {
		found = append(found, c.GetCluster())
	}
	for _, a := range found {
		if c := unpack[*clusterv3.Cluster](a); c != nil {
			d.clusters[c.GetName()] = c
		}
	}
}

func (d *dump) readRoutes(m *adminv3.RoutesConfigDump) {
	var found []*anypb.Any
	for _, r := range m.GetStaticRouteConfigs() {
		found = append(found, r.GetRouteConfig())
	}
	for _, r := range m.GetDynamicRouteConfigs() {
		found = append(found, r.GetRouteConfig())
	}
	for _, a := range found {
		if r := unpack[*routev3.RouteConfiguration](a); r != nil {
			d.routes[r.GetName()] = r
		}
	}
}

// unpack returns the message in a, or nil where it is of another type.
func unpack[M proto.Message](a *anypb.Any) M {
	var none M
	if a == nil {
		return none
	}
	m, err := a.UnmarshalNew()
	if err != nil {
		return none
	}
	found, _ := m.(M)
	return found
}

// walk calls visit for m and for every message in it, those in its extensions
// included, from the outside in.
func walk(m proto.Message, visit func(proto.Message)) {
	if m == nil || !m.ProtoReflect().IsValid() {
		return
	}
	if a, ok := m.(*anypb.Any); ok {
		if inner, err := a.UnmarshalNew(); err == nil {
			walk(inner, visit)
		}
		return
	}
	visit(m)
	m.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		each(field, value, func(m proto.Message) { walk(m, visit) })
		return true
	})
}

// each calls visit for the messages that a field holds itself.
func each(field protoreflect.FieldDescriptor, value protoreflect.Value, visit func(proto.Message)) {
	isMessage := func(f protoreflect.FieldDescriptor) bool { return f.Message() != nil }
	switch {
	case field.IsMap() && isMessage(field.MapValue()):
		value.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
			visit(v.Message().Interface())
			return true
		})
	case field.IsList() && isMessage(field):
		for i := range value.List().Len() {
			visit(value.List().Get(i).Message().Interface())
		}
	case !field.IsMap() && !field.IsList() && isMessage(field):
		visit(value.Message().Interface())
	}
}

// olderThan reports whether the Envoy says that it is older than a version.
func (d *dump) olderThan(major, minor uint32) bool {
	v := d.version.GetVersion()
	if v == nil {
		return false
	}
	return v.GetMajorNumber() < major || v.GetMajorNumber() == major && v.GetMinorNumber() < minor
}

// release returns the version as people write it.
func (d *dump) release() string {
	v := d.version.GetVersion()
	return strings.Join([]string{fmt.Sprint(v.GetMajorNumber()), fmt.Sprint(v.GetMinorNumber()), fmt.Sprint(v.GetPatch())}, ".")
}
