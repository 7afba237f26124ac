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

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/api"
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
	p := newReal(t, "http://"+address+"/realms/rebearer", func() *exec.Cmd {
		cmd := exec.Command(filepath.Join(folder, "bin", "kc.sh"), "start-dev", "--db=dev-mem", "--cache=local",
			"--http-host="+host, "--http-port="+port, "--import-realm")
		cmd.Env = append(os.Environ(),
			"KC_BOOTSTRAP_ADMIN_USERNAME="+keycloakAdmin, "KC_BOOTSTRAP_ADMIN_PASSWORD="+keycloakAdmin,
			"JAVA_OPTS_KC_HEAP=-Xms64m -Xmx512m", "JAVA_OPTS_APPEND=-XX:TieredStopAtLevel=1")
		return cmd
	})
	p.start(t)
	return p
}

// Keycloak loses all its tokens and keys, and voids all tokens while it runs
// and keeps its keys. No caller notices either.
func TestKeycloak(t *testing.T) {
	newest().Require(t)
	p := keycloak(t)
	asks := newIntrospection(func() string { return p.issuer + "/protocol/openid-connect/token/introspect" }, apiID, apiSecret)
	s := newStack(t, newest(), stackOptions{backendURL: p.issuer, valid: asks.valid})
	t.Run("restart", func(t *testing.T) { s.surviveRestarts(t, p, 1) })
	t.Run("not before", func(t *testing.T) { s.surviveVoiding(t, p, 3) })
	t.Run("token exchange", func(t *testing.T) { exchangeAtKeycloak(t, p, asks) })
}

// exchangeAtKeycloak has Keycloak exchange its callers' own tokens: each for one
// of the same subject, and none that was voided.
func exchangeAtKeycloak(t *testing.T, p *realProvider, asks *introspection) {
	t.Helper()
	s := newStack(t, newest(), stackOptions{
		backendURL: p.issuer, valid: asks.valid, credential: "grant: token_exchange", rejection: api.Challenge, record: 100,
		callers:  []string{"staff: {provider: backend, audiences: [gateway]}"},
		policies: []string{"staff: {callers: [staff], credential: orders}"},
	})
	caller := func(id string) (ask func() answer, subject string) {
		token, err := (&clientcredentials.Config{
			ClientID: id, ClientSecret: id + "-secret", TokenURL: p.issuer + "/protocol/openid-connect/token",
		}).Token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		claims, err := jwt.ParseSigned(token.AccessToken, []jose.SignatureAlgorithm{jose.RS256})
		if err != nil {
			t.Fatal(err)
		}
		var known jwt.Claims
		if err := claims.UnsafeClaimsWithoutVerification(&known); err != nil {
			t.Fatal(err)
		}
		return func() answer {
			return s.send(t, http.MethodGet, "/staff/", nil, with("Authorization", "Bearer "+token.AccessToken))
		}, known.Subject
	}
	seen := map[string]string{} // token to subject
	asShop, shop := caller("shop")
	asStore, store := caller("store")
	for range 2 {
		for subject, ask := range map[string]func() answer{shop: asShop, store: asStore} {
			ask().want(t, http.StatusOK)
			token := s.lastToken()
			if owner := asks.about(token).Subject; owner != subject || seen[token] != "" && seen[token] != subject {
				t.Errorf("a request of %s came with a token of %s", subject, owner)
			}
			seen[token] = subject
		}
	}
	if len(seen) != 2 {
		t.Errorf("two callers' requests brought %d tokens", len(seen))
	}
	voidTokens(t, p)
	await(t, "the voided tokens to be refused", func() bool { return asShop().status != http.StatusOK })
	asShop().wantRefusedSubject(t)
	asShop, _ = caller("shop")
	asShop().want(t, http.StatusOK)
	s.checkLogs(t)
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
