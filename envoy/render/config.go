package render

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// Config says what to render. The zero value of every field but Listen, Service
// and Routes is safe.
type Config struct {
	// Shape is how a request comes to be sent again with another token. Empty
	// means [Nested].
	Shape Shape
	// EnvoyVersion is the oldest Envoy that will run the configuration, like
	// "1.37" or "1.37.2". One that cannot run it is refused. Empty means any
	// that can.
	EnvoyVersion string
	// Listen is the outer listener's address, "host:port" with an IP address;
	// port 0 lets the kernel choose.
	Listen string
	// Admin is the address of Envoy's admin interface, like Listen. Whoever
	// reaches it can stop Envoy and read its configuration, so only loopback
	// is accepted. Empty turns it off. [Static] ignores it.
	Admin string
	// Service is where Envoy reaches rebearer.
	Service Service
	// Routes has one entry for each policy, at least one.
	Routes []Route
	// Callers are those that the routes with [Route.Push] name.
	Callers []Caller
	// Retries are the user's own, beside those that the hook asks for.
	Retries Retries

	// CheckTimeout bounds the wait for one check. It must be above the
	// providers' deadlines, because a check may wait for a token. 0 means 6s.
	CheckTimeout time.Duration
	// HookTimeout bounds how long an answer of the backend is held while the
	// hook decides, which may include fetching a token. 0 means 6s.
	HookTimeout time.Duration
	// RouteTimeout bounds one try at the backend, from the end of the request
	// to the end of the answer (RouteAction.timeout). Where Envoy sends the
	// request again by itself ([Lean], push and Retries) it bounds all tries
	// together. The hook's time counts in it, so it must be above HookTimeout. 0 means 15s, Envoy's default, or
	// a second above HookTimeout where that is more; negative means no bound.
	RouteTimeout time.Duration
	// IdleTimeout ends a request, of whatever kind, on which nothing has moved
	// for so long (stream_idle_timeout). 0 means 5m, Envoy's default; negative
	// means never.
	IdleTimeout time.Duration

	// RejectionStatuses are the HTTP statuses about which the hook is asked.
	// Nil means 401 and 403. grpc-status 16 always counts as well.
	RejectionStatuses []int
	// RetryUnasked has Envoy send a request over HTTP/2 or HTTP/3 again by itself,
	// once, where the backend answers its first try with one of these statuses in
	// the lean shape or in push mode, or with UNAUTHENTICATED if 401 is among them:
	// such answers cannot be held until the hook has decided, which inject waits
	// for instead. Nil means never.
	RetryUnasked []int
	// CredentialHeaders are the request headers in which backend tokens are
	// sent. The hook is told their values. Nil means authorization.
	CredentialHeaders []string
	// CheckHeaders are further request headers that the check is told, in lower
	// case: beside authorization, the number of the try and the request's id.
	CheckHeaders []string
	// BodyBuffer is how many bytes of a request body are kept for a retry. A
	// request with a larger one passes, but cannot be retried. 0 means 1 MiB.
	// Envoy may hold as much memory for every request in flight. Envoy 1.37
	// counts twice, in the lean shape, what came while the check was asked, so
	// it keeps half as much there.
	BodyBuffer uint32

	// Underscores is what to do with request headers that have one in their
	// name: "drop" (default) the header, "reject" the request, or "allow".
	Underscores string
	// EscapedSlashes is what to do with a path that holds %2F or %5C: "reject"
	// the request (default), "unescape" them, or "keep" the path as it is,
	// which is safe only where the backend does not decode them.
	EscapedSlashes string
	// TrustedHops is the number of trusted proxies in front of Envoy
	// (xff_num_trusted_hops).
	TrustedHops uint32
	// MaxRetries bounds how many retries a cluster has under way at a time.
	// After a restart of a provider all requests in flight are retried at once;
	// those above the bound get the answer of the first try. 0 means 10000.
	MaxRetries uint32
	// AccessLog prints one line for each caller's request on standard output.
	AccessLog bool
}

// Shape is how a request comes to be sent again with another token.
type Shape string

// The shapes.
const (
	// Nested sends every try through a second, internal listener, and so
	// through the check.
	Nested Shape = "nested"
	// Lean has one listener; filters that the router runs for every try
	// replace the token. It needs Envoy 1.37: older ones crash.
	Lean Shape = "lean"
)

// Retries are a user's own rules about sending a request again
// (RouteAction.retry_policy). The zero value has none.
type Retries struct {
	// On are Envoy's conditions, parted by commas ("5xx,reset"). Empty turns
	// them off.
	On string
	// Attempts is how often a request is sent again at most. 0 means once.
	Attempts uint32
	// PerTryTimeout bounds the wait for the head of an answer to one try. The
	// hook's time counts in it, so it must be above HookTimeout. 0 means that
	// only the route's timeout counts.
	PerTryTimeout time.Duration
	// Hedge sends a further try when one has timed out, and takes the answer
	// that comes first (hedge_on_per_try_timeout).
	Hedge bool
}

// Service is where Envoy reaches rebearer's gRPC listener.
type Service struct {
	// Cluster is the name of a cluster of Envoy's that leads to rebearer
	// already. Empty means one that is rendered from the other fields.
	Cluster string
	// Endpoints are "host:port" or "unix:///path", at least one. Several are
	// replicas: Envoy spreads the load and leaves out those that are down. A
	// name may resolve to several addresses.
	Endpoints []string
	// TLS, unless nil, encrypts the connection.
	TLS *TLS
}

// TLS is how Envoy and rebearer prove who they are. Files are read by Envoy.
type TLS struct {
	// CAFile holds the certificates that rebearer's must be signed by.
	CAFile string
	// CertFile and KeyFile are Envoy's own. Both or neither.
	CertFile, KeyFile string
	// ServerName is sent as SNI and must be among the DNS names (or, if it is
	// an IP address, the IP addresses) of rebearer's certificate. It is not
	// empty.
	ServerName string
}

// Route leads from a policy to its backend.
type Route struct {
	// Policy is the policy's name. "default" is served on "/", any other on
	// "/NAME/" with that prefix stripped.
	Policy string
	// Backend is "host:port" (HTTP/1.1), "h2c://host:port" (HTTP/2 without
	// TLS, for gRPC) or "https://host:port" (HTTP/1.1 or HTTP/2, as the
	// backend prefers). [Static] leaves a cluster's name to fill in where it
	// is empty; [Bootstrap] needs it.
	Backend string
	// CAFile holds the certificates that an https backend's must be signed by.
	// Empty means /etc/ssl/certs/ca-certificates.crt.
	CAFile string
	// Push, unless nil, has Envoy alone check the caller and send the token
	// that it was told before. It needs Envoy 1.37: older ones crash.
	Push *Push
}

// DefaultPolicy is the policy that is served on "/".
const DefaultPolicy = "default"

const (
	defaultServiceTimeout = 6 * time.Second
	defaultRouteTimeout   = 15 * time.Second
	defaultIdleTimeout    = 5 * time.Minute
	defaultBodyBuffer     = 1 << 20
	defaultMaxRetries     = 10_000
	defaultCAFile         = "/etc/ssl/certs/ca-certificates.crt"
)

// withDefaults returns a copy of c in which every zero value that stands for
// another one is that one, and "no bound" is 0 as in Envoy.
func (c Config) withDefaults() Config {
	set(&c.Shape, Nested)
	set(&c.MaxRetries, defaultMaxRetries)
	set(&c.CheckTimeout, defaultServiceTimeout)
	set(&c.HookTimeout, defaultServiceTimeout)
	set(&c.RouteTimeout, max(defaultRouteTimeout, c.HookTimeout+time.Second))
	set(&c.IdleTimeout, defaultIdleTimeout)
	set(&c.BodyBuffer, defaultBodyBuffer)
	set(&c.Underscores, "drop")
	set(&c.EscapedSlashes, "reject")
	c.RouteTimeout = max(c.RouteTimeout, 0)
	c.IdleTimeout = max(c.IdleTimeout, 0)
	if c.RejectionStatuses == nil {
		c.RejectionStatuses = []int{401, 403}
	}
	if c.CredentialHeaders == nil {
		c.CredentialHeaders = []string{"authorization"}
	}
	return c
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

var (
	// policyName keeps a policy's name a plain path segment, so that its route
	// means the same to every reader.
	policyName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	// headerName is a field name of RFC 9110 section 5.1 in lower case, less
	// the characters that would need escaping in an attribute's name.
	headerName = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]*$`)
)

// validate expects a Config with defaults, and returns everything that is wrong
// with it, joined.
func (c Config) validate() error {
	return errors.Join(
		c.validateVersion(),
		c.validateAddresses(),
		c.Service.validate(),
		c.validateRoutes(),
		c.validateCallers(),
		c.validateTimes(),
		c.validateChoices(),
	)
}

func (c Config) validateAddresses() error {
	var errs []error
	if _, err := parseSocket(c.Listen); err != nil {
		errs = append(errs, fmt.Errorf("listen: %w", err))
	}
	if c.Admin == "" {
		return errors.Join(errs...)
	}
	admin, err := parseSocket(c.Admin)
	switch {
	case err != nil:
		errs = append(errs, fmt.Errorf("admin: %w", err))
	case !admin.Addr().IsLoopback():
		errs = append(errs, fmt.Errorf("admin: %s is not a loopback address", c.Admin))
	}
	return errors.Join(errs...)
}

func (s Service) validate() error {
	if s.Cluster != "" {
		return nil
	}
	var errs []error
	if len(s.Endpoints) == 0 {
		errs = append(errs, errors.New("service: needs at least one endpoint"))
	}
	var paths, names int
	for _, text := range s.Endpoints {
		e, err := parseEndpoint(text)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("service: %w", err))
		case e.path != "":
			paths++
		case !e.isIP():
			names++
		}
	}
	if paths > 0 && names > 0 {
		errs = append(errs, errors.New("service: unix sockets and host names cannot be mixed"))
	}
	if s.TLS != nil {
		errs = append(errs, s.TLS.validate())
	}
	return errors.Join(errs...)
}

func (t TLS) validate() error {
	var errs []error
	if t.CAFile == "" {
		errs = append(errs, errors.New("service tls: needs a CA file"))
	}
	if t.ServerName == "" {
		errs = append(errs, errors.New("service tls: needs a server name"))
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		errs = append(errs, errors.New("service tls: needs both a certificate and its key, or neither"))
	}
	return errors.Join(errs...)
}

func (c Config) validateRoutes() error {
	var errs []error
	if len(c.Routes) == 0 {
		errs = append(errs, errors.New("routes: needs at least one"))
	}
	seen := map[string]bool{}
	for _, r := range c.Routes {
		if !policyName.MatchString(r.Policy) {
			errs = append(errs, fmt.Errorf("route: policy %q is not a plain name", r.Policy))
		}
		if seen[r.Policy] {
			errs = append(errs, fmt.Errorf("route: policy %q is given twice", r.Policy))
		}
		seen[r.Policy] = true
		if err := r.Push.validate(c.Callers); err != nil {
			errs = append(errs, fmt.Errorf("route %s: push: %w", r.Policy, err))
		}
		if r.Backend == "" {
			continue
		}
		if _, err := parseBackend(r); err != nil {
			errs = append(errs, fmt.Errorf("route %s: %w", r.Policy, err))
		}
	}
	return errors.Join(errs...)
}

func (c Config) validateTimes() error {
	var errs []error
	if c.CheckTimeout < time.Millisecond {
		errs = append(errs, fmt.Errorf("check timeout: %v is not a time to wait", c.CheckTimeout))
	}
	if c.HookTimeout < time.Millisecond {
		errs = append(errs, fmt.Errorf("hook timeout: %v is not a time to wait", c.HookTimeout))
	}
	if t := c.Retries.PerTryTimeout; t != 0 && t <= c.HookTimeout {
		errs = append(errs, fmt.Errorf("retries: a per-try timeout of %v is not above the hook timeout, %v, which counts in it",
			t, c.HookTimeout))
	}
	if c.RouteTimeout > 0 && c.RouteTimeout <= c.HookTimeout {
		errs = append(errs, fmt.Errorf("route timeout: %v is not above the hook timeout, %v, which counts in it",
			c.RouteTimeout, c.HookTimeout))
	}
	return errors.Join(errs...)
}

func (c Config) validateChoices() error {
	var errs []error
	if c.Shape != Nested && c.Shape != Lean {
		errs = append(errs, fmt.Errorf("shape: %q is none of %q", c.Shape, []Shape{Lean, Nested}))
	}
	for _, status := range c.RejectionStatuses {
		if status < 400 || status > 599 {
			errs = append(errs, fmt.Errorf("rejection status: %d is not an error status", status))
		}
	}
	for _, name := range c.CredentialHeaders {
		if !headerName.MatchString(name) {
			errs = append(errs, fmt.Errorf("credential header: %q is not a header name in lower case", name))
		}
	}
	for _, name := range c.CheckHeaders {
		if !headerName.MatchString(name) {
			errs = append(errs, fmt.Errorf("check header: %q is not a header name in lower case", name))
		}
	}
	if _, ok := underscoreActions()[c.Underscores]; !ok {
		errs = append(errs, choiceError("underscores", c.Underscores, underscoreActions()))
	}
	if _, ok := escapedSlashActions()[c.EscapedSlashes]; !ok {
		errs = append(errs, choiceError("escaped slashes", c.EscapedSlashes, escapedSlashActions()))
	}
	return errors.Join(errs...)
}

func choiceError[T any](field, got string, choices map[string]T) error {
	names := make([]string, 0, len(choices))
	for name := range choices {
		names = append(names, name)
	}
	slices.Sort(names)
	return fmt.Errorf("%s: %q is none of %q", field, got, names)
}
