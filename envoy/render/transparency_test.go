package render

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/envoy/envoytest"
)

// The backend and the caller see the same with rebearer as with a plain Envoy
// that has the same outer listener and the same routes but no rebearer.
func TestTransparency(t *testing.T) {
	variants := map[string]variant{
		"edge":                            {},
		"behind a proxy":                  {config: func(c *Config) { c.TrustedHops = 1 }},
		"underscores and slashes allowed": {config: func(c *Config) { c.Underscores, c.EscapedSlashes = "allow", "keep" }},
		"internal addresses": {patch: func(m *hcmv3.HttpConnectionManager) {
			m.InternalAddressConfig = &hcmv3.HttpConnectionManager_InternalAddressConfig{
				// In place of loopback Envoy writes its own address into
				// x-forwarded-for, so that has to be internal as well.
				CidrRanges: []*corev3.CidrRange{{AddressPrefix: "0.0.0.0", PrefixLen: wrapperspb.UInt32(0)}},
			}
		}},
	}
	eachWay(t, func(t *testing.T, b envoytest.Binary, w way) {
		for name, v := range variants {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				compare(t, startPair(t, b, w, v), name == "edge")
			})
		}
	})
}

// variant changes the defaults, and what there is no setting for.
type variant struct {
	config func(*Config)
	patch  func(*hcmv3.HttpConnectionManager)
}

// pair is one Envoy with rebearer's and the plain listener, with and without TLS.
type pair struct {
	*stub
	way               way
	ours, plain       string
	oursTLS, plainTLS string
	client            *tls.Config
}

func startPair(t *testing.T, b envoytest.Binary, w way, v variant) *pair {
	t.Helper()
	s := &stub{}
	cfg := s.config(t)
	if v.config != nil {
		v.config(&cfg)
	}
	before, err := bootstrap(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m, err := bootstrap(w.apply(cfg))
	if err != nil {
		t.Fatal(err)
	}
	ca := newAuthority(t)
	addListeners(t, m, plainManager(t, m, before), ca, v.patch)
	text, err := document("", m)
	if err != nil {
		t.Fatal(err)
	}
	e := envoytest.Start(t, b, text)
	return &pair{
		stub:     s,
		way:      w,
		ours:     "http://" + e.Address(t, outerListener),
		plain:    "http://" + e.Address(t, "plain"),
		oursTLS:  "https://" + e.Address(t, outerListener+"_tls"),
		plainTLS: "https://" + e.Address(t, "plain_tls"),
		client:   &tls.Config{RootCAs: ca.pool, ServerName: "envoy.test", Certificates: []tls.Certificate{ca.load(t, "caller.test")}},
	}
}

// plainManager has the settings of the outer listener and nothing of rebearer but
// the routes, which are those of the nested shape's inner listener. It adds
// clusters of its own for them.
func plainManager(t *testing.T, m, nested *bootstrapv3.Bootstrap) *hcmv3.HttpConnectionManager {
	t.Helper()
	plain := manager(t, m.StaticResources.Listeners[0])
	plain.StatPrefix = "plain"
	plain.HttpFilters = []*hcmv3.HttpFilter{(&builder{}).router(nil)}
	routes := manager(t, nested.StaticResources.Listeners[1]).GetRouteConfig()
	for _, r := range routes.VirtualHosts[0].Routes {
		r.TypedPerFilterConfig = nil
		to, ok := r.GetRoute().GetClusterSpecifier().(*routev3.RouteAction_Cluster)
		if !ok {
			t.Fatalf("route %s leads to no cluster", r.Name)
		}
		for _, c := range nested.StaticResources.Clusters {
			if c.Name == to.Cluster {
				c.Name = "plain_" + c.Name
				m.StaticResources.Clusters = append(m.StaticResources.Clusters, c)
			}
		}
		to.Cluster = "plain_" + to.Cluster
	}
	plain.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes}
	return plain
}

// addListeners adds to those of rebearer a plain one, and a copy of both that has
// TLS and passes the client's certificate on.
func addListeners(t *testing.T, m *bootstrapv3.Bootstrap, plain *hcmv3.HttpConnectionManager, ca *authority, patch func(*hcmv3.HttpConnectionManager)) {
	t.Helper()
	listeners := m.StaticResources.Listeners
	if patch != nil {
		patch(plain)
		for i, l := range listeners {
			patched := manager(t, l)
			patch(patched)
			listeners[i] = withManager(t, l, l.Name, patched, nil)
		}
	}
	outer := manager(t, listeners[0])
	socket := serverTLS(t, ca)
	m.StaticResources.Listeners = append(listeners,
		withManager(t, listeners[0], "plain", plain, nil),
		withManager(t, listeners[0], outerListener+"_tls", withClientCert(outer), socket),
		withManager(t, listeners[0], "plain_tls", withClientCert(plain), socket),
	)
}

func manager(t *testing.T, l *listenerv3.Listener) *hcmv3.HttpConnectionManager {
	t.Helper()
	m := &hcmv3.HttpConnectionManager{}
	if err := l.FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	return m
}

func withManager(t *testing.T, from *listenerv3.Listener, name string, m *hcmv3.HttpConnectionManager, socket *corev3.TransportSocket) *listenerv3.Listener {
	t.Helper()
	l := proto.CloneOf(from)
	l.Name = name
	l.FilterChains[0].TransportSocket = socket
	l.FilterChains[0].Filters[0].ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: packed(t, m)}
	return l
}

func withClientCert(m *hcmv3.HttpConnectionManager) *hcmv3.HttpConnectionManager {
	m = proto.CloneOf(m)
	m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
	m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{
		Subject: wrapperspb.Bool(true), Cert: true, Dns: true,
	}
	return m
}

func serverTLS(t *testing.T, ca *authority) *corev3.TransportSocket {
	t.Helper()
	certFile, keyFile := ca.issue(t, "envoy.test")
	return &corev3.TransportSocket{
		Name: "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: packed(t, &tlsv3.DownstreamTlsContext{
			RequireClientCertificate: wrapperspb.Bool(true),
			CommonTlsContext: &tlsv3.CommonTlsContext{
				AlpnProtocols:   []string{"h2", "http/1.1"},
				TlsCertificates: []*tlsv3.TlsCertificate{{CertificateChain: file(certFile), PrivateKey: file(keyFile)}},
				ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{
					ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: file(ca.file)},
				},
			},
		})},
	}
}

func packed(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// ask is one request of a caller.
type ask struct {
	method, path string
	header       http.Header
	body         string
}

const ownRequestID = "0dd0b9e6-8a3c-4c7f-9d2e-3f1f6a1b2c3d"

func asks() map[string]ask {
	many := http.Header{}
	for i := range 85 {
		many.Set(fmt.Sprintf("X-Many-%d", i), "v")
	}
	tooMany := maps.Clone(many)
	for i := range 30 {
		tooMany.Set(fmt.Sprintf("X-Too-Many-%d", i), "v")
	}
	list := map[string]ask{
		"nothing":      {},
		"query":        {path: "/a%20b;c=d//e/./f/../g?x=%2F&y=//z"},
		"stripped":     {path: "/grpc/NAME/x?y=z"},
		"escaped":      {path: "/a%2Fb"},
		"body":         {method: "POST", body: "some text", header: http.Header{"Content-Type": {"text/plain"}}},
		"large body":   {method: "PUT", body: strings.Repeat("x", 2<<20)},
		"expect":       {method: "POST", body: "some text", header: http.Header{"Expect": {"100-continue"}}},
		"host":         {header: http.Header{"Host": {"Shop.Example:8443"}}},
		"one address":  {header: http.Header{"X-Forwarded-For": {"203.0.113.9"}}},
		"addresses":    {header: http.Header{"X-Forwarded-For": {"203.0.113.9, 127.0.0.9", "10.0.0.1"}, "X-Real-Ip": {"203.0.113.9"}}},
		"forwarded":    {header: http.Header{"X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"h"}, "X-Forwarded-Port": {"1"}, "Forwarded": {"for=1.2.3.4"}, "X-Forwarded-Scheme": {"https"}}},
		"certificate":  {header: http.Header{"X-Forwarded-Client-Cert": {"By=spiffe://a;Hash=0;URI=spiffe://b"}}},
		"trace":        {header: http.Header{"Traceparent": {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}, "Tracestate": {"a=b"}, "B3": {"1-1-1"}, "X-B3-Traceid": {"1"}, "X-Ot-Span-Context": {"x"}, "X-Client-Trace-Id": {"c"}}},
		"id":           {header: http.Header{"X-Request-Id": {ownRequestID}}},
		"no id":        {header: http.Header{"X-Request-Id": {"mine"}}},
		"hop by hop":   {header: http.Header{"Te": {"trailers"}, "Keep-Alive": {"timeout=5"}, "Proxy-Connection": {"keep-alive"}, "Proxy-Authorization": {"Basic x"}}},
		"several":      {header: http.Header{"X-Multi": {"a", "b, c"}, "Cookie": {"a=b", "c=d"}, "X-Empty": {""}, "Accept": {"a/b", "c/d"}}},
		"underscore":   {header: http.Header{"X_multi": {"a"}, "Authorization_": {"b"}}},
		"many":         {header: many},
		"too many":     {header: tooMany},
		"large header": {header: http.Header{"X-Large": {strings.Repeat("x", 58<<10)}}},
		"too large":    {header: http.Header{"X-Large": {strings.Repeat("x", 61<<10)}}},
		"envoy": {header: http.Header{
			"X-Envoy-Internal": {"true"}, "X-Envoy-External-Address": {"9.9.9.9"}, "X-Envoy-Original-Path": {"/o"},
			"X-Envoy-Original-Host": {"o"}, "X-Envoy-Expected-Rq-Timeout-Ms": {"7"},
			"X-Envoy-Downstream-Service-Cluster": {"d"}, "X-Envoy-Downstream-Service-Node": {"n"}, "X-Envoy-Decorator-Operation": {"o"},
			"X-Envoy-Peer-Metadata": {"p"}, "X-Envoy-Force-Trace": {"1"}, "X-Envoy-Ip-Tags": {"t"}, "X-Envoy-Something": {"s"},
			"X-Envoy-Is-Timeout-Retry": {"true"}, "X-Envoy-Auth-Failure-Mode-Allowed": {"true"},
		}},
		"envoy timeouts": {header: http.Header{
			"X-Envoy-Upstream-Rq-Timeout-Ms": {"9000"}, "X-Envoy-Upstream-Rq-Per-Try-Timeout-Ms": {"8000"},
			"X-Envoy-Retry-On": {"5xx"}, "X-Envoy-Max-Retries": {"2"}, "X-Envoy-Upstream-Alt-Stat-Name": {"s"},
			"X-Envoy-Retriable-Status-Codes": {"503"}, "X-Envoy-Hedge-On-Per-Try-Timeout": {"true"},
			"X-Envoy-Retry-Grpc-On": {"cancelled"}, "X-Envoy-Retriable-Header-Names": {"x"}, "Grpc-Timeout": {"9S"},
		}},
	}
	for _, method := range []string{"HEAD", "POST", "DELETE", "OPTIONS", "PATCH", "PROPFIND"} {
		list["method "+method] = ask{method: method}
	}
	return list
}

func compare(t *testing.T, p *pair, all bool) {
	t.Helper()
	connections := map[string]struct {
		ours, plain string
		client      *http.Client
	}{
		"http1":     {p.ours, p.plain, http1()},
		"http2 tls": {p.oursTLS, p.plainTLS, &http.Client{Transport: &http.Transport{TLSClientConfig: p.client.Clone(), ForceAttemptHTTP2: true}}},
		"http2":     {p.ours, p.plain, http2Client()},
		"http1 tls": {p.oursTLS, p.plainTLS, &http.Client{Transport: &http.Transport{TLSClientConfig: p.client}}},
	}
	if !all {
		delete(connections, "http2")
		delete(connections, "http1 tls")
	}
	for name, c := range connections {
		for what, a := range asks() {
			ours, plain := p.record(t, c.client, c.ours, a), p.record(t, c.client, c.plain, a)
			p.exempt(what, ours.Request, plain.Request)
			if diff := cmp.Diff(plain, ours); diff != "" {
				t.Errorf("%s, %s: with rebearer (+) it is not the same as without (-):\n%s", name, what, diff)
			}
		}
	}
}

// exempt leaves out what is different for a reason.
func (p *pair) exempt(what string, ours, plain http.Header) {
	switch {
	case p.way != nested && ours.Get(envoy.AttemptHeader) == "1":
		// The router's own filters need it, and it is the last of them.
		ours.Del(envoy.AttemptHeader)
	case p.way == nested && what == "envoy timeouts":
		// An internal caller's own timeout counts at the outer level. The
		// header tells the backend the inner one's.
		ours.Del("X-Envoy-Expected-Rq-Timeout-Ms")
		plain.Del("X-Envoy-Expected-Rq-Timeout-Ms")
	}
}

// record is what both sides saw of one request.
type record struct {
	Line, Host   string
	Bytes        int
	Request      http.Header
	Status       int
	Response     http.Header
	Body         string
	BackendCalls int
}

var uuid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func (p *pair) record(t *testing.T, c *http.Client, base string, a ask) record {
	t.Helper()
	name, sc := p.script(t, &scenario{})
	sc.backend = p.echo(sc)
	path := "/" + name + a.path
	if strings.Contains(a.path, "NAME") {
		path = strings.ReplaceAll(a.path, "NAME", name)
	}
	if a.method == "" {
		a.method = http.MethodGet
	}
	got, err := exchange(t, c, a.method, base+path, []byte(a.body), a.header)
	if err != nil {
		// Over HTTP/2, Envoy resets a stream with too many headers.
		return record{Body: "no answer"}
	}
	r := record{Status: got.status, Response: got.header, Body: strings.ReplaceAll(got.body, name, "NAME")}
	sc.mu.Lock()
	defer sc.mu.Unlock()
	r.BackendCalls = len(sc.tries)
	for _, seen := range sc.tries {
		r.Line = strings.ReplaceAll(seen.method+" "+seen.path+" "+seen.proto, name, "NAME")
		r.Host, r.Request = strings.ReplaceAll(seen.host, strings.TrimPrefix(strings.TrimPrefix(base, "http://"), "https://"), "LISTENER"), seen.header
	}
	r.Request.Del("Authorization") // ours, by design
	r.Response.Del("Date")
	for _, h := range []http.Header{r.Request, r.Response} {
		for _, values := range h {
			for i, v := range values {
				values[i] = normal(v, name)
			}
		}
	}
	if v := r.Response.Values("X-Envoy-Upstream-Service-Time"); len(v) == 1 {
		v[0] = "N"
	}
	return r
}

func normal(value, name string) string {
	if uuid.MatchString(value) && value != ownRequestID {
		return "UUID"
	}
	return strings.ReplaceAll(value, name, "NAME")
}

// echo answers with headers that a proxy may touch.
func (p *pair) echo(sc *scenario) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		n, _ := body.ReadFrom(r.Body)
		w.Header().Set("Server", "backend")
		w.Header().Set("Via", "1.1 backend")
		w.Header().Set("X-Powered-By", "test")
		w.Header()["Set-Cookie"] = []string{"a=b", "c=d"}
		w.Header().Set("X-Request-Id", "backend")
		w.Header().Set("X-Envoy-Something", "backend")
		w.Header().Set("X-Envoy-Attempt-Count", "backend")
		_, _ = fmt.Fprintf(w, "%d bytes", n)
	}
}
