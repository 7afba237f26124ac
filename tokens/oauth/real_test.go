package oauth_test

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

// ordersAPI is the resource (RFC 8707) that the real provider gives tokens for.
const ordersAPI = "https://orders.example/api"

// authority is a certificate authority.
type authority struct {
	t    *testing.T
	key  crypto.Signer
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t, "P-256")}
	a.cert = a.certify(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, a.key)
	return a
}

// certify signs a certificate for a key: the authority's own, if it has none yet.
func (a *authority) certify(template *x509.Certificate, key crypto.Signer) *x509.Certificate {
	a.t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, template.Subject = serial, pkix.Name{CommonName: serial.String()}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent := a.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

func pemOfCertificate(cert *x509.Certificate) []byte { return block("CERTIFICATE", cert.Raw) }

// realProvider is an authorization server that somebody else wrote, in a process
// of its own.
type realProvider struct {
	t      *testing.T
	setup  map[string]any
	issuer string
	ca     []byte
	log    bytes.Buffer
	cmd    *exec.Cmd // nil while it does not run
}

// startRealProvider starts panva/oidc-provider with these clients (RFC 7591), or
// skips the test. It ends with the test.
func startRealProvider(t *testing.T, ca *authority, clients ...map[string]any) *realProvider {
	t.Helper()
	if testing.Short() {
		t.Skip("runs a real provider")
	}
	key := newKey(t, "P-256")
	cert := ca.certify(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}, key)
	p := &realProvider{t: t, ca: pemOfCertificate(ca.cert)}
	p.setup = map[string]any{
		"key": string(pemOf(t, key)), "cert": string(pemOfCertificate(cert)), "ca": string(p.ca), "port": 0, "clients": clients,
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("the provider's log:\n%s", p.log.String())
		}
	})
	p.start()
	return p
}

// start starts the process, on the port that it had before, and waits until it
// listens.
func (p *realProvider) start() {
	p.t.Helper()
	folder := os.Getenv("REBEARER_OIDC_PROVIDER")
	node, err := exec.LookPath("node")
	if _, missing := os.Stat(filepath.Join(folder, "node_modules", "oidc-provider")); folder == "" || missing != nil || err != nil {
		const hint = "no oidc-provider: install Node.js, run `make oidc-provider`, and set REBEARER_OIDC_PROVIDER to its folder"
		if os.Getenv("REBEARER_REQUIRE_REAL") == "1" {
			p.t.Fatal(hint)
		}
		p.t.Skip(hint)
	}
	script, err := os.Open(filepath.Join("testdata", "oidc-provider", "server.mjs"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = script.Close() }()
	setup, err := json.Marshal(p.setup)
	if err != nil {
		p.t.Fatal(err)
	}
	// A script from standard input finds the modules of the working folder.
	cmd := exec.Command(node, "--input-type=module")
	cmd.Dir, cmd.Stdin = folder, script
	cmd.Env = append(os.Environ(), "SETUP="+string(setup))
	output, err := cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.cmd = cmd
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		p.log.WriteString(lines.Text() + "\n")
		if strings.HasPrefix(lines.Text(), "https://") {
			p.issuer = lines.Text()
			break
		}
	}
	u, err := url.Parse(p.issuer)
	if err != nil || p.issuer == "" {
		p.t.Fatal("the provider did not start")
	}
	if p.setup["port"], err = strconv.Atoi(u.Port()); err != nil {
		p.t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, output) }() // lest it blocks
}

// kill ends the process as kill -9 does, if it runs.
func (p *realProvider) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it was killed
	p.cmd = nil
}

// provider returns the provider as somebody would configure it.
func (p *realProvider) provider(name string) *oauth.Provider {
	p.t.Helper()
	return newProvider(p.t, oauth.ProviderConfig{Name: name, Issuer: p.issuer, CAFile: writeFile(p.t, p.ca)})
}

// machine returns the metadata of a client without a user.
func machine(id, method string, more map[string]any) map[string]any {
	client := map[string]any{
		"client_id": id, "token_endpoint_auth_method": method, "scope": "orders.read orders.write",
		"grant_types": []string{"client_credentials"}, "redirect_uris": []string{}, "response_types": []string{},
	}
	for name, value := range more {
		client[name] = value
	}
	return client
}

// keySet returns the public half of a key as a client's jwks.
func keySet(key jose.JSONWebKey) map[string]any {
	return map[string]any{"jwks": jose.JSONWebKeySet{Keys: []jose.JSONWebKey{key}}}
}

func secretOf(text tokens.Secret) func() (tokens.Secret, error) {
	return func() (tokens.Secret, error) { return text, nil }
}

// A secret that every method can take: long enough for HS512, and with characters
// that must be encoded.
const realSecret = "p+ss:w/rd & more than sixty-four bytes of it, so that HS512 is content too"

// Every client authentication gets a token from a real provider, asks it about the
// token and revokes it; and does not with the secret or key of somebody else.
func TestRealClientAuthentication(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	type method struct {
		registered map[string]any
		good, bad  oauth.ClientConfig
	}
	methods := map[string]method{}
	for _, name := range []oauth.AuthMethod{oauth.ClientSecretBasic, oauth.ClientSecretPost, oauth.ClientSecretJWT} {
		methods[string(name)] = method{
			registered: machine(string(name), string(name), map[string]any{"client_secret": realSecret}),
			good:       oauth.ClientConfig{AuthMethod: name, Secret: secretOf(realSecret)},
			bad:        oauth.ClientConfig{AuthMethod: name, Secret: secretOf(realSecret + "!")},
		}
	}
	for _, kind := range []string{"RSA", "P-256", "Ed25519"} {
		key, id := newKey(t, kind), "private_key_jwt "+kind
		methods[id] = method{
			registered: machine(id, "private_key_jwt", keySet(jose.JSONWebKey{Key: key.Public(), KeyID: "k1"})),
			good:       oauth.ClientConfig{AuthMethod: oauth.PrivateKeyJWT, KeyFile: writeFile(t, pemOf(t, key)), KeyID: "k1"},
			bad:        oauth.ClientConfig{AuthMethod: oauth.PrivateKeyJWT, KeyFile: writeFile(t, pemOf(t, newKey(t, kind))), KeyID: "k1"},
		}
	}
	withCertificate := func(method oauth.AuthMethod, signer *authority, name string) (oauth.ClientConfig, *x509.Certificate) {
		key := newKey(t, "P-256")
		cert := signer.certify(&x509.Certificate{DNSNames: []string{name}}, key)
		return oauth.ClientConfig{
			AuthMethod: method, KeyFile: writeFile(t, pemOf(t, key)), CertFile: writeFile(t, pemOfCertificate(cert)),
		}, cert
	}
	good, _ := withCertificate(oauth.TLSClientAuth, ca, "gateway.example")
	bad, _ := withCertificate(oauth.TLSClientAuth, ca, "other.example")
	methods["tls_client_auth"] = method{
		registered: machine("tls_client_auth", "tls_client_auth", map[string]any{"tls_client_auth_san_dns": "gateway.example"}),
		good:       good, bad: bad,
	}
	good, cert := withCertificate(oauth.SelfSignedTLSClientAuth, newAuthority(t), "gateway.example")
	bad, _ = withCertificate(oauth.SelfSignedTLSClientAuth, ca, "gateway.example")
	methods["self_signed_tls_client_auth"] = method{
		registered: machine("self_signed_tls_client_auth", "self_signed_tls_client_auth",
			keySet(jose.JSONWebKey{Key: cert.PublicKey, Certificates: []*x509.Certificate{cert}})),
		good: good, bad: bad,
	}

	var clients []map[string]any
	for _, m := range methods {
		clients = append(clients, m.registered)
	}
	real := startRealProvider(t, ca, clients...)
	for name, m := range methods {
		t.Run(name, func(t *testing.T) {
			cfg := oauth.TokenConfig{Scopes: []string{"orders.read"}, Resources: []string{ordersAPI}}
			m.good.ID, m.bad.ID = name, name
			client := newClient(t, real.provider("shop"), m.good)
			source, err := oauth.NewTokenSource(client, slog.New(slog.DiscardHandler), cfg)
			if err != nil {
				t.Fatal(err)
			}
			grant, err := source.Grant(t.Context(), tokens.GrantRequest{})
			if err != nil || grant.ExpiresIn != 10*time.Minute {
				t.Fatalf("lifetime %v, error %v; want a token for 10 minutes", grant.ExpiresIn, err)
			}
			answer, err := client.Introspect(t.Context(), grant.AccessToken.Reveal())
			if err != nil || !answer.Active {
				t.Fatalf("introspection: active %t, error %v; want an active token", answer.Active, err)
			}
			scope, _ := answer.Members.Text("scope")
			audience, _ := answer.Members.Text("aud")
			if scope != "orders.read" || audience != ordersAPI {
				t.Errorf("the token has scope %q and audience %q", scope, audience)
			}
			if err := source.Revoke(t.Context(), 0, grant.AccessToken); err != nil {
				t.Errorf("revocation: %v", err)
			}
			if answer, err := client.Introspect(t.Context(), grant.AccessToken.Reveal()); err != nil || answer.Active {
				t.Errorf("introspection of a revoked token: active %t, error %v", answer.Active, err)
			}

			stranger := newSourceAt(t, real.provider("shop"), m.bad, cfg)
			var refused *oauth.ResponseError
			_, err = stranger.Grant(t.Context(), tokens.GrantRequest{})
			if outcomeOf(err) != permanent || !errors.As(err, &refused) || refused.Code != "invalid_client" {
				t.Errorf("with another's secret or key: got error %v, want invalid_client", err)
			}
			mustNotLeak(t, err, realSecret, url.QueryEscape(realSecret))
			cfg.Scopes = []string{"orders.delete"}
			greedy := newSourceAt(t, real.provider("shop"), m.good, cfg)
			if _, err := greedy.Grant(t.Context(), tokens.GrantRequest{}); outcomeOf(err) != permanent {
				t.Errorf("a scope that it may not have: got error %v, want a permanent one", err)
			}
		})
	}
}

// A real provider rotates the refresh token with every use, and voids them all
// when one is used twice. Restarts of ours and two processes survive that.
func TestRealRefreshToken(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	const id = "gateway"
	real := startRealProvider(t, ca, machine(id, "client_secret_basic", map[string]any{
		"client_secret": realSecret, "scope": "openid offline_access",
		"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"},
		"redirect_uris": []string{"https://gateway.example/callback"},
	}))
	dir := t.TempDir()
	first, state := filepath.Join(dir, "first"), filepath.Join(dir, "state")
	bootstrap := real.firstRefreshToken(id)
	overwrite(t, first, bootstrap)
	process := func() *oauth.TokenSource {
		t.Helper()
		store, err := oauth.NewRefreshFile(slog.New(slog.NewTextHandler(t.Output(), nil)), oauth.RefreshFileConfig{File: first, StateFile: state})
		if err != nil {
			t.Fatal(err)
		}
		return newSourceAt(t, real.provider("shop"), oauth.ClientConfig{ID: id, Secret: secretOf(realSecret)},
			oauth.TokenConfig{Grant: oauth.RefreshToken, Store: store})
	}
	one, other := process(), process()
	var asking sync.WaitGroup
	for _, source := range []*oauth.TokenSource{one, other} {
		for range 5 {
			asking.Go(func() {
				if grant, err := source.Grant(t.Context(), tokens.GrantRequest{}); err != nil || grant.AccessToken == "" || grant.RefreshToken != "" {
					t.Errorf("got %+v, error %v; want an access token and nothing to drop", grant, err)
				}
			})
		}
	}
	asking.Wait()
	if _, err := process().Grant(t.Context(), tokens.GrantRequest{}); err != nil {
		t.Errorf("after a restart: %v", err)
	}

	// What would happen without a lock or a state file: the first token again.
	if err := os.Remove(state); err != nil {
		t.Fatal(err)
	}
	var refused *oauth.ResponseError
	_, err := one.Grant(t.Context(), tokens.GrantRequest{})
	if outcomeOf(err) != permanent || !errors.As(err, &refused) || refused.Code != "invalid_grant" {
		t.Errorf("with a used token: got error %v, want invalid_grant", err)
	}
	mustNotLeak(t, err, string(bootstrap))
	// The operator gives us a new one.
	overwrite(t, first, real.firstRefreshToken(id))
	if _, err := other.Grant(t.Context(), tokens.GrantRequest{}); err != nil {
		t.Errorf("with a new first token: %v", err)
	}
}

// firstRefreshToken returns a new refresh token of a user.
func (p *realProvider) firstRefreshToken(client string) []byte {
	p.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.ca)
	browser := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	defer browser.CloseIdleConnections()
	response, err := browser.Post(p.issuer+"/first-refresh-token?client_id="+client, "", http.NoBody)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	token, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		p.t.Fatalf("no refresh token: %s, error %v", response.Status, err)
	}
	return token
}

// One of two real providers is killed, and comes back.
func TestRealFailover(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	gateway := machine("gateway", "client_secret_post", map[string]any{"client_secret": realSecret})
	var members []oauth.Member
	var reals []*realProvider
	for _, name := range []string{"east", "west"} {
		real := startRealProvider(t, ca, gateway)
		reals = append(reals, real)
		source := newSourceAt(t, real.provider(name),
			oauth.ClientConfig{ID: "gateway", AuthMethod: oauth.ClientSecretPost, Secret: secretOf(realSecret)}, oauth.TokenConfig{})
		members = append(members, oauth.Member{Source: source, Provider: name, Client: "gateway"})
	}
	f, err := oauth.NewFailover(members, oauth.FailoverConfig{})
	if err != nil {
		t.Fatal(err)
	}
	mustComeFrom := func(want string) tokens.Grant {
		t.Helper()
		grant, err := f.Grant(t.Context(), tokens.GrantRequest{})
		if err != nil || grant.Provider != want {
			t.Fatalf("got a token from %q, error %v; want one from %s", grant.Provider, err, want)
		}
		return grant
	}
	first := mustComeFrom("east")
	reals[0].kill()
	second := mustComeFrom("west")
	if h := f.Health()[0]; h.State != oauth.BreakerOpen || h.Err == nil || h.Alarm {
		t.Errorf("health of the one that was killed: %+v, want open without alarm", h)
	}
	reals[0].start()
	for f.Health()[0].Failures > 0 { // a machine under load may need more than one trial
		<-time.After(time.Until(f.Health()[0].NextTry))
		if _, err := f.Grant(t.Context(), tokens.GrantRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	mustComeFrom("east")
	if h := f.Health()[0]; h.State != oauth.BreakerClosed || h.Err != nil {
		t.Errorf("health of the one that is back: %+v, want closed", h)
	}
	for _, grant := range []tokens.Grant{first, second} {
		if err := f.Revoke(t.Context(), grant.Client, grant.AccessToken); err != nil {
			t.Errorf("revoking at %s: %v", grant.Provider, err)
		}
	}
}
