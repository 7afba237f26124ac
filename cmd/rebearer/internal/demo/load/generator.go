package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/api"
)

const (
	defaultTimeout = 30 * time.Second
	// defaultConnections is enough for a small rate: a request that is held
	// for a moment does not hold back the others.
	defaultConnections = 8
	// keptFailures is how many failures are described; all are counted.
	keptFailures = 10
)

// Config describes a load.
type Config struct {
	// URL is where requests go. It must not be empty.
	URL string
	// Method of the requests; empty means GET.
	Method string
	// Header is added to each request.
	Header http.Header
	// Body is sent with each request; empty sends none.
	Body []byte
	// Connections is how many requests are under way at most, each on its own
	// kept connection; zero means eight.
	Connections int
	// Shared sends them over one HTTP/2 connection, without TLS, like a load
	// balancer or a gRPC caller.
	Shared bool
	// Rate is in requests a second over all connections; zero means as fast
	// as the answers come. Requests that fell behind their time, because all
	// connections were waiting, are sent as soon as one is free.
	Rate float64
	// Token returns the caller's token, which is sent as a bearer; nil sends
	// no authorization. It is called for each request, concurrently.
	Token func(ctx context.Context) (string, error)
	// Timeout bounds each request, body included; zero means 30 s.
	Timeout time.Duration
}

// validate checks the configuration and fills in its defaults.
func (c *Config) validate() error {
	target, err := url.Parse(c.URL)
	if err != nil || target.Host == "" {
		return fmt.Errorf("load: %q is not a URL with a host", c.URL)
	}
	if c.Connections < 0 || c.Rate < 0 || c.Timeout < 0 {
		return errors.New("load: connections, rate and timeout must not be negative")
	}
	if c.Method == "" {
		c.Method = http.MethodGet
	}
	if c.Connections == 0 {
		c.Connections = defaultConnections
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	return nil
}

// Result is what a load has met so far.
type Result struct {
	// Requests is how many were answered or failed.
	Requests int
	// ByStatus counts the answers, the real 403s among them.
	ByStatus map[int]int
	// Real is how many answers were real 403s of the API.
	Real int
	// Errors is how many requests got no whole answer.
	Errors int
	// Failures describes the first failures, at most ten.
	Failures []string
	// Latencies are those of the requests that were answered, from sending
	// the request to the end of the answer.
	Latencies Latencies
	// Retried are the latencies of those among them that the API had refused
	// before: what a retry costs a caller.
	Retried Latencies
	// Elapsed is since the run began.
	Elapsed time.Duration
}

// Failed is how many requests a caller has reason to complain about: those that
// got no answer, or one that is neither 2xx nor a real 403.
func (r Result) Failed() int {
	failed := r.Requests - r.Real
	for status, count := range r.ByStatus {
		if isSuccess(status) {
			failed -= count
		}
	}
	return failed
}

func isSuccess(status int) bool { return status >= 200 && status <= 299 }

// Generator sends one load. [New] makes one.
type Generator struct {
	cfg    Config
	client *http.Client
	sent   atomic.Int64 // slots of the rate that are taken

	mu     sync.Mutex
	began  time.Time // zero before the run
	result Result    // without Elapsed
}

// New makes a generator that sends nothing until [Generator.Run].
func New(cfg Config) (*Generator, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	transport := &http.Transport{
		MaxIdleConnsPerHost: cfg.Connections,
		MaxConnsPerHost:     cfg.Connections,
		DisableCompression:  true,
	}
	if cfg.Shared {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &Generator{cfg: cfg, client: client, result: Result{ByStatus: make(map[int]int)}}, nil
}

// Run sends requests until ctx ends, waits for those under way, and returns
// the whole result. It is called once.
func (g *Generator) Run(ctx context.Context) Result {
	began := time.Now()
	g.mu.Lock()
	g.began = began
	g.mu.Unlock()
	var connections sync.WaitGroup
	for range g.cfg.Connections {
		connections.Go(func() {
			for g.turn(ctx, began) {
				g.send(context.WithoutCancel(ctx))
			}
		})
	}
	connections.Wait()
	g.client.CloseIdleConnections()
	return g.Snapshot()
}

// Snapshot returns a copy of the result so far. It may be called at any time.
func (g *Generator) Snapshot() Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	result := g.result
	result.ByStatus = maps.Clone(result.ByStatus)
	result.Failures = slices.Clone(result.Failures)
	if !g.began.IsZero() {
		result.Elapsed = time.Since(g.began)
	}
	return result
}

// turn waits until the next request is due and reports false when ctx has
// ended.
func (g *Generator) turn(ctx context.Context, began time.Time) bool {
	if g.cfg.Rate == 0 || ctx.Err() != nil {
		return ctx.Err() == nil
	}
	slot := g.sent.Add(1) - 1
	due := began.Add(time.Duration(float64(slot) / g.cfg.Rate * float64(time.Second)))
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// send sends one request and notes what came of it.
func (g *Generator) send(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Timeout)
	defer cancel()
	began := time.Now()
	got, err := g.roundTrip(ctx)
	latency := time.Since(began)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.result.Requests++
	if err != nil {
		g.result.Errors++
		g.noteFailure(err.Error())
		return
	}
	g.result.Latencies.Add(latency)
	if got.retried {
		g.result.Retried.Add(latency)
	}
	g.result.ByStatus[got.status]++
	switch {
	case got.real:
		g.result.Real++
	case !isSuccess(got.status):
		g.noteFailure(fmt.Sprintf("status %d %s", got.status, got.reason))
	}
}

// noteFailure keeps the description of an early failure. The caller holds mu.
func (g *Generator) noteFailure(what string) {
	if len(g.result.Failures) < keptFailures {
		at := time.Since(g.began).Round(time.Millisecond)
		g.result.Failures = append(g.result.Failures, fmt.Sprintf("after %v: %s", at, what))
	}
}

// answer is what matters of an answer.
type answer struct {
	status  int
	real    bool   // a real 403 of the API
	retried bool   // the API had refused the request before
	reason  string // why rebearer refused the request, where it did
}

// roundTrip sends one request and reads the whole answer.
func (g *Generator) roundTrip(ctx context.Context) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, g.cfg.Method, g.cfg.URL, bytes.NewReader(g.cfg.Body))
	if err != nil {
		return answer{}, err
	}
	maps.Copy(request.Header, g.cfg.Header)
	if g.cfg.Token != nil {
		token, err := g.cfg.Token(ctx)
		if err != nil {
			return answer{}, fmt.Errorf("getting the caller's token: %w", err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := g.client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = response.Body.Close() }()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return answer{}, fmt.Errorf("reading the answer: %w", err)
	}
	return answer{
		status:  response.StatusCode,
		real:    response.Header.Get(api.RealHeader) != "",
		retried: response.Header.Get(api.RetriedHeader) != "",
		reason:  response.Header.Get("X-Ext-Auth-Reason"),
	}, nil
}
