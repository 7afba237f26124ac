package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReadSecret(t *testing.T) {
	t.Parallel()
	const canary = "c4n4ry"
	tests := map[string]struct{ content, want, err string }{
		"plain":              {canary, canary, ""},
		"line break":         {canary + "\n", canary, ""},
		"windows line break": {canary + "\r\n", canary, ""},
		"spaces are kept":    {" " + canary + " \n", " " + canary + " ", ""},
		"not ASCII":          {"pässwörd\n", "pässwörd", ""},
		"empty":              {"", "", "FILE is empty"},
		"blank":              {" \n", "", "FILE is empty"},
		"two line breaks":    {canary + "\n\n", "", "FILE holds more than one line: a secret is one"},
		"two lines":          {canary + "\nmore\n", "", "FILE holds more than one line: a secret is one"},
		"lone return":        {canary + "\rmore", "", "FILE holds more than one line: a secret is one"},
		"UTF-16":             {"c\x004\x00", "", "FILE holds control characters: a secret is one line of text"},
		"large":              {strings.Repeat(canary, 1<<18), "", "FILE is larger than 1 MiB"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "secret")
			writeTestFile(t, file, tt.content)
			got, err := ReadSecret(file)
			if got.Reveal() != tt.want {
				t.Errorf("got %q, want %q", got.Reveal(), tt.want)
			}
			message := ""
			if err != nil {
				message = strings.ReplaceAll(err.Error(), file, "FILE")
			}
			if message != tt.err {
				t.Errorf("got error %q, want %q", message, tt.err)
			}
			if strings.Contains(message, canary) {
				t.Error("the error holds the secret")
			}
		})
	}
}

func TestReadSecretOnlyFromFiles(t *testing.T) {
	t.Parallel()
	for _, name := range []string{t.TempDir(), os.DevNull, "/dev/zero", filepath.Join(t.TempDir(), "missing")} {
		if _, err := ReadSecret(name); err == nil {
			t.Errorf("ReadSecret(%s) succeeded", name)
		}
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeTestFile(t, filepath.Join(dir, "secrets", "orders"), "s3cr3t\n")
	writeTestFile(t, filepath.Join(dir, "ca.pem"), testCertificate(t))
	writeTestFile(t, filepath.Join(dir, "rebearer.yaml"), `
version: 1
providers:
  shop: {issuer: "https://idp.example", ca_file: ca.pem}
credentials:
  orders: {clients: [{provider: shop, id: gateway, secret_file: secrets/orders}]}
`)
	cfg, err := Load(filepath.Join(dir, "rebearer.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "secrets", "orders")}
	if diff := cmp.Diff(want, cfg.Files()); diff != "" {
		t.Errorf("Files(): (-want +got)\n%s", diff)
	}
	secret, err := ReadSecret(cfg.Credentials["orders"].Clients[0].SecretFile)
	if err != nil || secret.Reveal() != "s3cr3t" {
		t.Errorf("ReadSecret() = %q, %v", secret.Reveal(), err)
	}
}

// TestStateFiles: what rebearer writes itself may be missing, and is not read anew
// when it changes.
func TestStateFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeTestFile(t, filepath.Join(dir, "s"), "s3cr3t")
	writeTestFile(t, filepath.Join(dir, "first"), "r3fr3sh")
	writeTestFile(t, filepath.Join(dir, "only"), "r3fr3sh")
	text := `version: 1
providers: {shop: {issuer: "https://idp.example"}}
x-c: &c {clients: [{provider: shop, id: a, secret_file: s}], grant: refresh_token}
credentials:
  kept: {<<: *c, refresh_token: {file: first, state_file: state}}
  same: {<<: *c, refresh_token: {file: only}}
`
	writeTestFile(t, filepath.Join(dir, "rebearer.yaml"), text)
	cfg, err := Load(filepath.Join(dir, "rebearer.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{filepath.Join(dir, "first"), filepath.Join(dir, "s")}, cfg.Files()); diff != "" {
		t.Errorf("Files(): (-want +got)\n%s", diff)
	}
	if got, want := cfg.Credentials["same"].RefreshToken.StateFile, filepath.Join(dir, "only"); got != want {
		t.Errorf("the state file of a credential that names none is %s, want %s", got, want)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".rebearer-*")); err != nil || len(left) > 0 {
		t.Errorf("%q were left behind, %v", left, err)
	}
	writeTestFile(t, filepath.Join(dir, "rebearer.yaml"), text+"  lost: {<<: *c, refresh_token: {file: first, state_file: first/state}}\n")
	_, err = Load(filepath.Join(dir, "rebearer.yaml"))
	const want = "DIR/rebearer.yaml:7:59: credentials.lost.refresh_token.state_file: its folder must be writable, " +
		"since a provider may rotate the refresh token: open DIR/first/.rebearer-"
	if got := strings.ReplaceAll(errorText(err), dir, "DIR"); !strings.HasPrefix(got, want) {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// TestLoadRefusesFiles: what is wrong with files is told together with what is
// wrong with values.
func TestLoadRefusesFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeTestFile(t, filepath.Join(dir, "empty"), "")
	writeTestFile(t, filepath.Join(dir, "lines"), "one\ntwo\n")
	writeTestFile(t, filepath.Join(dir, "rebearer.yaml"), `version: 1
server:
  grpc:
    tls: {cert_file: lines, key_file: empty}
  admin: {token_file: lines}
providers:
  shop: {issuer: "https://idp.example", ca_file: lines}
credentials:
  orders:
    clients: [{provider: shopp, id: gateway, secret_file: missing}]
`)
	_, err := Load(filepath.Join(dir, "rebearer.yaml"))
	want := `DIR/rebearer.yaml:4:22: server.grpc.tls.cert_file: DIR/lines holds no PEM certificate
DIR/rebearer.yaml:4:39: server.grpc.tls.key_file: DIR/empty is empty
DIR/rebearer.yaml:5:23: server.admin.token_file: DIR/lines holds more than one line: a secret is one
DIR/rebearer.yaml:7:50: providers.shop.ca_file: DIR/lines holds no PEM certificate
DIR/rebearer.yaml:10:26: credentials.orders.clients[0].provider: no provider is called "shopp"; did you mean "shop"?
DIR/rebearer.yaml:10:59: credentials.orders.clients[0].secret_file: stat DIR/missing: no such file or directory`
	if diff := cmp.Diff(want, strings.ReplaceAll(errorText(err), dir, "DIR")); diff != "" {
		t.Errorf("Load(): (-want +got)\n%s", diff)
	}
}

func TestLoadMissing(t *testing.T) {
	t.Parallel()
	if _, err := Load(filepath.Join(t.TempDir(), "rebearer.yaml")); !os.IsNotExist(err) {
		t.Errorf("got %v, want an error that os.IsNotExist knows", err)
	}
	if _, err := Load(t.TempDir()); err == nil {
		t.Error("a folder was loaded")
	}
}

func writeTestFile(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// testCertificate returns a self-signed certificate in PEM.
func testCertificate(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
