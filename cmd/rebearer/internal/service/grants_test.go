package service

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/admin"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
	"github.com/rebearer/rebearer/tokens"
)

// office is a token endpoint that notes what it is asked, and gives numbered
// tokens that tell the office's name.
type office struct {
	*httptest.Server
	name string

	mu      sync.Mutex
	forms   []url.Values // of token requests, with what the Authorization header says as "basic"
	refuse  string       // the error code that it answers with; empty for none
	actives map[string]bool
}

func newOffice(t *testing.T, name string) *office {
	t.Helper()
	o := &office{name: name, actives: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", o.token)
	mux.HandleFunc("POST /introspect", func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		defer o.mu.Unlock()
		_ = json.NewEncoder(w).Encode(map[string]any{"active": o.actives[r.PostFormValue("token")]})
	})
	o.Server = httptest.NewServer(mux)
	t.Cleanup(o.Close)
	return o
}

func (o *office) token(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	form := r.PostForm
	if id, _, ok := r.BasicAuth(); ok {
		form.Set("basic", id)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forms = append(o.forms, form)
	w.Header().Set("Content-Type", "application/json")
	if o.refuse != "" {
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": o.refuse})
		return
	}
	answer := map[string]any{"access_token": fmt.Sprintf("%s-%d", o.name, len(o.forms)), "token_type": "Bearer", "expires_in": 3600}
	if form.Get("grant_type") == "refresh_token" {
		answer["refresh_token"] = fmt.Sprintf("refresh-%d", len(o.forms))
	}
	o.actives[fmt.Sprint(answer["access_token"])] = true
	_ = json.NewEncoder(w).Encode(answer)
}

// asked returns the forms of all token requests.
func (o *office) asked() []url.Values {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]url.Values(nil), o.forms...)
}

func (o *office) say(code string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refuse = code
}

// withCredential is the text of a configuration with one credential of a
// policy's, at the offices a and b.
func (s *stage) withCredential(a, b *office, credential, policy string) string {
	return fmt.Sprintf(`version: 1
server:
  grpc: {address: 127.0.0.1:0}
  status: {address: 127.0.0.1:0}
  admin: {address: 127.0.0.1:0, allow_simulation: true}
providers:
  shop: {issuer: %q}
  a: {token_url: %q, introspection_url: %q}
  b: {token_url: %q, introspection_url: %q}
callers:
  shop: {provider: shop, audiences: [%s]}
credentials:
  orders: {%s}
policies:
  default: {callers: [shop], credential: orders%s}
`, s.provider.Issuer(), a.URL+"/token", a.URL+"/introspect", b.URL+"/token", b.URL+"/introspect", audience, credential, policy)
}

const oneClient = "clients: [{provider: a, id: gateway, secret_file: secret}]"

// startWith runs a service with one credential.
func startWith(t *testing.T, a, b *office, credential, policy string, files map[string]string) *stage {
	t.Helper()
	s := &stage{
		provider: newFront(t), folder: t.TempDir(), log: newJournal(), events: make(chan tokens.Event, 10_000), ended: make(chan error, 1),
	}
	s.file = s.folder + "/rebearer.yaml"
	s.write(t, "secret", clientSecret)
	for name, text := range files {
		s.write(t, name, text)
	}
	s.write(t, "rebearer.yaml", s.withCredential(a, b, credential, policy))
	s.make(t)
	s.run(t)
	return s
}

// privateKey returns a key of P-256 in PEM.
func privateKey(t *testing.T) string {
	t.Helper()
	return string(newAuthority(t).issue(t).key)
}

// Each grant asks for what the configuration says, and the backend gets what came
// of it.
func TestGrants(t *testing.T) {
	t.Parallel()
	const exchange = "urn:ietf:params:oauth:grant-type:token-exchange"
	const bearer = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	tests := map[string]struct {
		credential string
		want       map[string]string // of the form; "<caller>" is the caller's token, and "*" any text
	}{
		"client credentials": {
			oneClient + ", scopes: [r, w], audience: here, resource: 'https://orders.example', params: {tenant: '7'}",
			map[string]string{
				"grant_type": "client_credentials", "scope": "r w", "audience": "here", "resource": "https://orders.example",
				"tenant": "7", "basic": "gateway",
			},
		},
		"token exchange": {
			oneClient + ", grant: token_exchange, token_exchange: {subject_token_type: jwt}",
			map[string]string{
				"grant_type": exchange, "subject_token": "<caller>", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "basic": "gateway",
			},
		},
		"the caller's assertion": {
			oneClient + ", grant: jwt_bearer",
			map[string]string{"grant_type": bearer, "assertion": "<caller>", "basic": "gateway"},
		},
		"our own assertion": {
			"clients: [{provider: a, auth_method: none}], grant: jwt_bearer, jwt_bearer: {issuer: us, key_file: key, claims: {tenant: '7'}}",
			map[string]string{"grant_type": bearer, "assertion": "*"},
		},
		"refresh token": {
			oneClient + ", grant: refresh_token, refresh_token: {file: first, state_file: state}",
			map[string]string{"grant_type": "refresh_token", "refresh_token": "r3fr3sh", "basic": "gateway"},
		},
		"a client that signs": {
			"clients: [{provider: a, id: gateway, auth_method: private_key_jwt, key_file: key}]",
			map[string]string{
				"grant_type": "client_credentials", "client_id": "gateway", "client_assertion": "*",
				"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
			},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := newOffice(t, "a"), newOffice(t, "b")
			s := startWith(t, a, b, tt.credential, "", map[string]string{"key": privateKey(t), "first": "r3fr3sh\n"})
			caller := s.provider.caller(t)
			if got := mustCheck(t, s.dial(t, nil), caller); got != "a-1" {
				t.Errorf("the backend gets %s", got)
			}
			got := map[string]string{}
			for key := range a.asked()[0] {
				got[key] = a.asked()[0].Get(key)
				if tt.want[key] == "*" && got[key] != "" {
					got[key] = "*"
				}
			}
			for key, value := range tt.want {
				tt.want[key] = strings.ReplaceAll(value, "<caller>", caller)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("token request (-want +got):\n%s", diff)
			}
		})
	}
}

// A key that cannot be used is said before anybody needs it, with its file.
func TestBadKeys(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ credential, want string }{
		"no key":        {"clients: [{provider: a, id: i, auth_method: private_key_jwt, key_file: secret}]", "secret holds no private key"},
		"another curve": {"clients: [{provider: a, id: i, auth_method: private_key_jwt, key_file: key, algorithm: RS256}]", "key holds a key that does not fit"},
		"our assertion": {
			"clients: [{provider: a, auth_method: none}], grant: jwt_bearer, jwt_bearer: {issuer: i, key_file: secret}", "secret holds no private key",
		},
		"no certificate of the key": {
			"clients: [{provider: a, id: i, auth_method: tls_client_auth, key_file: key, cert_file: certificate}]", "certificate and ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := newOffice(t, "a"), newOffice(t, "b")
			s := &stage{provider: newFront(t), folder: t.TempDir()}
			s.write(t, "secret", clientSecret)
			s.write(t, "key", privateKey(t))
			s.write(t, "certificate", string(newAuthority(t).issue(t).certificate))
			s.write(t, "rebearer.yaml", s.withCredential(a, b, tt.credential, ""))
			cfg, err := config.Load(s.folder + "/rebearer.yaml")
			if err != nil {
				t.Fatal(err)
			}
			err = Check(cfg)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "credentials.orders: clients[0]: ") {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// The second client gets the token where the first one's provider does not give
// it, and operators see which one is ill.
func TestFailover(t *testing.T) {
	t.Parallel()
	a, b := newOffice(t, "a"), newOffice(t, "b")
	a.say("invalid_client")
	s := startWith(t, a, b, "clients: [{provider: a, id: one, secret_file: secret}, {provider: b, id: two, secret_file: secret}]", "", nil)
	if got := mustCheck(t, s.dial(t, nil), s.provider.caller(t)); got != "b-1" {
		t.Errorf("the backend gets %s", got)
	}
	s.log.await("a provider refuses our client")
	list, err := admin.NewClient(s.Addresses().Admin.String(), "").List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	orders := list.Credentials[0]
	if c := orders.Clients[0]; c.ID != "one" || c.Breaker != "open" || !c.Refused || c.Failures != 1 || c.NextTry == nil || c.Error == "" {
		t.Errorf("the first client: %+v", c)
	}
	if c := orders.Clients[1]; c.ID != "two" || c.Breaker != "closed" || c.Refused || c.Error != "" || orders.Provider != "b" {
		t.Errorf("the second client: %+v of %+v", c, orders)
	}
	_, metrics := s.get(t, "/metrics")
	for _, want := range []string{
		`rebearer_client_breaker{client="one",credential="orders",provider="a",state="open"} 1`,
		`rebearer_client_refused{client="one",credential="orders",provider="a"} 1`,
		`rebearer_client_refused{client="two",credential="orders",provider="b"} 0`,
		`rebearer_client_requests_total{client="two",credential="orders",outcome="ok",provider="b"} 1`,
		`rebearer_token_requests_total{outcome="refused",provider="a"} 1`,
		`rebearer_provider_clock_skew_seconds{provider="b"}`,
		`rebearer_provider_keys_age_seconds{provider="shop"}`,
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
}

// A token that somebody else renews is used as soon as it is there.
func TestTokenFile(t *testing.T) {
	t.Parallel()
	a, b := newOffice(t, "a"), newOffice(t, "b")
	s := startWith(t, a, b, "token_file: static, header: {name: authorization}", "", map[string]string{"static": "first\n"})
	to, caller := s.dial(t, nil), s.provider.caller(t)
	if got := mustCheck(t, to, caller); got != "first" {
		t.Errorf("the backend gets %s", got)
	}
	s.write(t, "static", "second\n")
	s.log.await(taken)
	if got := mustCheck(t, to, caller); got != "second" {
		t.Errorf("after the change the backend gets %s", got)
	}
	if asked := a.asked(); len(asked) > 0 {
		t.Errorf("a provider was asked: %v", asked)
	}
}

// A file that holds no token is said before anybody needs it, and what is said of
// one that does is said of the token that backends get.
func TestCheckTokenFile(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ text, want string }{
		"usable":    {"key \n", ""},
		"two words": {"abc def", "something else than one token"},
		"too long":  {strings.Repeat("a", 1<<20), "more than a token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &stage{provider: newFront(t), folder: t.TempDir()}
			s.write(t, "static", tt.text)
			s.write(t, "rebearer.yaml", s.withCredential(newOffice(t, "a"), newOffice(t, "b"), "token_file: static", ""))
			cfg, err := config.Load(s.folder + "/rebearer.yaml")
			if err != nil {
				t.Fatal(err)
			}
			results, err := Connect(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			said, err := results[1], Check(cfg)
			if tt.want == "" {
				if err != nil || said.Err != nil || !strings.HasSuffix(said.Detail, "fingerprint "+string(tokens.FingerprintOf("key"))) {
					t.Errorf("got %v and %+v", err, said)
				}
				return
			}
			for _, err := range []error{err, said.Err} {
				if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), s.folder+"/static") {
					t.Errorf("got %v, want %q and the file", err, tt.want)
				}
			}
		})
	}
}

// A refresh token that could not be written outlives a reload, also one that
// changes how long it is good, and operators see that it is in danger.
func TestUnsavedRefreshToken(t *testing.T) {
	t.Parallel()
	a, b := newOffice(t, "a"), newOffice(t, "b")
	const credential = oneClient + ", grant: refresh_token, refresh_token: {file: first, state_file: state}"
	// What stands where the new state is to be written cannot be removed.
	s := startWith(t, a, b, credential, "", map[string]string{"first": "r3fr3sh\n", "state.new/in-the-way": ""})
	mustCheck(t, s.dial(t, nil), s.provider.caller(t))
	list, err := admin.NewClient(s.Addresses().Admin.String(), "").List(t.Context())
	if err != nil || list.Credentials[0].Unsaved == "" {
		t.Errorf("operators see %+v, %v", list, err)
	}
	if _, metrics := s.get(t, "/metrics"); !strings.Contains(metrics, `rebearer_refresh_token_unsaved{credential="orders"} 1`) {
		t.Error("the metrics do not show it")
	}
	s.write(t, "rebearer.yaml", s.withCredential(a, b, credential+", scopes: [more], expiry: {refresh_token: 1h}", ""))
	s.log.await(taken)
	if got := mustCheck(t, s.dial(t, nil), s.provider.caller(t)); got != "a-2" {
		t.Errorf("the backend gets %s", got)
	}
	if got := a.asked()[1].Get("refresh_token"); got != "refresh-1" {
		t.Errorf("after the reload the provider was shown %q", got)
	}
}

// On behalf of callers: a token for each, and a refused one is its caller's 401.
func TestOnBehalf(t *testing.T) {
	t.Parallel()
	a, b := newOffice(t, "a"), newOffice(t, "b")
	s := startWith(t, a, b, oneClient+", grant: token_exchange", "", nil)
	to, caller := s.dial(t, nil), s.provider.caller(t)
	if first, again := mustCheck(t, to, caller), mustCheck(t, to, caller); first != again {
		t.Errorf("the same caller got %s, then %s", first, again)
	}
	if first, other := mustCheck(t, to, caller), mustCheck(t, to, s.provider.caller(t)); first == other {
		t.Errorf("two callers got %s", first)
	}
	list, err := admin.NewClient(s.Addresses().Admin.String(), "").List(t.Context())
	if err != nil || list.Credentials[0].State != "on request" || list.Credentials[0].Subjects != 2 {
		t.Errorf("got %+v, %v", list, err)
	}
	s.becomes(t, "/readyz", http.StatusOK)
	a.say("invalid_grant")
	if got := denied(t, to, s.provider.caller(t)); got != 401 {
		t.Errorf("a subject token that is refused: status %d", got)
	}
}

// denied returns the status of a request that is denied.
func denied(t *testing.T, to grpc.ClientConnInterface, caller string) int {
	t.Helper()
	response, err := authv3.NewAuthorizationClient(to).Check(t.Context(), extauthztest.NewRequest(extauthztest.WithBearer(caller)))
	if err != nil {
		t.Fatal(err)
	}
	return int(response.GetDeniedResponse().GetStatus().GetCode())
}

// Every request of a policy that bypasses fetches, and the metrics show it.
func TestBypass(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ credential, policy string }{
		"by the credential": {oneClient + ", cache: bypass", ""},
		"by the policy":     {oneClient, ", cache: bypass"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := newOffice(t, "a"), newOffice(t, "b")
			s := startWith(t, a, b, tt.credential, tt.policy, nil)
			to, caller := s.dial(t, nil), s.provider.caller(t)
			if first, second := mustCheck(t, to, caller), mustCheck(t, to, caller); first == second {
				t.Errorf("both requests got %s", first)
			}
			if _, metrics := s.get(t, "/metrics"); !strings.Contains(metrics, `rebearer_cache_requests_total{cache="backend_tokens",result="bypass"} 2`) {
				t.Error("the metrics do not show two requests that bypassed the cache")
			}
		})
	}
}

// The hook is given what the configuration says about rejections.
func TestRejectionEvidence(t *testing.T) {
	t.Parallel()
	a, b := newOffice(t, "a"), newOffice(t, "b")
	s := startWith(t, a, b, "clients: [{provider: a, id: one, secret_file: secret}, {provider: b, id: two, secret_file: secret}], "+
		"rejection: {introspect: true, presets: [all], rules: [{name: mine, matches: gone, verdict: dead}]}", "", nil)
	token := mustCheck(t, s.dial(t, nil), s.provider.caller(t))
	target, ok := s.target("orders")
	if !ok || target.Rules == nil || target.Introspect == nil {
		t.Fatalf("got %+v", target)
	}
	for what, want := range map[string]bool{token: true, "another": false} {
		if active, err := target.Introspect(t.Context(), what); err != nil || active != want {
			t.Errorf("%s: got %t, %v", what, active, err)
		}
	}
	if _, metrics := s.get(t, "/metrics"); !strings.Contains(metrics, `rebearer_introspections_total{outcome="inactive",provider="b"} 1`) {
		t.Error("the metrics do not show what b was asked")
	}
	b.Close()
	if active, err := target.Introspect(t.Context(), token); err != nil || !active {
		t.Errorf("one that knows the token is enough: got %t, %v", active, err)
	}
	if active, err := target.Introspect(t.Context(), "another"); err == nil {
		t.Errorf("where one does not answer: got %t and no error", active)
	}
}

// A simulated dead token is given out, and the next rejection replaces it.
func TestSimulation(t *testing.T) {
	t.Parallel()
	a, b := newOffice(t, "a"), newOffice(t, "b")
	s := startWith(t, a, b, oneClient, "", nil)
	to, caller := s.dial(t, nil), s.provider.caller(t)
	before := mustCheck(t, to, caller)
	if _, err := admin.NewClient(s.Addresses().Admin.String(), "").Void(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	if after := mustCheck(t, to, caller); after == before || strings.HasPrefix(after, "a-") {
		t.Errorf("after the simulation the backend gets %s", after)
	}
}
