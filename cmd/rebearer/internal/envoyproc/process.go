package envoyproc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// pollEvery is how often a starting Envoy is asked whether it is ready.
	pollEvery = 20 * time.Millisecond
	// stopGrace is how long an Envoy may take to end before it is killed.
	stopGrace = 5 * time.Second
	// shownLog is how much of the end of the log is read for an error.
	shownLog = 8 << 10
)

// Options say how to run an Envoy.
type Options struct {
	// Binary is the path of the Envoy binary. It must not be empty.
	Binary string
	// ConfigYAML is the whole bootstrap, YAML or JSON. It must not be empty.
	ConfigYAML []byte
	// Concurrency is the number of worker threads; zero leaves it to Envoy,
	// which takes one for each processor.
	Concurrency int
	// LogPath is the file that the log is appended to; empty keeps it in a
	// temporary folder until Stop.
	LogPath string
	// LogLevel is Envoy's --log-level; empty means warning.
	LogLevel string
	// Address is a host:port of one of its listeners. An Envoy without an
	// admin listener is ready when it accepts connections there; one with an
	// admin listener says itself when it is ready, and Address may be empty.
	Address string
}

func (o Options) validate() error {
	switch {
	case o.Binary == "":
		return errors.New("running Envoy: no binary")
	case len(o.ConfigYAML) == 0:
		return errors.New("running Envoy: no configuration")
	case o.Concurrency < 0:
		return errors.New("running Envoy: concurrency is negative")
	}
	return nil
}

// Process is an Envoy that was started. It is safe for concurrent use.
type Process struct {
	folder  string // temporary: the configuration, the admin address, the log
	logPath string
	command *exec.Cmd
	done    chan struct{} // closed when the process has ended
	err     error         // of the end; read after done
}

// Start runs an Envoy and returns when it is ready to serve. The process lives
// until [Process.Stop], or until this process ends on Linux; ctx bounds the
// wait only. If Envoy ends or ctx does before it is ready, nothing is left
// running, and the error holds the last lines of Envoy's log.
func Start(ctx context.Context, options Options) (*Process, error) {
	if err := options.validate(); err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("", "rebearer-envoy-")
	if err != nil {
		return nil, fmt.Errorf("running Envoy: %w", err)
	}
	p := &Process{folder: folder, logPath: options.LogPath, done: make(chan struct{})}
	if p.logPath == "" {
		p.logPath = filepath.Join(folder, "envoy.log")
	}
	if err := p.launch(options); err != nil {
		_ = os.RemoveAll(folder)
		return nil, fmt.Errorf("running Envoy: %w", err)
	}
	if err := p.waitReady(ctx, options.Address); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return p, nil
}

// configPath and adminPath are files in the temporary folder.
func (p *Process) configPath() string { return filepath.Join(p.folder, "envoy.yaml") }
func (p *Process) adminPath() string  { return filepath.Join(p.folder, "admin") }

func (p *Process) launch(options Options) error {
	if err := os.WriteFile(p.configPath(), options.ConfigYAML, 0o600); err != nil {
		return err
	}
	log, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own
	level := options.LogLevel
	if level == "" {
		level = "warning"
	}
	args := []string{
		"--use-dynamic-base-id", "--config-path", p.configPath(),
		"--admin-address-path", p.adminPath(), "--log-level", level,
	}
	if options.Concurrency > 0 {
		args = append(args, "--concurrency", strconv.Itoa(options.Concurrency))
	}
	p.command = exec.Command(options.Binary, args...) //nolint:gosec,noctx // the caller's Envoy; Stop ends it
	p.command.Stdout, p.command.Stderr = log, log
	p.command.SysProcAttr = attributes()
	started := make(chan error)
	go p.supervise(started)
	return <-started
}

// supervise starts the process and waits for its end on one thread: Linux
// kills a child with a parent-death signal when the thread that started it
// ends, and a locked thread does not end before its goroutine.
func (p *Process) supervise(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.command.Start()
	started <- err
	if err != nil {
		return
	}
	p.err = p.command.Wait()
	close(p.done)
}

// waitReady returns nil once Envoy serves.
func (p *Process) waitReady(ctx context.Context, address string) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if p.ready(ctx, address) {
				return nil
			}
		case <-p.done:
			return p.Err()
		case <-ctx.Done():
			return fmt.Errorf("waiting for Envoy to be ready: %w%s", ctx.Err(), p.logEnd())
		}
	}
}

// ready asks the admin listener, or where there is none tries to connect to
// address.
func (p *Process) ready(ctx context.Context, address string) bool {
	if admin := p.Admin(); admin != "" {
		return get(ctx, "http://"+admin+"/ready") == http.StatusOK
	}
	if address == "" {
		return false
	}
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// get returns the status of an answer, or 0.
func get(ctx context.Context, url string) int {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0
	}
	_ = response.Body.Close()
	return response.StatusCode
}

// Admin returns the host:port of the admin listener, also where the
// configuration names port 0; empty if there is none.
func (p *Process) Admin() string {
	address, err := os.ReadFile(p.adminPath())
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(address))
}

// PID returns the process id.
func (p *Process) PID() int { return p.command.Process.Pid }

// LogPath returns the file that the log goes to.
func (p *Process) LogPath() string { return p.logPath }

// Done returns a channel that is closed when the process has ended, for
// whatever reason.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err returns nil while the process runs, and afterwards an error that says how
// it ended, with the last lines of its log.
func (p *Process) Err() error {
	select {
	case <-p.done:
	default:
		return nil
	}
	how := "exit status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	return fmt.Errorf("envoy (process %d) has ended: %s%s", p.PID(), how, p.logEnd())
}

// Stop ends the process, gracefully at first, and returns when it has ended and
// its temporary files are gone. Stopping a process that has ended is no error.
func (p *Process) Stop() error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	timer := time.NewTimer(stopGrace)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		if err := p.signal(syscall.SIGKILL); err != nil {
			return err
		}
		<-p.done
	}
	if err := os.RemoveAll(p.folder); err != nil {
		return fmt.Errorf("removing Envoy's temporary files: %w", err)
	}
	return nil
}

// Kill ends the process at once, as kill -9 does, and returns when it has
// ended. Stop still has to be called.
func (p *Process) Kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

func (p *Process) signal(signal syscall.Signal) error {
	if err := p.command.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping Envoy (process %d): %w", p.PID(), err)
	}
	return nil
}

// logEnd returns the last lines of the log on lines of their own.
func (p *Process) logEnd() string {
	log, err := os.Open(p.logPath)
	if err != nil {
		return ""
	}
	defer func() { _ = log.Close() }()
	if info, err := log.Stat(); err == nil && info.Size() > shownLog {
		_, _ = log.Seek(-shownLog, io.SeekEnd)
	}
	end, err := io.ReadAll(io.LimitReader(log, shownLog))
	if err != nil || len(end) == 0 {
		return ""
	}
	return "\n" + lastLines(end)
}
