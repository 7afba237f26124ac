//go:build unix

package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rebearer/rebearer/envoy/envoytest"
)

// oidcProvider starts panva/oidc-provider, or skips the test.
func oidcProvider(t testing.TB) *realProvider {
	t.Helper()
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
	return startReal(t, "http://"+address, func() *exec.Cmd {
		script, err := os.Open(filepath.Join("testdata", "oidc-provider", "server.mjs"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = script.Close() })
		// A script from standard input finds the modules of the working folder.
		cmd := exec.Command(node, "--input-type=module")
		cmd.Dir, cmd.Stdin = folder, script
		cmd.Env = append(os.Environ(), "PORT="+port)
		return cmd
	})
}

// A real provider is killed and started again, with all keys and tokens gone.
// While it is down the living token goes on being used, and when it is back no
// caller notices.
func TestOIDCProvider(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a real provider")
	}
	t.Parallel()
	eachEnvoy(t, func(t *testing.T, binary envoytest.Binary) {
		t.Parallel()
		binary.Require(t)
		p := oidcProvider(t)
		asks := newIntrospection(func() string { return p.issuer + "/token/introspection" }, "api", "api-secret")
		s := newStack(t, binary, stackOptions{backendURL: p.issuer, valid: asks.valid})
		s.surviveRestarts(t, p, 2)
	})
}
