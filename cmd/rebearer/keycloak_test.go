//go:build unix

package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/load"
	"github.com/rebearer/rebearer/tokens"
)

const keycloakAdmin = "admin" // name and password

// keycloak starts Keycloak with everything in memory, or skips the test. It
// takes a minute, and needs half a gigabyte.
func keycloak(t testing.TB) *realProvider {
	t.Helper()
	folder := os.Getenv("REBEARER_KEYCLOAK")
	if folder == "" {
		t.Skip("no Keycloak: run `make test-keycloak`")
	}
	const file = "rebearer-realm.json"
	realm, err := os.ReadFile(filepath.Join("testdata", "keycloak", file))
	if err != nil {
		t.Fatal(err)
	}
	imports := filepath.Join(folder, "data", "import")
	if err := os.MkdirAll(imports, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(imports, file), string(realm))
	address := freeAddress(t)
	host, port, _ := net.SplitHostPort(address)
	return startReal(t, "http://"+address+"/realms/rebearer", func() *exec.Cmd {
		cmd := exec.Command(filepath.Join(folder, "bin", "kc.sh"), "start-dev", "--db=dev-mem", "--cache=local",
			"--http-host="+host, "--http-port="+port, "--import-realm")
		cmd.Env = append(os.Environ(),
			"KC_BOOTSTRAP_ADMIN_USERNAME="+keycloakAdmin, "KC_BOOTSTRAP_ADMIN_PASSWORD="+keycloakAdmin,
			"JAVA_OPTS_KC_HEAP=-Xms64m -Xmx512m", "JAVA_OPTS_APPEND=-XX:TieredStopAtLevel=1")
		return cmd
	})
}

// Keycloak loses all its tokens and keys, and voids all tokens while it runs
// and keeps its keys. No caller notices either.
func TestKeycloak(t *testing.T) {
	newest().Require(t)
	p := keycloak(t)
	asks := newIntrospection(func() string { return p.issuer + "/protocol/openid-connect/token/introspect" }, "api", "api-secret")
	s := newStack(t, newest(), stackOptions{backendURL: p.issuer, valid: asks.valid})
	t.Run("restart", func(t *testing.T) { s.surviveRestarts(t, p, 1) })
	t.Run("not before", func(t *testing.T) { s.surviveVoiding(t, p, 3) })
}

// surviveVoiding voids all of Keycloak's tokens so often, under load, and fails
// the test if any caller notices.
func (s *stack) surviveVoiding(t *testing.T, p *realProvider, times int) {
	t.Helper()
	issued, recovered := s.events.count(tokens.EventIssued), s.events.count(tokens.EventRecovered)
	requests := s.traffic(t, load.Config{Connections: 16, Rate: 300})
	for i := range times {
		requests.awaitStatus(t, http.StatusOK, 100)
		voidTokens(t, p)
		s.awaitRecovery(t, recovered+i+1)
	}
	requests.awaitStatus(t, http.StatusOK, 100)
	got := requests.end()
	t.Logf("%d requests, %d failed %v, retried p50 %v max %v",
		got.Requests, got.Failed(), got.ByStatus, got.Retried.Quantile(0.5), got.Retried.Max())
	if got.Failed() > 0 {
		t.Errorf("%d of %d requests failed: %q", got.Failed(), got.Requests, got.Failures)
	}
	if more := s.events.count(tokens.EventIssued) - issued; more != times {
		t.Errorf("%d tokens issued, want %d", more, times)
	}
}

// voidTokens sets the realm's not-before to the present second: that voids the
// tokens that were issued before it.
func voidTokens(t testing.TB, p *realProvider) {
	t.Helper()
	began := time.Now().Unix()
	await(t, "the next second", func() bool { return time.Now().Unix() > began })
	base, _, _ := strings.Cut(p.issuer, "/realms/")
	admin := oauth2.Config{ClientID: "admin-cli", Endpoint: oauth2.Endpoint{
		TokenURL: base + "/realms/master/protocol/openid-connect/token", AuthStyle: oauth2.AuthStyleInParams,
	}}
	token, err := admin.PasswordCredentialsToken(t.Context(), keycloakAdmin, keycloakAdmin)
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Sprintf(`{"notBefore": %d}`, time.Now().Unix())
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, base+"/admin/realms/rebearer", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := admin.Client(t.Context(), token).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusNoContent {
		t.Fatalf("not before: %s", response.Status)
	}
}
