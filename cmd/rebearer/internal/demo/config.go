package demo

import (
	"context"
	"errors"
	"io"
	"time"
)

// The clients of the demo and their secrets. They open nothing but the demo.
const (
	// CallerID is the client that callers get their tokens as, from the
	// callers' provider.
	CallerID = "demo-caller"
	// CallerSecret is its secret.
	CallerSecret = "demo-caller-secret" //nolint:gosec // it opens nothing but the demo
	// GatewayID is the client that rebearer gets backend tokens as, from the
	// backend's provider.
	GatewayID = "demo-gateway"
	// GatewaySecret is its secret.
	GatewaySecret = "demo-gateway-secret"
	// Audience is the audience of the callers' tokens.
	Audience = "rebearer-demo"
)

const (
	defaultListen       = "127.0.0.1:10000"
	defaultAddress      = "127.0.0.1:0"
	defaultRate         = 50
	defaultRestartEvery = 4 * time.Second
	defaultCache        = ".build"
)

// Config says how to play the demo. The zero value of every field but Out is
// safe.
type Config struct {
	// Duration is how long the load lasts; zero means until ctx ends.
	Duration time.Duration
	// RestartEvery is how often the backend's provider restarts, the first
	// time after half of it; zero means 4 s.
	RestartEvery time.Duration
	// Rate is the load in requests a second; zero means 50.
	Rate float64
	// Listen is Envoy's address; empty means 127.0.0.1:10000. If it is taken,
	// a free port is used and said.
	Listen string
	// CallersListen, BackendListen and APIListen are the addresses of the two
	// providers and of the API; empty means a free port of loopback.
	CallersListen, BackendListen, APIListen string
	// Cache is the folder that an Envoy is installed into if the machine has
	// none; empty means .build.
	Cache string
	// Out is where the demo is shown. It must not be nil.
	Out io.Writer
	// Plain prints a status line each second rather than updating one in
	// place, which is what happens anyway if Out is not a terminal.
	Plain bool
}

// validate checks the configuration and fills in its defaults.
func (c *Config) validate() error {
	switch {
	case c.Out == nil:
		return errors.New("demo: nowhere to show it")
	case c.Duration < 0:
		return errors.New("demo: the duration is negative")
	case c.RestartEvery < 0:
		return errors.New("demo: the time between restarts is negative")
	case c.Rate < 0:
		return errors.New("demo: the rate is negative")
	}
	orDefault(&c.RestartEvery, defaultRestartEvery)
	orDefault(&c.Rate, defaultRate)
	orDefault(&c.Listen, defaultListen)
	orDefault(&c.CallersListen, defaultAddress)
	orDefault(&c.BackendListen, defaultAddress)
	orDefault(&c.APIListen, defaultAddress)
	orDefault(&c.Cache, defaultCache)
	return nil
}

// orDefault replaces a zero value.
func orDefault[T comparable](value *T, standard T) {
	var zero T
	if *value == zero {
		*value = standard
	}
}

// Parts are what the demo takes from rebearer. Both functions are needed.
type Parts struct {
	// Serve runs rebearer with a configuration file until ctx ends, and tells
	// events of each life-cycle event; events may be called concurrently and
	// does not block. rebearer is up when its status listener answers
	// /readyz with 200. Its log should go elsewhere than the demo's output.
	Serve func(ctx context.Context, configPath string, events func(Event)) error
	// Render returns a whole Envoy bootstrap.
	Render func(ctx context.Context, rendering Rendering) ([]byte, error)
}

// Rendering is what Envoy's bootstrap depends on.
type Rendering struct {
	// ConfigPath is rebearer's configuration file.
	ConfigPath string
	// Listen is the host:port that callers talk to.
	Listen string
	// Admin is the host:port of Envoy's admin listener; its port may be 0.
	Admin string
	// Backend is the host:port of the API, for the policy "default".
	Backend string
}

// Event is a moment of a backend token's life, for showing. It holds no token.
type Event struct {
	// Time is when it happened.
	Time time.Time
	// Kind is its name: issued, renewed, rejected, evicted, retried, recovered,
	// failed and so on.
	Kind string
	// Credential is the name of the credential.
	Credential string
	// Generation and Fingerprint are those of the token; zero if there is none.
	Generation  uint64
	Fingerprint string
	// Reason says why; it may be empty.
	Reason string
	// Latency is how long it took; zero if that means nothing.
	Latency time.Duration
}

// The kinds of events that are counted. KindRestart is the demo's own.
const (
	KindRestart  = "restart"
	KindRejected = "rejected"
	KindEvicted  = "evicted"
)
