package render

import (
	"net/netip"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamhttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	serviceCluster = "rebearer"

	connectTimeout = time.Second
	// Pings find a connection whose peer vanished without a word.
	pingInterval = 30 * time.Second
	pingTimeout  = 5 * time.Second

	healthInterval = 5 * time.Second
	healthTimeout  = 2 * time.Second

	// unlimited stands for "no limit of ours". Envoy's own (1024) is there to
	// protect backends, and none of these clusters' traffic is more than what
	// the callers send. (Of retries Envoy would allow 3.)
	unlimited = 1 << 30
)

// cluster is the name of the route's cluster, or what to replace by one.
func (r Route) cluster() string {
	if r.Backend == "" {
		return "YOUR-CLUSTER-FOR-" + r.Policy
	}
	return "backend_" + r.Policy
}

func (s Service) cluster() string {
	if s.Cluster != "" {
		return s.Cluster
	}
	return serviceCluster
}

// clusters are the inner listener, rebearer, the known backends, and where the
// keys of callers' tokens are.
func (b *builder) clusters() []*clusterv3.Cluster {
	var list []*clusterv3.Cluster
	if b.nests() {
		list = append(list, b.innerCluster())
	}
	if b.cfg.Service.Cluster == "" {
		list = append(list, b.serviceCluster())
	}
	for _, r := range b.cfg.Routes {
		switch {
		case r.Backend != "":
			list = append(list, b.backendCluster(r))
		case r.Push != nil:
			list = append(list, b.chainOnly(r))
		}
	}
	if b.pushes() {
		list = append(list, b.keyClusters()...)
	}
	return list
}

// keyClusters lead to the keys of callers' tokens.
func (b *builder) keyClusters() []*clusterv3.Cluster {
	var list []*clusterv3.Cluster
	for _, c := range b.cfg.Callers {
		to, _ := parseJWKS(c) // valid, or validate had refused it
		list = append(list, b.cluster(c.cluster(), to, nil))
	}
	return list
}

// innerCluster leads to the internal listener, in the caller's own protocol: so
// trailers and gRPC stay what they are in HTTP/2, and upgrades in HTTP/1.1.
func (b *builder) innerCluster() *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name:                 innerName,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		CircuitBreakers:      b.limits(),
		LoadAssignment: assignment(innerName, &corev3.Address{Address: &corev3.Address_EnvoyInternalAddress{
			EnvoyInternalAddress: &corev3.EnvoyInternalAddress{
				AddressNameSpecifier: &corev3.EnvoyInternalAddress_ServerListenerName{ServerListenerName: innerName},
			},
		}}),
		TypedExtensionProtocolOptions: b.protocol(&upstreamhttpv3.HttpProtocolOptions{
			CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
				MaxHeadersCount:      wrapperspb.UInt32(innerHeaders),
				MaxResponseHeadersKb: wrapperspb.UInt32(innerHeadersKiB),
			},
			UpstreamProtocolOptions: &upstreamhttpv3.HttpProtocolOptions_UseDownstreamProtocolConfig{
				UseDownstreamProtocolConfig: &upstreamhttpv3.HttpProtocolOptions_UseDownstreamHttpConfig{
					HttpProtocolOptions:  &corev3.Http1ProtocolOptions{EnableTrailers: true},
					Http2ProtocolOptions: &corev3.Http2ProtocolOptions{AllowConnect: true},
				},
			},
		}),
	}
}

// serviceCluster is where rebearer listens.
func (b *builder) serviceCluster() *clusterv3.Cluster {
	kind := clusterv3.Cluster_STATIC
	var addresses []*corev3.Address
	for _, text := range b.cfg.Service.Endpoints {
		e, _ := parseEndpoint(text) // valid, or validate had refused it
		if e.path == "" && !e.isIP() {
			kind = clusterv3.Cluster_STRICT_DNS
		}
		addresses = append(addresses, e.address())
	}
	options := http2Only(&corev3.Http2ProtocolOptions{
		ConnectionKeepalive: &corev3.KeepaliveSettings{
			Interval: seconds(pingInterval),
			Timeout:  seconds(pingTimeout),
		},
	})
	if b.clusterRetries() {
		options.RetryPolicy = b.serviceRetryPolicy()
	}
	c := &clusterv3.Cluster{
		Name:                          serviceCluster,
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: kind},
		DnsLookupFamily:               clusterv3.Cluster_V4_PREFERRED,
		ConnectTimeout:                seconds(connectTimeout),
		CircuitBreakers:               b.limits(),
		HealthChecks:                  grpcHealth(),
		LoadAssignment:                assignment(serviceCluster, addresses...),
		TypedExtensionProtocolOptions: b.protocol(options),
	}
	if t := b.cfg.Service.TLS; t != nil {
		c.TransportSocket = b.tls(serviceTLS(t))
	}
	return c
}

// grpcHealth finds a replica that accepts connections but does not answer, or
// that says it is about to stop. While all are unhealthy Envoy tries them all.
func grpcHealth() []*corev3.HealthCheck {
	return []*corev3.HealthCheck{{
		Interval:           seconds(healthInterval),
		NoTrafficInterval:  seconds(healthInterval),
		Timeout:            seconds(healthTimeout),
		UnhealthyThreshold: wrapperspb.UInt32(2),
		HealthyThreshold:   wrapperspb.UInt32(1),
		HealthChecker: &corev3.HealthCheck_GrpcHealthCheck_{
			GrpcHealthCheck: &corev3.HealthCheck_GrpcHealthCheck{},
		},
	}}
}

func (b *builder) backendCluster(r Route) *clusterv3.Cluster {
	to, _ := parseBackend(r) // valid, or validate had refused it
	if r.Push == nil {
		return b.cluster(r.cluster(), to, nil)
	}
	return b.cluster(r.cluster(), to, b.upstream(&r))
}

// chainOnly is not a whole cluster. Envoy refuses it: its filters are to be moved
// to the backend's own.
func (b *builder) chainOnly(r Route) *clusterv3.Cluster {
	options := protocols("http")
	options.HttpFilters = b.upstream(&r)
	return &clusterv3.Cluster{
		Name:                          r.cluster(),
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_LOGICAL_DNS},
		TypedExtensionProtocolOptions: b.protocol(options),
	}
}

// cluster leads to a server. The filters, unless nil, take the place of the
// router's own upstream filters.
func (b *builder) cluster(name string, to backend, filters []*hcmv3.HttpFilter) *clusterv3.Cluster {
	kind := clusterv3.Cluster_STRICT_DNS
	if to.isIP() {
		kind = clusterv3.Cluster_STATIC
	}
	c := &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: kind},
		DnsLookupFamily:      clusterv3.Cluster_V4_PREFERRED,
		CircuitBreakers:      b.limits(),
		LoadAssignment:       assignment(name, to.address()),
	}
	if to.scheme == "https" {
		c.TransportSocket = b.tls(&tlsv3.UpstreamTlsContext{
			Sni:              sni(to.host),
			CommonTlsContext: verify(to.caFile, to.host),
		})
	}
	if to.scheme != "http" || filters != nil {
		options := protocols(to.scheme)
		options.HttpFilters = filters
		c.TypedExtensionProtocolOptions = b.protocol(options)
	}
	return c
}

// protocols is what HTTP a backend speaks.
func protocols(scheme string) *upstreamhttpv3.HttpProtocolOptions {
	switch scheme {
	case "h2c":
		return http2Only(&corev3.Http2ProtocolOptions{})
	case "https":
		return &upstreamhttpv3.HttpProtocolOptions{
			UpstreamProtocolOptions: &upstreamhttpv3.HttpProtocolOptions_AutoConfig{
				AutoConfig: &upstreamhttpv3.HttpProtocolOptions_AutoHttpConfig{},
			},
		}
	}
	return &upstreamhttpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{
					HttpProtocolOptions: &corev3.Http1ProtocolOptions{},
				},
			},
		},
	}
}

func assignment(name string, addresses ...*corev3.Address) *endpointv3.ClusterLoadAssignment {
	locality := &endpointv3.LocalityLbEndpoints{}
	for _, a := range addresses {
		locality.LbEndpoints = append(locality.LbEndpoints, &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: a}},
		})
	}
	return &endpointv3.ClusterLoadAssignment{
		ClusterName: name,
		Endpoints:   []*endpointv3.LocalityLbEndpoints{locality},
	}
}

func (b *builder) limits() *clusterv3.CircuitBreakers {
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxConnections:     wrapperspb.UInt32(unlimited),
		MaxPendingRequests: wrapperspb.UInt32(unlimited),
		MaxRequests:        wrapperspb.UInt32(unlimited),
		MaxRetries:         wrapperspb.UInt32(b.cfg.MaxRetries),
	}}}
}

func (b *builder) protocol(options *upstreamhttpv3.HttpProtocolOptions) map[string]*anypb.Any {
	return map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": b.pack(options)}
}

func http2Only(options *corev3.Http2ProtocolOptions) *upstreamhttpv3.HttpProtocolOptions {
	return &upstreamhttpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_{
			ExplicitHttpConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig{
				ProtocolConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
					Http2ProtocolOptions: options,
				},
			},
		},
	}
}

func (b *builder) tls(context *tlsv3.UpstreamTlsContext) *corev3.TransportSocket {
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: b.pack(context)},
	}
}

func serviceTLS(t *TLS) *tlsv3.UpstreamTlsContext {
	common := verify(t.CAFile, t.ServerName)
	common.AlpnProtocols = []string{"h2"}
	if t.CertFile != "" {
		common.TlsCertificates = []*tlsv3.TlsCertificate{{
			CertificateChain: file(t.CertFile),
			PrivateKey:       file(t.KeyFile),
		}}
	}
	return &tlsv3.UpstreamTlsContext{Sni: sni(t.ServerName), CommonTlsContext: common}
}

// verify accepts a certificate that the CA signed for that very name.
func verify(caFile, name string) *tlsv3.CommonTlsContext {
	kind := tlsv3.SubjectAltNameMatcher_DNS
	if _, err := netip.ParseAddr(name); err == nil {
		kind = tlsv3.SubjectAltNameMatcher_IP_ADDRESS
	}
	return &tlsv3.CommonTlsContext{
		ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{
			ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa: file(caFile),
				MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
					SanType: kind,
					Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: name}},
				}},
			},
		},
	}
}

// sni leaves IP addresses out (RFC 6066 section 3).
func sni(name string) string {
	if _, err := netip.ParseAddr(name); err == nil {
		return ""
	}
	return name
}

func file(path string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: path}}
}
