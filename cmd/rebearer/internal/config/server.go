package config

import (
	"net"
	"net/netip"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// Server says where rebearer listens, and to whom.
type Server struct {
	// GRPC is the port that Envoy calls: ext_authz and the hook. Whoever
	// reaches it can be given a backend token.
	GRPC GRPC `yaml:"grpc"`
	// Status is the port of /healthz, /readyz and /metrics, for kubelet and
	// Prometheus.
	Status Status `yaml:"status"`
	// Admin is the port of the API for operators.
	Admin Admin `yaml:"admin"`
}

// GRPC is the listener of the services that Envoy calls.
type GRPC struct {
	// Address is where to listen. Default 127.0.0.1:9001. Anything but
	// loopback and unix sockets needs tls with client_ca_file and peers, or
	// insecure: true.
	Address Address `yaml:"address"`
	// SocketMode is the permissions of a unix socket, in octal and quoted:
	// "0660" lets the group call too, which Envoy needs where it runs as another
	// user. Whoever may write to the socket may call. Default what the process's
	// umask leaves: as a rule the same user only.
	SocketMode string `yaml:"socket_mode"`
	// TLS is what rebearer presents and asks of its peers. Default none:
	// plain text.
	TLS *ServerTLS `yaml:"tls"`
	// Peers are the names that may call: a peer passes if a subject
	// alternative name (DNS name or URI) of its certificate is one of these,
	// letter for letter. Needed with client_ca_file, and only then.
	Peers []string `yaml:"peers"`
	// Insecure lets the listener be reached from elsewhere without proof of
	// who calls. Default false.
	Insecure bool `yaml:"insecure"`
}

// ServerTLS is the server's side of TLS.
type ServerTLS struct {
	// CertFile is the PEM file of the certificate chain. Required.
	CertFile string `yaml:"cert_file" file:"certificates"`
	// KeyFile is the PEM file of its private key. Required.
	KeyFile string `yaml:"key_file" file:"key"`
	// ClientCAFile is the PEM file of the authorities that sign the peers'
	// certificates. Default none: peers are not asked for one.
	ClientCAFile string `yaml:"client_ca_file" file:"certificates"`
}

// Status is the listener for health and metrics.
type Status struct {
	// Address is where to listen, host:port. Default 127.0.0.1:9003.
	Address Address `yaml:"address"`
}

// Admin is the listener for operators.
type Admin struct {
	// Address is where to listen, host:port. Default 127.0.0.1:9002.
	Address Address `yaml:"address"`
	// TokenFile is the file of the bearer token that guards changes, and off
	// loopback everything. Default none, which only loopback allows.
	TokenFile string `yaml:"token_file" file:"secret"`
	// AllowSimulation lets operators put a token that no backend accepts in place
	// of the one that is held, to see that the retry works: not for production.
	// Default false.
	AllowSimulation bool `yaml:"allow_simulation"`
}

// Address is where something listens: host:port, or unix:///path of a socket.
// Port 0 lets the kernel choose one, which the log then says.
type Address string

const unixScheme = "unix://"

// Network returns the address as [net.Listen] and [net.Dial] take it.
func (a Address) Network() (network, address string) {
	if socket, ok := strings.CutPrefix(string(a), unixScheme); ok {
		return "unix", socket
	}
	return "tcp", string(a)
}

// Loopback reports whether only this machine reaches the address: a unix
// socket, "localhost", or a literal loopback address. A name that happens to
// resolve to one, and no host at all, are not loopback.
func (a Address) Loopback() bool {
	network, address := a.Network()
	if network == "unix" {
		return true
	}
	host, _, err := net.SplitHostPort(address)
	return err == nil && loopbackHost(host)
}

// everyInterface reports an address that one can listen on but not dial.
func (a Address) everyInterface() bool {
	network, address := a.Network()
	if network == "unix" {
		return false
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

// anyPort reports an address whose port the kernel chooses.
func (a Address) anyPort() bool { return strings.HasSuffix(string(a), ":0") }

// same reports two listeners that cannot both be had.
func (a Address) same(b Address) bool { return a == b && !a.anyPort() }

func loopbackHost(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// hostPattern matches host names. Addresses are checked by parsing them.
var hostPattern = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?$`)

// check reports an address of neither form, and returns whether it has one. An
// empty host is every interface.
func (a Address) check(r *report, at string) bool {
	network, address := a.Network()
	if network == "unix" || strings.HasPrefix(address, "unix:") {
		const longest = 107 // sun_path of Linux
		if !path.IsAbs(address) || path.Clean(address) != address || len(address) > longest {
			r.fail(at, "%s is not possible: a socket is unix:///absolute/path, at most %d characters long", quote(string(a)), longest)
			return false
		}
		return true
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		r.fail(at, "%s is not an address: write host:port, such as 127.0.0.1:9001 or [::1]:9001", quote(string(a)))
		return false
	}
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(number, 10) != port {
		r.fail(at, "%s has no port from 0 to 65535", quote(string(a)))
		return false
	}
	if _, err := netip.ParseAddr(host); err == nil || host == "" || hostPattern.MatchString(host) {
		return true
	}
	r.fail(at, "%s is not a host name or address", quote(host))
	return false
}

func (s Server) check(r *report, at string) {
	s.GRPC.check(r, join(at, "grpc"))
	s.Status.Address.checkTCP(r, join(at, "status.address"))
	ok := s.Admin.Address.checkTCP(r, join(at, "admin.address"))
	if ok && !s.Admin.Address.Loopback() && s.Admin.TokenFile == "" {
		r.fail(join(at, "admin"), "%s can be reached from elsewhere, so it needs token_file", s.Admin.Address)
	}
	if s.Status.Address.same(s.GRPC.Address) {
		r.fail(join(at, "status.address"), "%s is server.grpc's already", s.Status.Address)
	}
	if s.Admin.Address.same(s.GRPC.Address) || s.Admin.Address.same(s.Status.Address) {
		r.fail(join(at, "admin.address"), "%s is another listener's already", s.Admin.Address)
	}
}

// checkTCP is check for the listeners that browsers and probes reach.
func (a Address) checkTCP(r *report, at string) bool {
	if network, _ := a.Network(); network == "unix" {
		r.fail(at, "must be host:port: only server.grpc listens on a unix socket")
		return false
	}
	return a.check(r, at)
}

// socketMode matches permissions in octal. Those of everybody are not possible:
// any process of the machine could call.
var socketMode = regexp.MustCompile(`^0[0-7]{2}0$`)

func (g GRPC) checkSocketMode(r *report, at string) {
	network, _ := g.Address.Network()
	switch {
	case g.SocketMode == "":
	case network != "unix":
		r.fail(at, "is not possible: server.grpc.address is no unix socket")
	case !socketMode.MatchString(g.SocketMode):
		r.fail(at, "%s is not possible: write it like \"0660\", and nothing for everybody", quote(g.SocketMode))
	}
}

func (g GRPC) check(r *report, at string) {
	ok := g.Address.check(r, join(at, "address"))
	g.checkSocketMode(r, join(at, "socket_mode"))
	clientCA := g.TLS != nil && g.TLS.ClientCAFile != ""
	if g.TLS != nil {
		required(r, join(at, "tls.cert_file"), g.TLS.CertFile)
		required(r, join(at, "tls.key_file"), g.TLS.KeyFile)
	}
	r.list(join(at, "peers"), g.Peers)
	for i, peer := range g.Peers {
		if strings.Contains(peer, "*") {
			r.fail(item(at+".peers", i), "%s is not possible: names are compared letter for letter, without wildcards", quote(peer))
		}
	}
	switch {
	case len(g.Peers) > 0 && !clientCA:
		r.fail(join(at, "peers"), "needs tls with client_ca_file: without it nobody proves a name")
	case clientCA && len(g.Peers) == 0:
		r.fail(join(at, "tls.client_ca_file"), "needs peers: without them everybody whom this authority ever signed may call")
	case ok && !clientCA && !g.Insecure && !g.Address.Loopback():
		r.fail(at, "%s can be reached from elsewhere, and whoever reaches it can be given a backend token: "+
			"it needs tls with client_ca_file and peers, or insecure: true", g.Address)
	}
}
