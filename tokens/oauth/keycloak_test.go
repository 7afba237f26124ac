//go:build unix

package oauth_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

// startKeycloak starts Keycloak with the realm of testdata and returns the
// issuer, or skips the test. The partner's assertions are verified with its
// key set. Keycloak takes a minute or more, and half a gigabyte.
func startKeycloak(t *testing.T, partner []byte) (issuer string) {
	t.Helper()
	folder := os.Getenv("REBEARER_KEYCLOAK")
	if folder == "" {
		t.Skip("no Keycloak: run `make test-keycloak`")
	}
	const file = "rebearer-grants-realm.json"
	realm, err := os.ReadFile(filepath.Join("testdata", "keycloak", file))
	if err != nil {
		t.Fatal(err)
	}
	key, err := json.Marshal(string(partner))
	if err != nil {
		t.Fatal(err)
	}
	imports := filepath.Join(folder, "data", "import")
	if err := os.MkdirAll(imports, 0o755); err != nil {
		t.Fatal(err)
	}
	// Not left there: a Keycloak without the feature below cannot import it.
	imported := filepath.Join(imports, file)
	t.Cleanup(func() { _ = os.Remove(imported) })
	overwrite(t, imported, bytes.Replace(realm, []byte(`"PARTNER_KEY"`), key, 1))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	host, port, _ := net.SplitHostPort(address)
	var log bytes.Buffer
	cmd := exec.Command(filepath.Join(folder, "bin", "kc.sh"), "start-dev", "--db=dev-mem", "--cache=local",
		"--features=jwt-authorization-grant", "--http-host="+host, "--http-port="+port, "--import-realm")
	cmd.Env = append(os.Environ(), "JAVA_OPTS_KC_HEAP=-Xms64m -Xmx512m", "JAVA_OPTS_APPEND=-XX:TieredStopAtLevel=1")
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the script has children
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("Keycloak's log:\n%s", log.String())
		}
	})
	issuer = "http://" + address + "/realms/rebearer-grants"
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Minute); time.Now().Before(deadline); <-tick.C {
		response, err := http.Get(issuer + "/.well-known/openid-configuration")
		if err != nil {
			continue
		}
		_ = response.Body.Close()
		if response.StatusCode == http.StatusOK {
			return issuer
		}
	}
	t.Fatal("Keycloak did not start")
	return ""
}

// Every grant against a real Keycloak.
func TestKeycloakGrants(t *testing.T) {
	key := newKey(t, "P-256")
	public, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "partner-1", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	issuer := startKeycloak(t, public)
	provider := newProvider(t, oauth.ProviderConfig{Name: "keycloak", Issuer: issuer})
	gateway := oauth.ClientConfig{ID: "gateway", Secret: secretOf("gateway-secret")}
	api := newClient(t, provider, oauth.ClientConfig{ID: "orders", Secret: secretOf("orders-secret")})
	// mustBeGood fails the test unless the API takes the token, and returns whose
	// it is.
	mustBeGood := func(t *testing.T, grant tokens.Grant, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		answer, err := api.Introspect(t.Context(), grant.AccessToken.Reveal())
		if err != nil || !answer.Active || grant.ExpiresIn <= 0 || grant.ExpiresIn > 10*time.Minute {
			t.Fatalf("active %t, lifetime %v, error %v; want an active token for 10 minutes", answer.Active, grant.ExpiresIn, err)
		}
		name, _ := answer.Members.Text("username")
		return name
	}

	t.Run("client credentials and refresh", func(t *testing.T) {
		source := newSourceAt(t, provider, gateway, oauth.TokenConfig{})
		first, err := source.Grant(t.Context(), tokens.GrantRequest{})
		if got := mustBeGood(t, first, err); got != "service-account-gateway" {
			t.Errorf("it is %q's token", got)
		}
		if first.RefreshToken == "" || first.RefreshExpiresIn <= 0 {
			t.Fatalf("no refresh token, or none that ends: lifetime %v", first.RefreshExpiresIn)
		}
		second, err := source.Grant(t.Context(), tokens.GrantRequest{Refresh: first.RefreshToken})
		mustBeGood(t, second, err)
		if second.RefreshToken == "" || second.RefreshToken == first.RefreshToken {
			t.Error("the refresh token was not rotated")
		}
		if err := source.Revoke(t.Context(), 0, second.RefreshToken); err != nil {
			t.Errorf("revocation: %v", err)
		}
		third, err := source.Grant(t.Context(), tokens.GrantRequest{Refresh: second.RefreshToken})
		mustBeGood(t, third, err) // by a new grant
	})

	t.Run("token exchange", func(t *testing.T) {
		shop := newSourceAt(t, provider, oauth.ClientConfig{ID: "shop", Secret: secretOf("shop-secret")}, oauth.TokenConfig{})
		caller, err := shop.Grant(t.Context(), tokens.GrantRequest{})
		if err != nil {
			t.Fatal(err)
		}
		source := newSourceAt(t, provider, gateway, oauth.TokenConfig{Grant: oauth.TokenExchange, Audience: "orders"})
		grant, err := source.Grant(t.Context(), tokens.GrantRequest{Subject: caller.AccessToken})
		if got := mustBeGood(t, grant, err); got != "service-account-shop" {
			t.Errorf("it is %q's token, not the caller's", got)
		}
		if err := shop.Revoke(t.Context(), 0, caller.AccessToken); err != nil {
			t.Fatal(err)
		}
		for name, subject := range map[string]tokens.Secret{"revoked": caller.AccessToken, "strange": "canary.canary.canary"} {
			_, err := source.Grant(t.Context(), tokens.GrantRequest{Subject: subject})
			mustBeCallers(t, name, err)
			mustNotLeak(t, err, "canary", caller.AccessToken.Reveal())
		}
		elsewhere := newSourceAt(t, provider, gateway, oauth.TokenConfig{Grant: oauth.TokenExchange, Audience: "nowhere"})
		caller, err = shop.Grant(t.Context(), tokens.GrantRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var subject *tokens.SubjectError
		if _, err := elsewhere.Grant(t.Context(), tokens.GrantRequest{Subject: caller.AccessToken}); outcomeOf(err) != permanent || errors.As(err, &subject) {
			t.Errorf("unknown audience: got error %v, want a permanent one that is not the caller's", err)
		}
	})

	t.Run("JWT bearer", func(t *testing.T) {
		assertion := &oauth.AssertionConfig{
			Issuer: "https://partner.example", Subject: "alice-at-partner", Lifetime: time.Minute,
			KeyFile: writeFile(t, pemOf(t, key)), KeyID: "partner-1",
		}
		source := newSourceAt(t, provider, gateway, oauth.TokenConfig{Grant: oauth.JWTBearer, Assertion: assertion})
		grant, err := source.Grant(t.Context(), tokens.GrantRequest{})
		if got := mustBeGood(t, grant, err); got != "alice" {
			t.Errorf("it is %q's token", got)
		}
		forged := *assertion
		forged.KeyFile = writeFile(t, pemOf(t, newKey(t, "P-256")))
		source = newSourceAt(t, provider, gateway, oauth.TokenConfig{Grant: oauth.JWTBearer, Assertion: &forged})
		var subject *tokens.SubjectError
		if _, err := source.Grant(t.Context(), tokens.GrantRequest{}); outcomeOf(err) != permanent || errors.As(err, &subject) {
			t.Errorf("with another's key: got error %v, want a permanent one that is not the caller's", err)
		}
	})

	t.Run("JWT bearer on behalf of", func(t *testing.T) {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "partner-1"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		// callersToken is what the partner's own provider would have issued.
		callersToken := func(name, id string, expires time.Time) tokens.Secret {
			claims, err := json.Marshal(map[string]any{
				"iss": "https://partner.example", "sub": name, "aud": issuer, "jti": id,
				"iat": time.Now().Add(-2 * time.Minute).Unix(), "exp": expires.Unix(),
			})
			if err != nil {
				t.Fatal(err)
			}
			signed, err := signer.Sign(claims)
			if err != nil {
				t.Fatal(err)
			}
			text, err := signed.CompactSerialize()
			if err != nil {
				t.Fatal(err)
			}
			return tokens.Secret(text)
		}
		source := newSourceAt(t, provider, gateway, oauth.TokenConfig{Grant: oauth.JWTBearer})
		grant, err := source.Grant(t.Context(), tokens.GrantRequest{Subject: callersToken("alice-at-partner", "1", time.Now().Add(time.Minute))})
		if got := mustBeGood(t, grant, err); got != "alice" {
			t.Errorf("it is %q's token", got)
		}
		_, err = source.Grant(t.Context(), tokens.GrantRequest{Subject: callersToken("alice-at-partner", "2", time.Now().Add(-time.Minute))})
		mustBeCallers(t, "expired", err)
		_, err = source.Grant(t.Context(), tokens.GrantRequest{Subject: callersToken("bob-at-partner", "3", time.Now().Add(time.Minute))})
		mustBeCallers(t, "unknown user", err)
	})
}

// mustBeCallers fails the test unless err says that the caller's token was
// refused.
func mustBeCallers(t *testing.T, name string, err error) {
	t.Helper()
	var subject *tokens.SubjectError
	if !errors.As(err, &subject) {
		t.Errorf("%s: got error %v, want a SubjectError", name, err)
	}
}
