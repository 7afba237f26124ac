package kubernetes

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Protocol is what a backend speaks.
type Protocol string

// The protocols of backends.
const (
	// HTTP1 is HTTP/1.1.
	HTTP1 Protocol = "http1"
	// HTTP2 is HTTP/2, which gRPC needs.
	HTTP2 Protocol = "http2"
)

// service is a Service in a cluster.
type service struct {
	host string
	port uint16
}

// rebearerIn returns the Service in which rebearer is.
func rebearerIn(endpoints []string) (service, error) {
	if len(endpoints) != 1 {
		return service{}, errors.New("rebearer's address: name one Service, whose replicas are Kubernetes' concern")
	}
	s, err := parseService(endpoints[0])
	if err != nil {
		return service{}, fmt.Errorf("rebearer's address: %w", err)
	}
	return s, nil
}

func parseService(text string) (service, error) {
	host, portText, err := net.SplitHostPort(text)
	port, portErr := strconv.ParseUint(portText, 10, 16)
	_, ipErr := netip.ParseAddr(host)
	if err != nil || portErr != nil || port == 0 || ipErr == nil || strings.ContainsAny(host, "/:") {
		return service{}, fmt.Errorf("%q is not the host:port of a Service", text)
	}
	return service{host: host, port: uint16(port)}, nil
}

// object returns the name and the namespace of the Service, which its host
// begins with.
func (s service) object() (name, namespace string, err error) {
	parts := strings.SplitN(s.host, ".", 3)
	if len(parts) < 2 || parts[0] == "" || parts[1] == "" {
		return "", "", fmt.Errorf("rebearer's address: %q does not begin with the name of a Service and its namespace, as rebearer.rebearer.svc does", s.host)
	}
	return parts[0], parts[1], nil
}
