package examples_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what takes some seconds at most.
const patience = time.Minute

// process is a running program. It is stopped when the test ends, and its last
// lines are shown if that failed.
type process struct {
	mu     sync.Mutex
	lines  []string
	more   chan struct{} // closed and replaced by each line
	exited chan struct{}
}

// start runs a program, which has an environment of its own besides the test's.
func start(t *testing.T, environment []string, program string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), environment...)
	output, input, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = input, input
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = input.Close() // the program has its own
	p := &process{more: make(chan struct{}), exited: make(chan struct{})}
	go p.read(output)
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		select {
		case <-p.exited:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-p.exited
		}
		_ = cmd.Wait() // it was told to stop
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(program), strings.Join(p.last(40), "\n"))
		}
	})
	return p
}

func (p *process) read(output io.ReadCloser) {
	defer close(p.exited)
	defer func() { _ = output.Close() }()
	lines := bufio.NewScanner(output)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		p.mu.Lock()
		p.lines = append(p.lines, lines.Text())
		close(p.more)
		p.more = make(chan struct{})
		p.mu.Unlock()
	}
}

func (p *process) last(n int) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lines[max(len(p.lines)-n, 0):]
}

// find waits for a line that matches, and returns what its first group holds.
func (p *process) find(t *testing.T, pattern string) string {
	t.Helper()
	expression := regexp.MustCompile(pattern)
	deadline := time.After(patience)
	for next := 0; ; {
		p.mu.Lock()
		unread, more := p.lines[next:], p.more
		next = len(p.lines)
		p.mu.Unlock()
		for _, line := range unread {
			if match := expression.FindStringSubmatch(line); match != nil {
				return match[1]
			}
		}
		select {
		case <-more:
		case <-p.exited:
			t.Fatalf("it ended without a line like %s", pattern)
		case <-deadline:
			t.Fatalf("no line like %s within %v", pattern, patience)
		}
	}
}
