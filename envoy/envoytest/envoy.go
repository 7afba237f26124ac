package envoytest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	startDeadline = 30 * time.Second
	stopDeadline  = 10 * time.Second
)

// Envoy is a running Envoy. It is stopped when the test ends, which fails if
// Envoy died before, and then shows its log, as every failed test does.
type Envoy struct {
	// Admin is the base URL of the admin interface.
	Admin string

	process *os.Process
	exited  chan struct{} // closed when the process has ended
	ready   chan struct{} // closed when the listeners accept

	mu  sync.Mutex
	log strings.Builder
}

// Start runs a bootstrap in YAML, which must have an admin interface, and blocks
// until Envoy's listeners accept connections. Two workers share the load, unless
// further command line flags say otherwise. Listeners may use port 0: see
// [Envoy.Address].
func Start(tb testing.TB, b Binary, bootstrap []byte, flags ...string) *Envoy {
	tb.Helper()
	b.Require(tb)
	adminFile := filepath.Join(tb.TempDir(), "admin")
	cmd := exec.Command(b.Path) //nolint:gosec,noctx // the developer says which Envoy to run; it outlives the test's context
	cmd.Args = append(cmd.Args, "-c", write(tb, bootstrap), "--use-dynamic-base-id",
		"--admin-address-path", adminFile, "--log-level", "info")
	if !slices.Contains(flags, "--concurrency") {
		flags = append(flags, "--concurrency", "2")
	}
	cmd.Args = append(cmd.Args, flags...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	e := &Envoy{process: cmd.Process, exited: make(chan struct{}), ready: make(chan struct{})}
	go e.watch(cmd, stderr)
	tb.Cleanup(func() { e.stop(tb) })

	select {
	case <-e.ready:
	case <-e.exited:
		tb.Fatalf("Envoy did not start:\n%s", e.Log())
	case <-time.After(startDeadline):
		tb.Fatalf("Envoy was not ready after %v:\n%s", startDeadline, e.Log())
	}
	address, err := os.ReadFile(adminFile)
	if err != nil {
		tb.Fatal(err)
	}
	e.Admin = "http://" + string(address)
	return e
}

// watch collects the log until Envoy ends.
func (e *Envoy) watch(cmd *exec.Cmd, stderr io.Reader) {
	started := sync.OnceFunc(func() { close(e.ready) })
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		line := lines.Text()
		if strings.Contains(line, "starting workers") {
			started()
		}
		if strings.Contains(line, "][info][") {
			continue // hundreds of lines, most of them lists of extensions
		}
		e.mu.Lock()
		e.log.WriteString(line + "\n")
		e.mu.Unlock()
	}
	_ = cmd.Wait() // how it ended is in the log
	close(e.exited)
}

// Log returns what Envoy has logged so far, from warnings on.
func (e *Envoy) Log() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.log.String()
}

// PID returns the process id.
func (e *Envoy) PID() int { return e.process.Pid }

// Alive reports whether the process still runs.
func (e *Envoy) Alive() bool {
	select {
	case <-e.exited:
		return false
	default:
		return true
	}
}

// Address returns where the named listener listens, as host:port.
func (e *Envoy) Address(tb testing.TB, listener string) string {
	tb.Helper()
	var list struct {
		Statuses []struct {
			Name    string `json:"name"`
			Address struct {
				Socket struct {
					Address string `json:"address"`
					Port    int    `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := e.get(tb, "/listeners?format=json", func(r io.Reader) error { return json.NewDecoder(r).Decode(&list) }); err != nil {
		tb.Fatal(err)
	}
	for _, s := range list.Statuses {
		if s.Name == listener {
			return fmt.Sprintf("%s:%d", s.Address.Socket.Address, s.Address.Socket.Port)
		}
	}
	tb.Fatalf("Envoy has no listener %s", listener)
	return ""
}

// Stat returns the value of a counter or gauge, 0 where there is none.
func (e *Envoy) Stat(tb testing.TB, name string) int {
	tb.Helper()
	var stats struct {
		Stats []struct {
			Name  string `json:"name"`
			Value int    `json:"value"`
		} `json:"stats"`
	}
	path := "/stats?format=json&type=All&histogram_buckets=none&filter=^" + name + "$"
	if err := e.get(tb, path, func(r io.Reader) error { return json.NewDecoder(r).Decode(&stats) }); err != nil {
		tb.Fatal(err)
	}
	for _, s := range stats.Stats {
		if s.Name == name {
			return s.Value
		}
	}
	return 0
}

func (e *Envoy) get(tb testing.TB, path string, read func(io.Reader) error) error {
	r, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, e.Admin+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("admin %s: %s", path, resp.Status)
	}
	return read(resp.Body)
}

// Pause makes the process stand still until [Envoy.Resume], as on a machine that
// has no time for it.
func (e *Envoy) Pause(tb testing.TB) {
	tb.Helper()
	e.signal(tb, syscall.SIGSTOP)
}

// Resume lets a process go on that stands still.
func (e *Envoy) Resume(tb testing.TB) {
	tb.Helper()
	e.signal(tb, syscall.SIGCONT)
}

func (e *Envoy) signal(tb testing.TB, s syscall.Signal) {
	tb.Helper()
	if err := e.process.Signal(s); err != nil {
		tb.Fatalf("signal %v to Envoy: %v", s, err)
	}
}

func (e *Envoy) stop(tb testing.TB) {
	tb.Helper()
	if !e.Alive() {
		tb.Errorf("Envoy died")
	}
	if err := e.process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		tb.Errorf("stop Envoy: %v", err)
	}
	select {
	case <-e.exited:
	case <-time.After(stopDeadline):
		_ = e.process.Kill()
		<-e.exited
		tb.Errorf("Envoy did not stop within %v", stopDeadline)
	}
	if tb.Failed() {
		tb.Logf("Envoy's log:\n%s", e.Log())
	}
}
