package bench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"text/template"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/endpoint"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/load"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/provider"
	"github.com/rebearer/rebearer/envoy/envoytest"
)

const (
	connections = 16
	rounds      = 8
	round       = 2 * time.Second
)

// path is one way of a request, with the CPU time that it cost so far.
type path struct {
	name    string
	url     string
	envoy   int // process ids
	service int // 0 if there is none
	header  http.Header

	requests            int
	envoyCPU, serverCPU time.Duration
}

// BenchmarkCPU prints the table of the README. It runs once, whatever b.N is.
func BenchmarkCPU(b *testing.B) {
	newest := envoytest.Binaries()[0]
	newest.Require(b)
	token, rebearer := startRebearer(b)
	backend := serve(b, func(string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	}).Address()
	allowAll := startAllowAll(b)

	bearer := http.Header{"Authorization": {"Bearer " + token}}
	paths := []*path{
		newPath(b, "no authorization", plain(b, backend, ""), "front", 0),
		newPath(b, "allow-all ext_authz server", plain(b, backend, allowAll.address), "front", allowAll.pid),
		newPath(b, "rebearer, nested shape", rebearer.bootstrap(b, backend), "rebearer_outer", rebearer.pid),
	}
	strict := *paths[2]
	strict.name, strict.url = "the same, scopes and claims required", strict.url+"strict/"
	paths = append(paths, &strict)
	for _, p := range paths {
		p.header = bearer
		p.run(b, round/2) // warm up, not counted
		p.requests, p.envoyCPU, p.serverCPU = 0, 0, 0
	}
	streams := rebearer.hookStreams(b)
	for range rounds {
		for _, p := range paths {
			p.run(b, round)
		}
	}
	fmt.Fprintln(os.Stdout, table(paths))
	told := rebearer.hookStreams(b) - streams
	fmt.Fprintf(os.Stdout, "Messages to the hook for %d accepted first tries: %d\n", paths[2].requests+strict.requests, told)
	if told > 0 {
		b.Errorf("the hook was told of %d accepted first tries", told)
	}
	base := paths[1]
	b.ReportMetric(ratio(paths[2].perRequest(paths[2].serverCPU), base.perRequest(base.serverCPU)), "service/allow-all")
	b.ReportMetric(ratio(paths[2].total(), base.total()), "total/allow-all")
	b.ReportMetric(0, "ns/op")
}

// run sends requests for a while and adds up what they cost.
func (p *path) run(b *testing.B, d time.Duration) {
	b.Helper()
	g, err := load.New(load.Config{URL: p.url, Header: p.header, Connections: connections})
	if err != nil {
		b.Fatal(err)
	}
	envoy, service := cpu(b, p.envoy), cpu(b, p.service)
	ctx, stop := context.WithTimeout(b.Context(), d)
	defer stop()
	got := g.Run(ctx)
	if got.Failed() > 0 {
		b.Fatalf("%s: %d of %d requests failed: %q", p.name, got.Failed(), got.Requests, got.Failures)
	}
	p.requests += got.Requests
	p.envoyCPU += cpu(b, p.envoy) - envoy
	p.serverCPU += cpu(b, p.service) - service
}

func (p *path) perRequest(d time.Duration) float64 {
	return float64(d.Microseconds()) / float64(max(p.requests, 1))
}

func (p *path) total() float64 { return p.perRequest(p.envoyCPU + p.serverCPU) }

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// table is the README's: microseconds of CPU time for each request, and the
// ratios to the allow-all server, which is the second path.
func table(paths []*path) string {
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 1, ' ', 0)
	fmt.Fprintln(w, "| path\t| Envoy\t| service\t| together\t| service, ratio\t| together, ratio\t|")
	fmt.Fprintln(w, "|---\t|---:\t|---:\t|---:\t|---:\t|---:\t|")
	base := paths[1]
	for _, p := range paths {
		fmt.Fprintf(w, "| %s\t| %.0f\t| %.0f\t| %.0f\t| %.2f\t| %.2f\t|\n", p.name,
			p.perRequest(p.envoyCPU), p.perRequest(p.serverCPU), p.total(),
			ratio(p.perRequest(p.serverCPU), base.perRequest(base.serverCPU)), ratio(p.total(), base.total()))
	}
	_ = w.Flush()
	return out.String()
}

// newPath starts an Envoy with one worker.
func newPath(b *testing.B, name string, bootstrap []byte, listener string, service int) *path {
	b.Helper()
	e := envoytest.Start(b, envoytest.Binaries()[0], bootstrap, "--concurrency", "1")
	return &path{name: name, url: "http://" + e.Address(b, listener) + "/", envoy: e.PID(), service: service}
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

// cpu is the CPU time that a process has used (proc(5): utime and stime of
// /proc/PID/stat, in hundredths of a second on every Linux).
func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	if pid == 0 {
		return 0
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(after)
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	const tick = 10 * time.Millisecond
	return time.Duration(ticks * int64(tick))
}

func serve(b *testing.B, handler func(url string) http.Handler) *endpoint.Server {
	b.Helper()
	e, err := endpoint.Listen(b.Context(), "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close() })
	if err := e.Serve(handler(e.URL())); err != nil {
		b.Fatal(err)
	}
	return e
}

// process is a server in a process of its own.
type process struct {
	pid     int
	address string // of its gRPC listener
	binary  string
	config  string
	status  string
}

// start runs a command until the benchmark ends, and returns its standard
// error, line by line.
func start(b *testing.B, cmd *exec.Cmd) *bufio.Scanner {
	b.Helper()
	output, err := cmd.StderrPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return bufio.NewScanner(output)
}

// startRebearer builds and runs the real program, and returns a caller's token.
func startRebearer(b *testing.B) (string, *process) {
	b.Helper()
	dir := b.TempDir()
	p := &process{binary: filepath.Join(dir, "rebearer"), config: filepath.Join(dir, "rebearer.yaml")}
	if out, err := exec.Command("go", "build", "-o", p.binary, "../..").CombinedOutput(); err != nil {
		b.Fatalf("building rebearer: %v\n%s", err, out)
	}
	client := provider.Client{ID: "bench", Secret: "bench-secret"}
	var idp *provider.Provider
	serve(b, func(url string) http.Handler {
		var err error
		idp, err = provider.New(provider.Config{
			Issuer: url, Clients: []provider.Client{client}, Tokens: provider.JWT, Audiences: []string{"bench"},
		})
		if err != nil {
			b.Fatal(err)
		}
		return idp
	})
	p.address, p.status = freeAddress(b), freeAddress(b)
	write(b, filepath.Join(dir, "secret"), client.Secret)
	write(b, p.config, fmt.Sprintf(`
version: 1
server: {grpc: {address: %q}, status: {address: %q}, admin: {address: "127.0.0.1:0"}}
providers: {idp: {issuer: %q}}
callers: {bench: {provider: idp, audiences: [bench]}}
credentials: {bench: {clients: [{provider: idp, id: bench, secret_file: secret}]}}
policies:
  default: {callers: [bench], credential: bench}
  strict: {callers: [bench], credential: bench, scopes: [orders.read], claims: {client_id: [bench]}, clients: [bench]}
`, p.address, p.status, idp.Issuer()))
	cmd := exec.Command(p.binary, "serve", "--config", p.config, "--log-level", "warn")
	log := start(b, cmd)
	go func() {
		for log.Scan() {
			fmt.Fprintln(os.Stderr, log.Text())
		}
	}()
	p.pid = cmd.Process.Pid
	awaitReady(b, "http://"+p.status+"/readyz")
	c := clientcredentials.Config{
		ClientID: client.ID, ClientSecret: client.Secret, TokenURL: idp.TokenURL(), AuthStyle: oauth2.AuthStyleInHeader,
		Scopes: []string{"orders.read"},
	}
	token, err := c.Token(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	return token.AccessToken, p
}

// bootstrap is what `rebearer envoy --bootstrap` prints.
func (p *process) bootstrap(b *testing.B, backend string) []byte {
	b.Helper()
	out, err := exec.Command(p.binary, "envoy", "--config", p.config, "--bootstrap",
		"--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--backend", "default="+backend, "--backend", "strict="+backend).Output()
	if err != nil {
		b.Fatal(err)
	}
	return out
}

// hookStreams is how many calls the hook has had.
func (p *process) hookStreams(b *testing.B) int {
	b.Helper()
	response, err := http.Get("http://" + p.status + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "grpc_server_started_total{") && strings.Contains(line, `grpc_method="Process"`) {
			n, err := strconv.Atoi(line[strings.LastIndexByte(line, ' ')+1:])
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatal("no metric of the hook's calls")
	return 0
}

// awaitReady polls until the URL answers 200.
func awaitReady(b *testing.B, url string) {
	b.Helper()
	for range 500 {
		response, err := http.Get(url)
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return
			}
		}
		<-time.After(20 * time.Millisecond)
	}
	b.Fatalf("%s is not ready", url)
}

func freeAddress(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func write(b *testing.B, path, content string) {
	b.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		b.Fatal(err)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	got := table([]*path{
		{name: "none", requests: 1000, envoyCPU: 40 * time.Millisecond},
		{name: "allow-all", requests: 1000, envoyCPU: 100 * time.Millisecond, serverCPU: 50 * time.Millisecond},
		{name: "rebearer", requests: 1000, envoyCPU: 200 * time.Millisecond, serverCPU: 60 * time.Millisecond},
	})
	want := []string{"40 ", "0 ", "40 ", "0.00", "0.27"}
	for _, w := range want {
		if !slices.Contains(strings.Fields(strings.Split(got, "\n")[2]), strings.TrimSpace(w)) {
			t.Errorf("no %q in\n%s", w, got)
		}
	}
	if !strings.Contains(got, "1.20") || !strings.Contains(got, "1.73") {
		t.Errorf("the ratios are wrong:\n%s", got)
	}
}
