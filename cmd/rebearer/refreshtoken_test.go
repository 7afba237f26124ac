//go:build unix

package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/load"
)

// A real provider gives a new refresh token with every use and voids them all when
// one is used twice. However rebearer ends, it goes on with the latest.
func TestRefreshToken(t *testing.T) {
	t.Parallel()
	for name, stateFile := range map[string]string{"state in a file of its own": "state", "state in the token's file": "first"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			newest().Require(t)
			p := oidcProvider(t, machine(apiID, apiSecret, nil), machine(gatewayID, gatewaySecret, oidcClient{
				"scope":       "openid offline_access",
				"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"},
				"redirect_uris": []string{"https://gateway.example/callback"},
			}))
			folder := t.TempDir()
			first, state := filepath.Join(folder, "first"), filepath.Join(folder, stateFile)
			bootstrap := p.firstRefreshToken(t, gatewayID)
			write(t, first, bootstrap)
			s := newStack(t, newest(), stackOptions{
				processes: true, backendURL: p.issuer, valid: p.oidcIntrospection().valid, record: 1000,
				credential: fmt.Sprintf("grant: refresh_token\n    refresh_token: {file: %q, state_file: %q}", first, state),
			})
			used := []string{bootstrap}
			for _, end := range []func(*process){
				func(p *process) { p.kill(t) },
				func(p *process) { p.terminate(t) },
				func(p *process) { p.kill(t) },
			} {
				requests := s.traffic(t, load.Config{Rate: 50})
				requests.awaitStatus(t, http.StatusOK, 10)
				latest := keptRefreshToken(t, state)
				for _, token := range used {
					if latest == token {
						t.Error("the provider did not rotate the refresh token, or that was not kept")
					}
				}
				used = append(used, latest)
				end(s.processes[0])
				requests.awaitStatus(t, http.StatusServiceUnavailable, 1)
				s.processes[0].start(t)
				awaitReady(t, s.status[0])
				requests.awaitStatus(t, http.StatusOK, 10)
				got := requests.end()
				if others := got.Requests - got.ByStatus[http.StatusOK] - got.ByStatus[http.StatusServiceUnavailable]; others > 0 {
					t.Errorf("%d answers were neither 200 nor 503: %v, %q", others, got.ByStatus, got.Failures)
				}
			}
			if got := s.metric(t, `rebearer_token_requests_total{outcome="refused",provider="backend"}`); got != 0 {
				t.Errorf("the provider refused %v token requests", got)
			}
			if rejected := s.api.Counts().Rejected; rejected > 0 {
				t.Errorf("the backend refused %d requests", rejected)
			}
			s.checkLogs(t, append(used, keptRefreshToken(t, state))...)
		})
	}
}

// keptRefreshToken returns the refresh token in a state file.
func keptRefreshToken(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), `"refresh_token":"`)
	token, _, ok := strings.Cut(rest, `"`)
	if !ok {
		t.Fatal("the state file holds no refresh token")
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v of the state file, error %v; want only the owner to read it", info.Mode(), err)
	}
	return token
}
