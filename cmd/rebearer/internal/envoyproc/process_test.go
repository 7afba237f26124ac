package envoyproc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const adminConfig = `admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}`

// listenerConfig is an Envoy without an admin listener.
const listenerConfig = `
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters:
      - name: echo
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}
`

// start runs the real Envoy until the test ends.
func start(t *testing.T, options Options) (*Process, error) {
	t.Helper()
	options.Binary, options.Concurrency = realEnvoy(t), 1
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	p, err := Start(ctx, options)
	if err == nil {
		t.Cleanup(func() { _ = p.Stop() })
	}
	return p, err
}

// alive reports whether a process of that id exists.
func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func TestStartAndStop(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "envoy.log")
	p, err := start(t, Options{ConfigYAML: []byte(adminConfig), LogPath: log, LogLevel: "info"})
	if err != nil {
		t.Fatal(err)
	}
	if status := get(t.Context(), "http://"+p.Admin()+"/ready"); status != http.StatusOK {
		t.Errorf("the admin listener answers %d, want 200", status)
	}
	if err := p.Err(); err != nil {
		t.Errorf("a running Envoy has ended: %v", err)
	}
	for range 2 { // the second time there is nothing to stop
		if err := p.Stop(); err != nil {
			t.Errorf("Stop: %v", err)
		}
	}
	if alive(p.PID()) {
		t.Error("the process is still alive")
	}
	if _, err := os.Stat(p.folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary files are still there (%v)", err)
	}
	if content, err := os.ReadFile(log); err != nil || len(content) == 0 {
		t.Errorf("got a log of %d bytes (%v)", len(content), err)
	}
}

func TestReadyWithoutAdmin(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address, ok := listener.Addr().(*net.TCPAddr)
	if err := listener.Close(); err != nil || !ok {
		t.Fatal(err)
	}
	p, err := start(t, Options{ConfigYAML: fmt.Appendf(nil, listenerConfig, address.Port), Address: address.String()})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Admin(); got != "" {
		t.Errorf("got admin address %q, want none", got)
	}
}

func TestUnexpectedEnd(t *testing.T) {
	t.Parallel()
	p, err := start(t, Options{ConfigYAML: []byte(adminConfig)})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if err := p.Err(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("got %v, want an error that says how it ended", err)
	}
	if err := p.Stop(); err != nil {
		t.Errorf("Stop after the end: %v", err)
	}
}

func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	_, err := start(t, Options{ConfigYAML: []byte("no_such_field: 1")})
	if err == nil || !strings.Contains(err.Error(), "no_such_field") {
		t.Errorf("got %v, want an error with the log's last lines", err)
	}
}

func TestNeverReady(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := Start(ctx, Options{Binary: realEnvoy(t), ConfigYAML: []byte("{}"), Concurrency: 1})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]Options{
		"no binary":        {ConfigYAML: []byte("{}")},
		"no configuration": {Binary: "envoy"},
		"concurrency":      {Binary: "envoy", ConfigYAML: []byte("{}"), Concurrency: -1},
		"missing binary":   {Binary: filepath.Join(t.TempDir(), "envoy"), ConfigYAML: []byte("{}")},
	} {
		if _, err := Start(t.Context(), options); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
