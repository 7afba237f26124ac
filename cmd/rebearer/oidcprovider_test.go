//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rebearer/rebearer/envoy/envoytest"
)

// oidcSetup is how oidc-provider is set up: what its script reads.
type oidcSetup struct {
	Port    int          `json:"port"` // chosen by newOIDCProvider
	Clients []oidcClient `json:"clients"`
	// Key, Cert and CA are PEM, for HTTPS.
	Key  string `json:"key,omitempty"`
	Cert string `json:"cert,omitempty"`
	CA   string `json:"ca,omitempty"`
	// Subjects says whose tokens may be exchanged.
	Subjects *oidcSubjects `json:"subjects,omitempty"`
}

// oidcClient is the metadata of a client (RFC 7591).
type oidcClient map[string]any

// oidcSubjects says whose tokens may be exchanged: those of an issuer, but for
// some users.
type oidcSubjects struct {
	Issuer  string   `json:"issuer"`
	JWKS    string   `json:"jwks"`
	Refused []string `json:"refused,omitempty"`
}

// machine returns a client without a user, with a secret, unless that is empty,
// and further metadata.
func machine(id, secret string, more oidcClient) oidcClient {
	c := oidcClient{
		"client_id": id, "token_endpoint_auth_method": "client_secret_basic",
		"grant_types": []string{"client_credentials"}, "redirect_uris": []string{}, "response_types": []string{},
	}
	if secret != "" {
		c["client_secret"] = secret
	}
	maps.Copy(c, more)
	return c
}

// gatewayAndAPI are the clients of most tests: ours, and the backend's for
// introspection.
func gatewayAndAPI() []oidcClient {
	return []oidcClient{machine(gatewayID, gatewaySecret, nil), machine(apiID, apiSecret, nil)}
}

// newOIDCProvider returns panva/oidc-provider, which does not run yet, or skips
// the test. What it is set up with may change until it is started.
func newOIDCProvider(t testing.TB, setup *oidcSetup) *realProvider {
	t.Helper()
	if testing.Short() {
		t.Skip("runs a real provider")
	}
	folder := os.Getenv("REBEARER_OIDC_PROVIDER")
	node, err := exec.LookPath("node")
	if _, missing := os.Stat(filepath.Join(folder, "node_modules", "oidc-provider")); folder == "" || missing != nil || err != nil {
		const hint = "no oidc-provider: install Node.js, run `make oidc-provider`, and set REBEARER_OIDC_PROVIDER to its folder"
		if os.Getenv("REBEARER_REQUIRE_REAL") == "1" {
			t.Fatal(hint)
		}
		t.Skip(hint)
	}
	address := freeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	if setup.Port, err = strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
	scheme := "http://"
	if setup.Key != "" {
		scheme = "https://"
	}
	return newReal(t, scheme+address, func() *exec.Cmd {
		script, err := os.Open(filepath.Join("..", "..", "tokens", "oauth", "testdata", "oidc-provider", "server.mjs"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = script.Close() })
		text, err := json.Marshal(setup)
		if err != nil {
			t.Fatal(err)
		}
		// A script from standard input finds the modules of the working folder.
		cmd := exec.Command(node, "--input-type=module")
		cmd.Dir, cmd.Stdin = folder, script
		cmd.Env = append(os.Environ(), "SETUP="+string(text))
		return cmd
	})
}

// oidcProvider starts one with these clients.
func oidcProvider(t testing.TB, clients ...oidcClient) *realProvider {
	t.Helper()
	p := newOIDCProvider(t, &oidcSetup{Clients: clients})
	p.start(t)
	return p
}

// oidcIntrospection is how the backend finds out about its tokens.
func (p *realProvider) oidcIntrospection() *introspection {
	i := newIntrospection(func() string { return p.issuer + "/token/introspection" }, apiID, apiSecret)
	i.client.Transport = p.client.Transport
	return i
}

// register replaces a client by another of the same id, as an operator does.
func (p *realProvider) register(t testing.TB, client oidcClient) {
	t.Helper()
	body, err := json.Marshal(client)
	if err != nil {
		t.Fatal(err)
	}
	p.operate(t, http.MethodPut, "/clients", body)
}

// firstRefreshToken returns what a user gave a client at a browser.
func (p *realProvider) firstRefreshToken(t testing.TB, client string) string {
	t.Helper()
	return p.operate(t, http.MethodPost, "/first-refresh-token?client_id="+client, nil)
}

func (p *realProvider) operate(t testing.TB, method, path string, body []byte) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, p.issuer+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := p.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode >= http.StatusMultipleChoices {
		t.Fatalf("%s %s: %s, error %v", method, path, response.Status, err)
	}
	return string(text)
}

// A real provider is killed and started again, with all tokens gone. While it is
// down the living token goes on being used, and when it is back no caller notices.
func TestOIDCProvider(t *testing.T) {
	t.Parallel()
	eachEnvoy(t, func(t *testing.T, binary envoytest.Binary) {
		t.Parallel()
		binary.Require(t)
		p := oidcProvider(t, gatewayAndAPI()...)
		s := newStack(t, binary, stackOptions{backendURL: p.issuer, valid: p.oidcIntrospection().valid})
		s.surviveRestarts(t, p, 2)
	})
}
