package main

import (
	"io"
	"os/exec"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes the test binary stand in for rebearer: it is first on PATH
// under that name, for scripts and for the tests that kill it.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"rebearer": main})
}

// process is a replica of rebearer in a process of its own. It keeps its
// addresses when it is started again.
type process struct {
	config string
	status string // URL of its status listener
	log    io.Writer

	cmd *exec.Cmd // nil while it does not run
}

func (p *process) start(t testing.TB) {
	t.Helper()
	cmd := exec.Command("rebearer", "serve", "--config", p.config)
	cmd.Stderr = p.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.cmd = cmd
}

// kill kills the process as kill -9 does.
func (p *process) kill(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = p.cmd.Wait() // it was killed
	p.cmd = nil
}

// terminate ends the process as an orchestrator does, and waits for it.
func (p *process) terminate(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("rebearer serve: %v", err)
	}
	p.cmd = nil
}

// end ends the process if it runs.
func (p *process) end(t testing.TB) {
	t.Helper()
	if p.cmd != nil {
		p.kill(t)
	}
}
