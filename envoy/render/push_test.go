package render

import (
	"crypto/ecdsa"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"google.golang.org/grpc"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/envoy/envoytest"
)

// issuer is a provider of callers' tokens.
type issuer struct {
	t    *testing.T
	name string
	key  *ecdsa.PrivateKey
	url  string // of its keys
}

func newIssuer(t *testing.T, name string) *issuer {
	t.Helper()
	i := &issuer{t: t, name: name, key: newKey(t)}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{
		Key: i.key.Public(), KeyID: name, Algorithm: string(jose.ES256), Use: "sig",
	}}})
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t, "tcp", "127.0.0.1:0")
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(keys) })}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	i.url = "http://" + l.Addr().String() + "/keys"
	return i
}

// token returns a good token with these claims changed; nil removes one.
func (i *issuer) token(change map[string]any) string {
	i.t.Helper()
	return i.tokenOf(nil, change)
}

// tokenOf is token with these fields in the header as well.
func (i *issuer) tokenOf(header map[jose.HeaderKey]any, change map[string]any) string {
	i.t.Helper()
	claims := map[string]any{
		"iss": "https://" + i.name, "aud": "orders", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix(),
	}
	for name, value := range change {
		claims[name] = value
		if value == nil {
			delete(claims, name)
		}
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: i.name}}, &jose.SignerOptions{ExtraHeaders: header})
	if err != nil {
		i.t.Fatal(err)
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return text
}

func (i *issuer) caller() Caller {
	return Caller{
		Name: i.name, Issuer: "https://" + i.name, Audiences: []string{"orders", "stock"}, JWKSURL: i.url, ClockSkew: 30 * time.Second,
	}
}

// eachPush runs a test on every Envoy that can, beside check routes of both shapes.
func eachPush(t *testing.T, test func(*testing.T, envoytest.Binary, Shape)) {
	eachWay(t, func(t *testing.T, b envoytest.Binary, w way) {
		switch w {
		case nested:
			if len(ways(t, b)) == 1 {
				t.Skip("this Envoy is too old for push")
			}
			test(t, b, Nested)
		case lean:
			test(t, b, Lean)
		case push:
		}
	})
}

// Envoy lets pass whom the check would let pass.
func TestPushCallers(t *testing.T) {
	eachPush(t, func(t *testing.T, b envoytest.Binary, shape Shape) {
		shop, club := newIssuer(t, "shop"), newIssuer(t, "club")
		s := &stub{}
		cfg := s.config(t)
		cfg.Shape = shape
		cfg.Callers = []Caller{shop.caller(), club.caller()}
		cfg.Callers[1].RequiredClaims, cfg.Callers[1].Algorithms = []string{"jti"}, []string{"ES256"}
		backend := cfg.Routes[0].Backend
		cfg.Routes = append(cfg.Routes[:1],
			Route{Policy: "plain", Backend: backend, Push: &Push{Credential: "test", Callers: []string{"shop"}}},
			Route{Policy: "both", Backend: backend, Push: &Push{Credential: "test", Callers: []string{"shop", "club"}}},
			Route{Policy: "club", Backend: backend, Push: &Push{Credential: "test", Callers: []string{"club"}}},
			Route{Policy: "scopes", Backend: backend, Push: &Push{Credential: "test", Callers: []string{"shop"}, Scopes: []string{"a.b", "c"}}},
			Route{Policy: "any", Backend: backend, Push: &Push{Credential: "test", Callers: []string{"shop"}, AnyScopes: []string{"a.b", "c"}}},
			Route{Policy: "claims", Backend: backend, Push: &Push{
				Credential: "test", Callers: []string{"shop"},
				Claims: map[string][]string{"group": {"x", "7", "true"}, "tenant": {"t"}},
			}},
			Route{Policy: "clients", Backend: backend, Push: &Push{Credential: "test", Callers: []string{"shop"}, Clients: []string{"app"}}},
			Route{Policy: "hosts", Backend: backend, Push: &Push{Credential: "test", Callers: []string{"shop"}, Hosts: []string{"a.test", "*.b.test"}}},
			Route{Policy: "header", Backend: backend, Push: &Push{Credential: "test", Callers: []string{"shop"}, TokenHeader: "x-token", TokenScheme: "Key"}},
			Route{Policy: "other", Backend: backend, Push: &Push{Credential: "test", Header: "x-api-token", Callers: []string{"shop"}}},
			Route{Policy: "open", Backend: backend, Push: &Push{Credential: "test"}},
		)
		r := s.startAs(t, b, push, cfg)
		bearer := func(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }
		claims := func(change map[string]any) http.Header { return bearer(shop.token(change)) }
		host := func(name string) http.Header {
			return http.Header{"Authorization": bearer(shop.token(nil))["Authorization"], "Host": {name}}
		}
		typ := func(kind any) http.Header { return bearer(shop.tokenOf(map[jose.HeaderKey]any{"typ": kind}, nil)) }
		forged := newIssuer(t, "shop")
		for _, c := range []struct {
			policy string
			header http.Header
			want   int
		}{
			{"plain", claims(nil), 200},
			{"plain", nil, 401},
			{"plain", http.Header{"Authorization": {"bearer " + shop.token(nil)}}, 200},
			{"plain", bearer("x"), 401},
			{"plain", bearer(forged.token(nil)), 401},
			{"plain", bearer(club.token(nil)), 401},
			{"plain", claims(map[string]any{"aud": "other"}), 403}, // Envoy's word for it
			{"plain", claims(map[string]any{"cnf": map[string]any{"jkt": "x"}}), 403},
			{"plain", claims(map[string]any{"cnf": map[string]any{"x5t#S256": "x"}}), 403},
			{"plain", claims(map[string]any{"sub": nil}), 403},
			{"plain", claims(map[string]any{"sub": ""}), 403},
			{"plain", claims(map[string]any{"sub": nil, "client_id": "app"}), 200},
			{"plain", claims(map[string]any{"sub": nil, "azp": "app"}), 200},

			{"plain", claims(map[string]any{"aud": []string{"other", "stock"}}), 200},
			{"plain", claims(map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}), 401},
			{"plain", claims(map[string]any{"exp": time.Now().Add(-10 * time.Second).Unix()}), 200},
			{"plain", claims(map[string]any{"exp": nil}), 401},
			{"plain", http.Header{"Authorization": {"Basic eDp5"}}, 401},
			{"plain?access_token=" + shop.token(nil), nil, 401},
			{"plain", typ("at+jwt"), 200},
			{"plain", typ("application/AT+JWT"), 200},
			{"plain", typ("JWT"), 200},
			{"plain", typ("logout+jwt"), 403},
			{"plain", typ(""), 403},
			{"plain", typ(1), 403},
			{"plain", bearer(shop.tokenOf(map[jose.HeaderKey]any{"zip": "DEF"}, nil)), 403},
			{"plain", bearer(shop.tokenOf(map[jose.HeaderKey]any{"crit": []string{"x"}, "x": 1}, nil)), 403},
			{"plain", claims(map[string]any{"typ": "Bearer", "token_use": "access"}), 200},
			{"plain", claims(map[string]any{"typ": "ID"}), 403},
			{"plain", claims(map[string]any{"typ": "Refresh"}), 403},
			{"plain", claims(map[string]any{"typ": "Bearer", "token_use": "id"}), 403},
			{"both", claims(map[string]any{"typ": "ID"}), 403},
			{"both", claims(nil), 200},
			{"both", bearer(club.token(map[string]any{"jti": "1"})), 200},
			{"both", bearer(club.token(nil)), 403},
			{"club", bearer(club.token(map[string]any{"jti": "1"})), 200},
			{"scopes", claims(map[string]any{"scope": "c x a.b"}), 200},
			{"scopes", claims(map[string]any{"scope": []string{"c", "a.b"}}), 200},
			{"scopes", claims(map[string]any{"scp": "c a.b"}), 200},
			{"scopes", claims(map[string]any{"scp": []string{"c", "a.b"}}), 200},
			{"scopes", claims(map[string]any{"scope": "c", "scp": "c a.b"}), 403},
			{"scopes", claims(map[string]any{"scope": "c aXb"}), 403},
			{"scopes", claims(map[string]any{"scope": "cc a.b"}), 403},
			{"scopes", claims(nil), 403},
			{"any", claims(map[string]any{"scope": "c"}), 200},
			{"any", claims(map[string]any{"scope": "d"}), 403},
			{"claims", claims(map[string]any{"tenant": "t", "group": "x"}), 200},
			{"claims", claims(map[string]any{"tenant": "t", "group": []any{"y", "x"}}), 200},
			{"claims", claims(map[string]any{"tenant": "t", "group": 7}), 200},
			{"claims", claims(map[string]any{"tenant": "t", "group": true}), 200},
			{"claims", claims(map[string]any{"tenant": "t", "group": "y"}), 403},
			{"claims", claims(map[string]any{"group": "x"}), 403},
			{"clients", claims(map[string]any{"client_id": "app"}), 200},
			{"clients", claims(map[string]any{"azp": "app"}), 200},
			{"clients", claims(map[string]any{"client_id": "b", "azp": "app"}), 403},
			{"hosts", host("a.test"), 200},
			{"hosts", host("A.test:81"), 200},
			{"hosts", host("x.y.b.test"), 200},
			{"hosts", host("b.test"), 403},
			{"hosts", host("a.test.evil"), 403},
			{"header", http.Header{"X-Token": {"Key " + shop.token(nil)}}, 200},
			{"header", claims(nil), 401},
			{"other", claims(nil), 200},
			{"open", nil, 200},
			{"open", bearer("anything"), 200},
		} {
			name, sc := r.script(t, &scenario{backend: func(http.ResponseWriter, *http.Request) {}})
			policy, query, _ := strings.Cut(c.policy, "?")
			a := send(t, r.client, http.MethodGet, r.url+"/"+policy+"/"+name+"?"+query, nil, c.header)
			if a.status != c.want {
				t.Errorf("%s, %v: got %d %q, want %d", c.policy, c.header, a.status, a.body, c.want)
			}
			if c.want != http.StatusOK {
				r.wantCounts(t, sc, 0, 0, 0)
				continue
			}
			wantPushed(t, sc, policy)
		}
		r.way = way(shape)
		r.wantWorking(t) // the policy that is checked
	})
}

// wantPushed expects that the backend saw our token and none of the caller's.
func wantPushed(t *testing.T, sc *scenario, policy string) {
	t.Helper()
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if len(sc.tries) != 1 || len(sc.checks) != 0 {
		t.Fatalf("%s: %d tries, %d checks", policy, len(sc.tries), len(sc.checks))
	}
	got := sc.tries[0].header
	header := http.Header{"Authorization": {"Bearer t1"}}
	if policy == "other" {
		header = http.Header{"X-Api-Token": {"Bearer t1"}}
	}
	for _, name := range []string{"Authorization", "X-Api-Token", "X-Token"} {
		if strings.Join(got.Values(name), "|") != strings.Join(header.Values(name), "|") {
			t.Errorf("%s: the backend got %s: %q", policy, name, got.Values(name))
		}
	}
}

// The hook is told which caller it was, and nothing that was not forwarded.
func TestPushTellsCaller(t *testing.T) {
	eachPush(t, func(t *testing.T, b envoytest.Binary, shape Shape) {
		shop := newIssuer(t, "shop")
		s := &stub{}
		cfg := s.config(t)
		cfg.Shape, cfg.Callers = shape, []Caller{shop.caller()}
		cfg.Routes[0].Push = &Push{Credential: "test", Callers: []string{"shop"}}
		r := s.startAs(t, b, push, cfg)
		name, sc := r.script(t, &scenario{})
		a := send(t, r.client, http.MethodGet, r.url+"/"+name, nil, http.Header{"Authorization": {"Bearer " + shop.token(nil)}})
		if a.status != http.StatusOK || len(sc.observed) != 2 {
			t.Fatalf("got %d, observed %d", a.status, len(sc.observed))
		}
		if got := sc.observed[0].caller; got != "https://shop alice" {
			t.Errorf("the hook was told of the caller %q", got)
		}
	})
}

// awaitSecret sends requests until Envoy has a token to send.
func (r *rig) awaitSecret(t *testing.T) {
	t.Helper()
	for {
		name, _ := r.script(t, &scenario{})
		a := r.get(t, "/"+name)
		if a.status == http.StatusOK {
			return
		}
		wantMissing(t, a)
	}
}

func wantMissing(t *testing.T, a answer) {
	t.Helper()
	if a.status != http.StatusServiceUnavailable || a.body != missingProblem || a.header.Get("Retry-After") != "0" ||
		a.header.Get("Content-Type") != "application/problem+json" || a.header.Get("WWW-Authenticate") != "" {
		t.Fatalf("got %d %v %q", a.status, a.header, a.body)
	}
}

// While Envoy has no token the caller gets 503, and the backend nothing. A
// caller's own mistake stays a 401.
func TestPushWithoutSecret(t *testing.T) {
	eachPush(t, func(t *testing.T, b envoytest.Binary, shape Shape) {
		shop := newIssuer(t, "shop")
		s := &stub{}
		release := s.secrets.withhold()
		defer release()
		cfg := s.config(t)
		cfg.Shape, cfg.Callers = shape, []Caller{shop.caller()}
		cfg.Routes = append(cfg.Routes[:1], Route{Policy: "asks", Backend: cfg.Routes[0].Backend, Push: &Push{Credential: "b", Callers: []string{"shop"}}})
		cfg.Routes[0].Push = &Push{Credential: "a"}
		r := s.startAs(t, b, push, cfg)
		name, sc := r.script(t, &scenario{})
		for _, c := range []*http.Client{http1(), http2Client()} {
			wantMissing(t, send(t, c, http.MethodGet, r.url+"/"+name, nil, nil))
			wantMissing(t, send(t, c, http.MethodPost, r.url+"/"+name, make([]byte, 100_000), nil))
		}
		if a := r.get(t, "/asks/"+name); a.status != http.StatusUnauthorized || a.header.Get("WWW-Authenticate") == "" {
			t.Errorf("without a token: got %d %v", a.status, a.header)
		}
		r.wantCounts(t, sc, 0, 0, 0)
		release()
		r.awaitSecret(t)
		s.secrets.mu.Lock()
		defer s.secrets.mu.Unlock()
		for _, credential := range []string{"a", "b"} {
			if !strings.Contains(strings.Join(s.secrets.asked, " "), envoy.SecretName(credential)) {
				t.Errorf("Envoy asked for %q", s.secrets.asked)
			}
		}
	})
}

// With rebearer gone, traffic goes on; a rejection reaches the caller.
func TestPushServiceGone(t *testing.T) {
	eachPush(t, func(t *testing.T, b envoytest.Binary, shape Shape) {
		s := &stub{}
		cfg := s.config(t)
		service := listen(t, "tcp", "127.0.0.1:0")
		server := grpc.NewServer()
		s.register(server)
		go func() { _ = server.Serve(service) }()
		t.Cleanup(server.Stop)
		cfg.Shape, cfg.Service.Endpoints = shape, []string{service.Addr().String()}
		for i := range cfg.Routes {
			cfg.Routes[i].Push = &Push{Credential: "test"}
		}
		r := s.startAs(t, b, push, cfg)
		r.awaitSecret(t)
		server.Stop()
		name, sc := r.script(t, &scenario{backend: func(http.ResponseWriter, *http.Request) {}})
		for range 20 {
			if a := r.get(t, "/"+name); a.status != http.StatusOK {
				t.Errorf("got %d", a.status)
			}
		}
		r.wantCounts(t, sc, 20, 0, 20)
		name, _ = r.script(t, &scenario{})
		wantRefused(t, r.get(t, "/"+name))
	})
}
