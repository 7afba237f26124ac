package config

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"time"
)

// Underscores is what Envoy does with a request header whose name holds an
// underscore, which some backends take for a hyphen.
type Underscores string

// The values of headers_with_underscores.
const (
	// UnderscoresDrop removes the header.
	UnderscoresDrop Underscores = "drop"
	// UnderscoresReject refuses the request.
	UnderscoresReject Underscores = "reject"
	// UnderscoresAllow passes the header on.
	UnderscoresAllow Underscores = "allow"
)

// EscapedSlashes is what Envoy does with a path that holds an escaped slash or
// backslash (%2F, %5C), which some backends decode.
type EscapedSlashes string

// The values of escaped_slashes.
const (
	// SlashesReject refuses the request.
	SlashesReject EscapedSlashes = "reject"
	// SlashesUnescape decodes them.
	SlashesUnescape EscapedSlashes = "unescape"
	// SlashesKeep leaves the path as it is.
	SlashesKeep EscapedSlashes = "keep"
)

// Shape is how a request comes to be sent again with another token.
type Shape string

// The values of shape.
const (
	// ShapeNested sends every try through a second listener inside Envoy, and
	// so through the check again.
	ShapeNested Shape = "nested"
	// ShapeLean has one listener and costs less. It cannot retry uploads that
	// are refused before they have ended, nor WebSockets.
	ShapeLean Shape = "lean"
)

// maxTrustedHops is far above what anybody has.
const maxTrustedHops = 100

// Bounds of what Envoy sends again.
const (
	maxRetries  = 1_000_000
	maxAttempts = 10
)

// envoyVersion matches a minor version or a patch of it.
var envoyVersion = regexp.MustCompile(`^1\.[0-9]{1,2}(?:\.[0-9]+)?$`)

// retryConditions matches a list of words.
var retryConditions = regexp.MustCompile(`^[a-z0-9-]+(?:,[a-z0-9-]+)*$`)

// Envoy says what `rebearer envoy` prints; nothing else reads it. How long
// Envoy waits for rebearer, and about which answers it asks, follows from the
// providers and credentials.
type Envoy struct {
	// Shape is nested or lean. Lean needs Envoy 1.37: older ones crash. Default
	// nested.
	Shape Shape `yaml:"shape"`
	// Version is the oldest Envoy that will run what is printed, like "1.37".
	// One that cannot is refused. Quote it. Default: any that can.
	Version string `yaml:"version"`
	// Addresses are where Envoy reaches rebearer's gRPC port: host:port each,
	// or unix:///path, one for each replica. Default: server.grpc.address;
	// see [Config.EnvoyAddresses].
	Addresses []Address `yaml:"addresses"`
	// TLS is Envoy's side of the connection to rebearer. Default none: plain
	// text.
	TLS *EnvoyTLS `yaml:"tls"`
	// RouteTimeout is how long one try at the backend may take, to the end of
	// the answer; the time in which rebearer decides about a rejection counts.
	// Zero means no bound, which streams need. Default 15s, as in Envoy.
	RouteTimeout time.Duration `yaml:"route_timeout"`
	// IdleTimeout ends a request on which nothing moves for so long. Zero
	// means never. Default 5m, as in Envoy.
	IdleTimeout time.Duration `yaml:"idle_timeout"`
	// MaxBodyBytes is up to which size Envoy keeps a request's body, so that
	// the request can be retried; larger ones pass, but are not retried. In
	// bytes, from 1 to 4294967295. Default 1048576 (1 MiB).
	MaxBodyBytes int64 `yaml:"max_body_bytes"`
	// MaxRetries is how many retries Envoy has under way at a time at most, for
	// each backend. After a restart of a provider all requests in flight are
	// retried at once; those above the bound get the answer of the first try.
	// From 1 to 1000000. Default 10000.
	MaxRetries int64 `yaml:"max_retries"`
	// Retries are those that Envoy makes by itself. Default none.
	Retries Retries `yaml:"retries"`
	// HeadersWithUnderscores is what happens to a request header whose name
	// holds an underscore: drop, reject (the request) or allow. Default drop,
	// since some backends take authorization_ and the like for the header
	// without.
	HeadersWithUnderscores Underscores `yaml:"headers_with_underscores"`
	// EscapedSlashes is what happens to a path that holds %2F or %5C: reject
	// (the request), unescape or keep. Default reject.
	EscapedSlashes EscapedSlashes `yaml:"escaped_slashes"`
	// TrustedHops is how many proxies in front of Envoy are trusted to say
	// where a request comes from (xff_num_trusted_hops), from 0 to 100.
	// Default 0.
	TrustedHops int64 `yaml:"trusted_hops"`
	// AccessLog prints a line for each request on Envoy's standard output.
	// Default false.
	AccessLog bool `yaml:"access_log"`
	// Istio is read with --target istio. Default none.
	Istio *Istio `yaml:"istio"`
	// EnvoyGateway is read with --target envoy-gateway. Default none.
	EnvoyGateway *EnvoyGateway `yaml:"envoy_gateway"`
}

// Retries are those that Envoy makes by itself when a backend fails, beside those
// that rebearer asks for.
type Retries struct {
	// Conditions are Envoy's (x-envoy-retry-on), parted by commas, as in
	// "5xx,reset". Default none, which turns them off.
	Conditions string `yaml:"conditions"`
	// Attempts is how often a request is sent again at most, from 1 to 10.
	// Default 1.
	Attempts int64 `yaml:"attempts"`
	// PerTryTimeout bounds the wait for the head of an answer to one try. The
	// time in which rebearer decides about a rejection counts. Zero means that
	// only route_timeout counts. Default 0s.
	PerTryTimeout time.Duration `yaml:"per_try_timeout"`
	// Hedge sends a further try when one has timed out, and takes the answer
	// that comes first. It needs a per_try_timeout. Default false.
	Hedge bool `yaml:"hedge"`
}

// EnvoyTLS is Envoy's side of the connection to rebearer. The files are on
// Envoy's machine: rebearer prints their names as they stand here and reads
// none of them.
type EnvoyTLS struct {
	// CAFile is the PEM file of the authorities that sign rebearer's
	// certificate. Required.
	CAFile string `yaml:"ca_file"`
	// CertFile is the PEM file of Envoy's certificate chain. Default none,
	// which only a server without client_ca_file allows.
	CertFile string `yaml:"cert_file"`
	// KeyFile is the PEM file of its private key. Needed with CertFile.
	KeyFile string `yaml:"key_file"`
	// ServerName is the DNS name that rebearer's certificate must hold, also
	// sent as SNI. Required: without it any certificate of the authority
	// would do.
	ServerName string `yaml:"server_name"`
}

func (e Envoy) check(r *report, at string, policies map[string]Policy) {
	if e.Istio != nil {
		e.Istio.check(r, join(at, "istio"), policies)
	}
	if e.EnvoyGateway != nil {
		e.EnvoyGateway.check(r, join(at, "envoy_gateway"), policies)
	}
	for i, address := range e.Addresses {
		here := item(at+".addresses", i)
		address.check(r, here)
		if address.everyInterface() || address.anyPort() {
			r.fail(here, "%s cannot be called: name the host and the port", quote(string(address)))
		}
		if slices.Contains(e.Addresses[:i], address) {
			r.fail(here, "%s is there already", quote(string(address)))
		}
	}
	if e.TLS != nil {
		e.TLS.check(r, join(at, "tls"))
	}
	oneOf(r, join(at, "shape"), e.Shape, ShapeNested, ShapeLean)
	if e.Version != "" && !envoyVersion.MatchString(e.Version) {
		r.fail(join(at, "version"), "%s is not a version of Envoy: write it like \"1.37\"", quote(e.Version))
	}
	within(r, join(at, "max_retries"), e.MaxRetries, 1, maxRetries)
	e.Retries.check(r, join(at, "retries"))
	within(r, join(at, "max_body_bytes"), e.MaxBodyBytes, 1, math.MaxUint32)
	within(r, join(at, "trusted_hops"), e.TrustedHops, 0, maxTrustedHops)
	oneOf(r, join(at, "headers_with_underscores"), e.HeadersWithUnderscores, UnderscoresDrop, UnderscoresReject, UnderscoresAllow)
	oneOf(r, join(at, "escaped_slashes"), e.EscapedSlashes, SlashesReject, SlashesUnescape, SlashesKeep)
}

func (t Retries) check(r *report, at string) {
	if t.Conditions != "" && !retryConditions.MatchString(t.Conditions) {
		r.fail(join(at, "conditions"), "%s is not a list of Envoy's conditions: write them like 5xx,reset", quote(t.Conditions))
	}
	within(r, join(at, "attempts"), t.Attempts, 1, maxAttempts)
	if t.Hedge && t.PerTryTimeout == 0 {
		r.fail(join(at, "hedge"), "needs a per_try_timeout")
	}
	if t.Conditions == "" && (t.PerTryTimeout != 0 || t.Hedge) {
		r.fail(join(at, "conditions"), "is required beside per_try_timeout and hedge: without it nothing is sent again")
	}
}

func (t EnvoyTLS) check(r *report, at string) {
	required(r, join(at, "ca_file"), t.CAFile)
	required(r, join(at, "server_name"), t.ServerName)
	if t.ServerName != "" && !hostPattern.MatchString(t.ServerName) {
		r.fail(join(at, "server_name"), "%s is not a DNS name", quote(t.ServerName))
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		r.fail(at, "cert_file and key_file need each other")
	}
}

// EnvoyAddresses returns where Envoy reaches rebearer's gRPC port. The error
// says what `rebearer envoy` needs and `rebearer serve` does not: addresses
// that can be called, and both sides of TLS or neither.
func (c *Config) EnvoyAddresses() ([]Address, error) {
	var errs []error
	addresses := c.Envoy.Addresses
	if len(addresses) == 0 {
		addresses = []Address{c.Server.GRPC.Address}
	}
	if addresses[0].everyInterface() || addresses[0].anyPort() {
		errs = append(errs, fmt.Errorf("envoy.addresses: server.grpc.address is %s, which Envoy cannot call: say where it reaches rebearer", addresses[0]))
	}
	server, client := c.Server.GRPC.TLS, c.Envoy.TLS
	switch {
	case server != nil && client == nil:
		errs = append(errs, errors.New("envoy.tls: server.grpc has tls, so Envoy needs it too"))
	case server == nil && client != nil:
		errs = append(errs, errors.New("envoy.tls: server.grpc has no tls, so Envoy would not be understood"))
	case server != nil && server.ClientCAFile != "" && client.CertFile == "":
		errs = append(errs, errors.New("envoy.tls: server.grpc asks peers for a certificate, so Envoy needs cert_file and key_file"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return slices.Clone(addresses), nil
}

// AnyAlgorithm reports whether tokens may be signed with every asymmetric
// algorithm that there is, so that nothing has to look at it.
func (c Caller) AnyAlgorithm() bool {
	return !slices.ContainsFunc(asymmetricAlgorithms(), func(name string) bool { return !slices.Contains(c.Algorithms, name) })
}
