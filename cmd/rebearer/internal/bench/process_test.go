package bench

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/endpoint"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/provider"
)

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

// rig is what every rebearer of the benchmark shares.
type rig struct {
	binary  string // the real program
	idp     *provider.Provider
	backend string // address
	token   string // a caller's
}

const clientID, clientSecret = "bench", "bench-secret"

// newRig builds the program, and starts a provider and a backend.
func newRig(b *testing.B) *rig {
	b.Helper()
	r := &rig{binary: filepath.Join(b.TempDir(), "rebearer"), backend: startBackend(b)}
	if out, err := exec.Command("go", "build", "-o", r.binary, "../..").CombinedOutput(); err != nil {
		b.Fatalf("building rebearer: %v\n%s", err, out)
	}
	serve(b, func(url string) http.Handler {
		var err error
		r.idp, err = provider.New(provider.Config{
			Issuer: url, Clients: []provider.Client{{ID: clientID, Secret: clientSecret}}, Tokens: provider.JWT, Audiences: []string{"bench"},
		})
		if err != nil {
			b.Fatal(err)
		}
		return r.idp
	})
	caller := clientcredentials.Config{
		ClientID: clientID, ClientSecret: clientSecret, TokenURL: r.idp.TokenURL(), AuthStyle: oauth2.AuthStyleInHeader,
		Scopes: []string{"orders.read"},
	}
	token, err := caller.Token(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	r.token = token.AccessToken
	return r
}

// startRebearer runs the program with these policies.
func (r *rig) startRebearer(b *testing.B, policies string) *process {
	b.Helper()
	dir := b.TempDir()
	p := &process{binary: r.binary, config: filepath.Join(dir, "rebearer.yaml"), address: freeAddress(b), status: freeAddress(b)}
	write(b, filepath.Join(dir, "secret"), clientSecret)
	write(b, p.config, fmt.Sprintf(`
version: 1
server: {grpc: {address: %q, insecure: true}, status: {address: %q}, admin: {address: "127.0.0.1:0"}}
providers: {idp: {issuer: %q, jwks_url: "%s/jwks"}}
callers: {bench: {provider: idp, audiences: [bench]}}
credentials: {bench: {clients: [{provider: idp, id: %s, secret_file: secret}]}}
policies:
%s`, p.address, p.status, r.idp.Issuer(), r.idp.Issuer(), clientID, policies))
	cmd := exec.Command(p.binary, "serve", "--config", p.config, "--log-level", "error")
	log := start(b, cmd)
	go func() {
		for log.Scan() {
			fmt.Fprintln(os.Stderr, log.Text())
		}
	}()
	p.pid = cmd.Process.Pid
	awaitReady(b, "http://"+p.status+"/readyz", "")
	return p
}

// bootstrap is what `rebearer envoy --bootstrap` prints for these policies.
func (p *process) bootstrap(b *testing.B, shape, backend string, policies ...string) []byte {
	b.Helper()
	args := []string{"envoy", "--config", p.config, "--bootstrap", "--shape", shape, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"}
	for _, policy := range policies {
		args = append(args, "--backend", policy+"="+backend)
	}
	out, err := exec.Command(p.binary, args...).Output()
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

// awaitReady polls until the URL answers 200 to that token.
func awaitReady(b *testing.B, url, token string) {
	b.Helper()
	request, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		b.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	for range 500 {
		response, err := http.DefaultClient.Do(request)
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
