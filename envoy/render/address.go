package render

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

// endpoint is where something listens: a host and port, or a socket's path.
type endpoint struct {
	host string
	port uint16
	path string
}

func (e endpoint) isIP() bool {
	_, err := netip.ParseAddr(e.host)
	return err == nil
}

func (e endpoint) address() *corev3.Address {
	if e.path != "" {
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: e.path}}}
	}
	return socketAddress(e.host, e.port)
}

func socketAddress(host string, port uint16) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       host,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}

// parseSocket parses an address to listen on.
func parseSocket(text string) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not an IP address and port", text)
	}
	return a, nil
}

// parseEndpoint parses "host:port" or "unix:///path".
func parseEndpoint(text string) (endpoint, error) {
	if path, ok := strings.CutPrefix(text, "unix://"); ok {
		if !strings.HasPrefix(path, "/") {
			return endpoint{}, fmt.Errorf("%q: the path of a unix socket is absolute, as in unix:///run/rebearer.sock", text)
		}
		return endpoint{path: path}, nil
	}
	return parseHostPort(text)
}

func parseHostPort(text string) (endpoint, error) {
	host, portText, err := net.SplitHostPort(text)
	if err != nil || host == "" || strings.ContainsAny(host, "/@ ") {
		return endpoint{}, fmt.Errorf("%q is not host:port", text)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return endpoint{}, fmt.Errorf("%q has no port from 1 to 65535", text)
	}
	return endpoint{host: host, port: uint16(port)}, nil
}

// backend is a parsed [Route.Backend].
type backend struct {
	endpoint
	scheme string // "http", "h2c" or "https"
	caFile string
}

func parseBackend(r Route) (backend, error) {
	scheme, rest, ok := strings.Cut(r.Backend, "://")
	if !ok {
		scheme, rest = "http", r.Backend
	}
	if scheme != "http" && scheme != "h2c" && scheme != "https" {
		return backend{}, fmt.Errorf("backend %q: a backend is host:port, h2c://host:port or https://host:port", r.Backend)
	}
	e, err := parseHostPort(rest)
	if err != nil {
		return backend{}, fmt.Errorf("backend: %w", err)
	}
	b := backend{endpoint: e, scheme: scheme, caFile: r.CAFile}
	set(&b.caFile, defaultCAFile)
	return b, nil
}
