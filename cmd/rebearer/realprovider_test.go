//go:build unix

package main

import (
	"net/http"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/load"
	"github.com/rebearer/rebearer/tokens"
)

// realProvider is an authorization server that somebody else wrote, in a
// process of its own.
type realProvider struct {
	issuer  string
	command func() *exec.Cmd // starts it, always on the same port
	client  *http.Client     // for whoever operates it
	log     *logBuffer

	cmd *exec.Cmd // nil while it does not run
}

// start starts the process and waits for the provider's first answer.
func (p *realProvider) start(t testing.TB) {
	t.Helper()
	cmd := p.command()
	cmd.Stdout, cmd.Stderr = p.log, p.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a script may have children
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.cmd = cmd
	awaitFor(t, 5*time.Minute, "the provider", func() bool { // Keycloak's first start is slow
		response, err := p.client.Get(p.issuer + "/.well-known/openid-configuration")
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// kill kills the process and its children as kill -9 does, if it runs.
func (p *realProvider) kill(t testing.TB) {
	t.Helper()
	if p.cmd == nil {
		return
	}
	if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	_ = p.cmd.Wait() // it was killed
	p.cmd = nil
}

// newReal returns a real provider that ends with the test, if it is started.
func newReal(t testing.TB, issuer string, command func() *exec.Cmd) *realProvider {
	t.Helper()
	p := &realProvider{issuer: issuer, command: command, client: &http.Client{}, log: &logBuffer{}}
	t.Cleanup(func() {
		p.kill(t)
		if t.Failed() {
			t.Logf("the provider's log:\n%s", p.log)
		}
	})
	return p
}

// surviveRestarts kills a real provider and starts it again so often, under
// load, and fails the test if any caller notices: neither while it is down nor
// from its first answer on.
func (s *stack) surviveRestarts(t *testing.T, p *realProvider, restarts int) {
	t.Helper()
	requests := s.traffic(t, load.Config{Connections: 16, Rate: 300})
	requests.awaitStatus(t, http.StatusOK, 100)
	for i := range restarts {
		p.kill(t)
		requests.awaitStatus(t, http.StatusOK, 100)
		p.start(t)
		s.awaitRecovery(t, i+1)
		requests.awaitStatus(t, http.StatusOK, 100)
	}
	got := requests.end()
	issued := s.events.count(tokens.EventIssued)
	t.Logf("%d requests, %d failed %v, refused by the backend %d, %d tokens issued, retried p50 %v max %v",
		got.Requests, got.Failed(), got.ByStatus, s.api.Counts().Rejected, issued, got.Retried.Quantile(0.5), got.Retried.Max())
	if got.Failed() > 0 {
		t.Errorf("%d of %d requests failed: %q", got.Failed(), got.Requests, got.Failures)
	}
	// Fewer would mean that a restart voided nothing.
	if want := restarts + 1; issued < want || issued > 2*want {
		t.Errorf("%d tokens issued, want %d or a few more", issued, want)
	}
	s.checkLogs(t)
}

// awaitRecovery waits until so many restarts have been overcome.
func (s *stack) awaitRecovery(t testing.TB, restarts int) {
	t.Helper()
	await(t, "recovery", func() bool { return s.events.count(tokens.EventRecovered) >= restarts })
}
