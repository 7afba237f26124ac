package render

import (
	"net/netip"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	celfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	streamaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	outerListener = "rebearer_outer"
	// innerName is that of the internal listener and of the cluster that
	// leads to it.
	innerName = "rebearer_inner"

	// What one level may add to a message that was just within the limits of
	// the other: Envoy's own defaults are 60 KiB and 100 headers.
	innerHeadersKiB = 96
	innerHeaders    = 200
)

func underscoreActions() map[string]corev3.HttpProtocolOptions_HeadersWithUnderscoresAction {
	return map[string]corev3.HttpProtocolOptions_HeadersWithUnderscoresAction{
		"drop":   corev3.HttpProtocolOptions_DROP_HEADER,
		"reject": corev3.HttpProtocolOptions_REJECT_REQUEST,
		"allow":  corev3.HttpProtocolOptions_ALLOW,
	}
}

func escapedSlashActions() map[string]hcmv3.HttpConnectionManager_PathWithEscapedSlashesAction {
	return map[string]hcmv3.HttpConnectionManager_PathWithEscapedSlashesAction{
		"reject":   hcmv3.HttpConnectionManager_REJECT_REQUEST,
		"unescape": hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD,
		"keep":     hcmv3.HttpConnectionManager_KEEP_UNCHANGED,
	}
}

// listeners are the one that callers talk to, and the internal one if requests
// pass one.
func (b *builder) listeners() []*listenerv3.Listener {
	if b.nests() {
		return []*listenerv3.Listener{b.outer(), b.inner()}
	}
	return []*listenerv3.Listener{b.outer()}
}

// nests reports whether any request passes the internal listener.
func (b *builder) nests() bool { return b.cfg.Shape == Nested && len(b.checkRoutes()) > 0 }

// outer builds the listener that callers talk to. It decides everything about
// the caller's connection; of a request that passes the inner one it knows only
// whether to retry it.
func (b *builder) outer() *listenerv3.Listener {
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix:                   outerListener,
		UseRemoteAddress:             yes(),
		XffNumTrustedHops:            b.cfg.TrustedHops,
		NormalizePath:                yes(),
		MergeSlashes:                 true,
		PathWithEscapedSlashesAction: escapedSlashActions()[b.cfg.EscapedSlashes],
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			HeadersWithUnderscoresAction: underscoreActions()[b.cfg.Underscores],
		},
		Http2ProtocolOptions: &corev3.Http2ProtocolOptions{AllowConnect: true},
		UpgradeConfigs:       websocket(),
		StreamIdleTimeout:    seconds(b.cfg.IdleTimeout),
		AccessLog:            b.accessLog(),
		LocalReplyConfig:     b.missingSecret(),
		RouteSpecifier:       &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: b.outerRoutes()},
		HttpFilters:          b.outerFilters(),
	}
	listen := netip.MustParseAddrPort(b.cfg.Listen)
	return &listenerv3.Listener{
		Name:         outerListener,
		Address:      socketAddress(listen.Addr().String(), listen.Port()),
		FilterChains: b.chain(manager),
	}
}

// inner builds the internal listener, which every try passes from the start. It
// leaves alone what the outer one has decided.
func (b *builder) inner() *listenerv3.Listener {
	manager := &hcmv3.HttpConnectionManager{
		StatPrefix:                 innerName,
		UseRemoteAddress:           no(),
		XffNumTrustedHops:          b.cfg.TrustedHops,
		GenerateRequestId:          no(),
		ServerHeaderTransformation: hcmv3.HttpConnectionManager_PASS_THROUGH,
		ForwardClientCertDetails:   hcmv3.HttpConnectionManager_ALWAYS_FORWARD_ONLY,
		Proxy_100Continue:          true,
		MaxRequestHeadersKb:        wrapperspb.UInt32(innerHeadersKiB),
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			// The outer level closes connections between the two.
			IdleTimeout:     seconds(0),
			MaxHeadersCount: wrapperspb.UInt32(innerHeaders),
		},
		HttpProtocolOptions:  &corev3.Http1ProtocolOptions{EnableTrailers: true},
		Http2ProtocolOptions: &corev3.Http2ProtocolOptions{AllowConnect: true},
		UpgradeConfigs:       websocket(),
		StreamIdleTimeout:    seconds(0), // the outer listener's rules
		RouteSpecifier:       &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: b.innerRoutes()},
		HttpFilters:          b.innerFilters(),
	}
	return &listenerv3.Listener{
		Name: innerName,
		ListenerSpecifier: &listenerv3.Listener_InternalListener{
			InternalListener: &listenerv3.Listener_InternalListenerConfig{},
		},
		FilterChains: b.chain(manager),
	}
}

func (b *builder) chain(manager *hcmv3.HttpConnectionManager) []*listenerv3.FilterChain {
	return []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
		Name:       "envoy.filters.network.http_connection_manager",
		ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: b.pack(manager)},
	}}}}
}

func websocket() []*hcmv3.HttpConnectionManager_UpgradeConfig {
	return []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}}
}

func routeConfig(name string, host *routev3.VirtualHost) *routev3.RouteConfiguration {
	host.Name = name
	host.Domains = []string{"*"}
	return &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{host}}
}

// accessLogLine has no request header but the id, so that no token gets into it.
const accessLogLine = `%START_TIME% "%REQ(:METHOD)% %PATH(NQ:ORIG)% %PROTOCOL%" ` +
	`%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% attempts=%UPSTREAM_REQUEST_ATTEMPT_COUNT% ` +
	`%BYTES_RECEIVED% %BYTES_SENT% %DURATION%ms id=%REQ(X-REQUEST-ID)%` + "\n"

func (b *builder) accessLog() []*accesslogv3.AccessLog {
	if !b.cfg.AccessLog {
		return nil
	}
	stdout := &streamaccesslogv3.StdoutAccessLog{
		AccessLogFormat: &streamaccesslogv3.StdoutAccessLog_LogFormat{LogFormat: textFormat(accessLogLine)},
	}
	return []*accesslogv3.AccessLog{{
		Name:       "envoy.access_loggers.stdout",
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: b.pack(stdout)},
	}}
}

func textFormat(line string) *corev3.SubstitutionFormatString {
	return &corev3.SubstitutionFormatString{
		Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: inline(line)},
	}
}

func inline(text string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: text}}
}

// missingSecret makes a 503 of what the credential injector answers while Envoy
// has no token to send: 401, which is the answer to a caller's own mistake.
func (b *builder) missingSecret() *hcmv3.LocalReplyConfig {
	if !b.pushes() {
		return nil
	}
	return &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{{
		Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{
			ExtensionFilter: &accesslogv3.ExtensionFilter{
				Name: "envoy.access_loggers.extension_filters.cel",
				ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{TypedConfig: b.pack(&celfilterv3.ExpressionFilter{
					Expression: `response.code_details == "` + missingDetails + `"`,
				})},
			},
		}},
		StatusCode:         wrapperspb.UInt32(uint32(typev3.StatusCode_ServiceUnavailable)),
		Body:               inline(missingProblem),
		BodyFormatOverride: textFormat("%LOCAL_REPLY_BODY%"),
		HeadersToAdd:       problemHeaders(missingReason),
	}}}
}
