package bench

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"text/template"
	"time"

	"github.com/rebearer/rebearer/envoy/envoytest"
)

const (
	connections = 16
	rounds      = 5
	round       = 4 * time.Second
	warmUp      = time.Second
)

// path is one way of a request, with what it has cost in each round.
type path struct {
	name    string
	url     string // host:port/path of a listener
	envoy   int    // process ids
	service int    // 0 if there is none
	rounds  []cost
}

// cost is what the requests of one round have cost.
type cost struct {
	requests       int
	envoy, service time.Duration // CPU time
	elapsed        time.Duration
}

// limit is what a path may cost beside another one, the same in every round:
// the median counts.
type limit struct {
	what       string
	path, base *path
	ratio      func(path, base cost) float64
	most       float64 // 0 for none
	least      float64
}

// BenchmarkCPU prints the table of the README, and fails where a limit is not
// kept. It runs once, whatever b.N is.
func BenchmarkCPU(b *testing.B) {
	envoytest.Binaries()[0].Require(b)
	r := newRig(b)
	allowAll := startAllowAll(b)
	checks := r.startRebearer(b, `
  default: {callers: [bench], credential: bench}
  strict: {callers: [bench], credential: bench, scopes: [orders.read], claims: {client_id: [bench]}, clients: [bench]}
`)
	pushes := r.startRebearer(b, `
  default: {callers: [bench], credential: bench, delivery: push}
`)
	none := newPath(b, "no authorization", plain(b, r.backend, ""), "front", 0)
	floor := newPath(b, "allow-all ext_authz server", plain(b, r.backend, allowAll.address), "front", allowAll.pid)
	nested := newPath(b, "rebearer, nested shape", checks.bootstrap(b, "nested", r.backend, "default", "strict"), "rebearer_outer", checks.pid)
	strict := &path{name: "the same, scopes and claims required", url: nested.url + "strict/", envoy: nested.envoy, service: nested.service}
	lean := newPath(b, "rebearer, lean shape", checks.bootstrap(b, "lean", r.backend, "default", "strict"), "rebearer_outer", checks.pid)
	push := newPath(b, "rebearer, push mode with jwt_authn", pushes.bootstrap(b, "nested", r.backend, "default"), "rebearer_outer", pushes.pid)
	paths := []*path{none, floor, nested, strict, lean, push}

	for _, p := range paths {
		awaitReady(b, "http://"+p.url, r.token)
		p.run(b, r.token, warmUp)
		p.rounds = nil
	}
	told := -checks.hookStreams(b) - pushes.hookStreams(b)
	for range rounds {
		for _, p := range paths {
			p.run(b, r.token, round)
		}
	}
	told += checks.hookStreams(b) + pushes.hookStreams(b)
	fmt.Fprintln(os.Stdout, table(paths))
	firsts := total(nested) + total(strict) + total(lean) + total(push)
	fmt.Fprintf(os.Stdout, "Messages to the hook for %d accepted first tries: %d\n", firsts, told)
	if told > 0 {
		b.Errorf("the hook was told of %d accepted first tries", told)
	}
	for _, l := range []limit{
		{what: "lean shape, CPU time of Envoy and service", path: lean, base: floor, ratio: together, most: 1.25},
		{what: "push mode, CPU time of Envoy and service", path: push, base: none, ratio: together, most: 1.6},
		{what: "push mode, throughput", path: push, base: floor, ratio: throughput, least: 1.8},
	} {
		l.check(b)
	}
	b.ReportMetric(median(nested, floor, service), "service/allow-all")
	b.ReportMetric(median(nested, floor, together), "total/allow-all")
	b.ReportMetric(0, "ns/op")
}

// check prints the limit and what was measured, and fails if it is missed.
func (l limit) check(b *testing.B) {
	b.Helper()
	got := median(l.path, l.base, l.ratio)
	bound := fmt.Sprintf("at most %.2f", l.most)
	if l.most == 0 {
		bound = fmt.Sprintf("at least %.2f", l.least)
	}
	verdict := "kept"
	if l.most > 0 && got > l.most || got < l.least {
		verdict = "MISSED"
		b.Fail()
	}
	fmt.Fprintf(os.Stdout, "%s: %s: %.2f times %s, %s\n", verdict, l.what, got, l.base.name, bound)
}

// run sends requests for a while and adds what they cost.
func (p *path) run(b *testing.B, token string, d time.Duration) {
	b.Helper()
	address, route, _ := strings.Cut(p.url, "/")
	request := "GET /" + route + " HTTP/1.1\r\nHost: " + address + "\r\nAuthorization: Bearer " + token + endOfHead
	envoy, service, began := cpu(b, p.envoy), cpu(b, p.service), time.Now()
	ctx, stop := context.WithTimeout(b.Context(), d)
	defer stop()
	answered, err := sendAll(ctx, address, []byte(request), connections)
	if err != nil {
		b.Fatalf("%s: %v", p.name, err)
	}
	p.rounds = append(p.rounds, cost{
		requests: answered, elapsed: time.Since(began),
		envoy: cpu(b, p.envoy) - envoy, service: cpu(b, p.service) - service,
	})
}

func total(p *path) int {
	sum := 0
	for _, c := range p.rounds {
		sum += c.requests
	}
	return sum
}

// micros is CPU time for each request, in microseconds.
func (c cost) micros(d time.Duration) float64 {
	return float64(d.Microseconds()) / float64(max(c.requests, 1))
}

func (c cost) perSecond() float64 { return float64(c.requests) / c.elapsed.Seconds() }

// What of a round is compared with that of another path's, which came just
// before or after it.
func together(p, base cost) float64 {
	return ratio(p.micros(p.envoy+p.service), base.micros(base.envoy+base.service))
}

func service(p, base cost) float64    { return ratio(p.micros(p.service), base.micros(base.service)) }
func throughput(p, base cost) float64 { return ratio(p.perSecond(), base.perSecond()) }

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// median is that of all rounds.
func median(p, base *path, value func(p, base cost) float64) float64 {
	var all []float64
	for i, c := range p.rounds {
		all = append(all, value(c, base.rounds[i]))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// table is the README's: microseconds of CPU time for each request, requests a
// second, and the ratios to the first path, which has no authorization, and to the
// second, the allow-all server.
func table(paths []*path) string {
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 1, ' ', 0)
	fmt.Fprintln(w, "| path\t| Envoy\t| service\t| together\t| to no authorization\t| to allow-all\t| service to allow-all\t| requests/s\t| to allow-all\t|")
	fmt.Fprintln(w, "|---\t|---:\t|---:\t|---:\t|---:\t|---:\t|---:\t|---:\t|---:\t|")
	none, floor := paths[0], paths[1]
	for _, p := range paths {
		of := func(value func(cost) float64) float64 {
			return median(p, p, func(c, _ cost) float64 { return value(c) })
		}
		fmt.Fprintf(w, "| %s\t| %.0f\t| %.0f\t| %.0f\t| %.2f\t| %.2f\t| %.2f\t| %.0f\t| %.2f\t|\n", p.name,
			of(func(c cost) float64 { return c.micros(c.envoy) }),
			of(func(c cost) float64 { return c.micros(c.service) }),
			of(func(c cost) float64 { return c.micros(c.envoy + c.service) }),
			median(p, none, together), median(p, floor, together), median(p, floor, service),
			of(cost.perSecond), median(p, floor, throughput))
	}
	_ = w.Flush()
	return out.String()
}

// newPath starts an Envoy with one worker.
func newPath(b *testing.B, name string, bootstrap []byte, listener string, service int) *path {
	b.Helper()
	e := envoytest.Start(b, envoytest.Binaries()[0], bootstrap, "--concurrency", "1")
	return &path{name: name, url: e.Address(b, listener) + "/", envoy: e.PID(), service: service}
}

// plain is an Envoy without rebearer, with ext_authz if there is a service.
func plain(b *testing.B, backend, service string) []byte {
	b.Helper()
	var out bytes.Buffer
	err := template.Must(template.ParseFiles("testdata/plain.yaml")).Execute(&out, map[string]string{
		"Backend": port(b, backend), "Service": port(b, service),
	})
	if err != nil {
		b.Fatal(err)
	}
	return out.Bytes()
}

func port(b *testing.B, address string) string {
	b.Helper()
	if address == "" {
		return ""
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		b.Fatal(err)
	}
	return port
}

func TestTable(t *testing.T) {
	t.Parallel()
	rounds := func(requests int, envoy, service time.Duration) []cost {
		c := cost{requests: requests, envoy: envoy, service: service, elapsed: time.Second}
		outlier := cost{requests: 1, envoy: time.Second, elapsed: time.Second}
		return []cost{outlier, c, c}
	}
	got := table([]*path{
		{name: "none", rounds: rounds(4000, 160*time.Millisecond, 0)},
		{name: "allow-all", rounds: rounds(1000, 100*time.Millisecond, 50*time.Millisecond)},
		{name: "rebearer", rounds: rounds(500, 100*time.Millisecond, 30*time.Millisecond)},
	})
	lines := strings.Split(got, "\n")
	for i, want := range []string{
		"none 40 0 40 1.00 0.27 0.00 4000 4.00",
		"allow-all 100 50 150 3.75 1.00 1.00 1000 1.00",
		"rebearer 200 60 260 6.50 1.73 1.20 500 0.50",
	} {
		if line := strings.Join(strings.Fields(strings.ReplaceAll(lines[i+2], "|", " ")), " "); line != want {
			t.Errorf("got %q, want %q", line, want)
		}
	}
}
