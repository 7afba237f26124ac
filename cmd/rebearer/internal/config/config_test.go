package config

import (
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseFull(t *testing.T) {
	t.Parallel()
	reads := []string{"GET", "HEAD", "OPTIONS"}
	bearer := Header{Name: "authorization", Scheme: "Bearer"}
	expiry := Expiry{
		Default: 5 * time.Minute, Max: 30 * time.Minute, Margin: 30 * time.Second, Least: 5 * time.Second, RefreshToken: 12 * time.Hour,
	}
	rejection := Rejection{Action: ActionRetry, Statuses: []int{401, 403}, CoolDown: 20 * time.Second}
	exchanger := []Client{{Provider: "shop", ClientIdentity: ClientIdentity{
		ID: "exchanger", AuthMethod: ClientSecretJWT, SecretFile: "testdata/secrets/exchanger", Algorithm: "HS512",
	}}}
	want := &Config{
		Version: 1,
		Server: Server{
			GRPC: GRPC{
				Address: "0.0.0.0:9001",
				TLS: &ServerTLS{
					CertFile:     "testdata/tls/server.pem",
					KeyFile:      "testdata/tls/server.key",
					ClientCAFile: "testdata/tls/clients.pem",
				},
				Peers: []string{"envoy.mesh.example", "spiffe://mesh.example/ns/gateway/sa/envoy"},
			},
			Status: Status{Address: ":9003"},
			Admin:  Admin{Address: "127.0.0.1:9002", TokenFile: "testdata/secrets/admin", AllowSimulation: true},
		},
		Cache: Memory{MaxBytes: 1 << 30},
		Providers: map[string]Provider{
			"shop": {
				Issuer:           "https://idp.example/realms/shop",
				JWKSURL:          "https://idp.example/jwks",
				TokenURL:         "https://idp.example/token",
				IntrospectionURL: "https://idp.example/introspect",
				RevocationURL:    "https://idp.example/revoke",
				CAFile:           "/etc/pki/corp.pem",
				Timeout:          3 * time.Second,
			},
			"lab": {
				TokenURL:         "http://idp.lab.example:8080/token?tenant=7",
				IntrospectionURL: "http://idp.lab.example:8080/introspect",
				Timeout:          5 * time.Second,
				Insecure:         true,
			},
		},
		Callers: map[string]Caller{
			"shop": {
				Provider:       "shop",
				Audiences:      []string{"api://orders"},
				Tokens:         TokensJWT,
				ClockSkew:      10 * time.Second,
				Algorithms:     []string{"RS256", "ES256", "EdDSA"},
				RequiredClaims: []string{"sub"},
				Introspection:  Introspection{TTL: 30 * time.Second, InactiveTTL: 5 * time.Second, Rate: 50},
			},
			"legacy": {
				Provider:   "shop",
				Tokens:     TokensOpaque,
				ClockSkew:  30 * time.Second,
				Algorithms: asymmetricAlgorithms(),
				Client: &ClientIdentity{
					ID: "gw", SecretFile: "testdata/secrets/introspection", AuthMethod: ClientSecretPost,
				},
				Introspection: Introspection{TTL: time.Minute, InactiveTTL: 10 * time.Second, Rate: 200},
			},
			"revocable": {
				Provider:   "shop",
				Audiences:  []string{"api://orders"},
				Tokens:     TokensJWTThenIntrospect,
				ClockSkew:  30 * time.Second,
				Algorithms: asymmetricAlgorithms(),
				Client: &ClientIdentity{
					ID: "gw", SecretFile: "testdata/secrets/introspection", AuthMethod: ClientSecretBasic,
				},
				Introspection: Introspection{TTL: 30 * time.Second, InactiveTTL: 5 * time.Second, Rate: 50},
			},
		},
		Credentials: map[string]Credential{
			"orders": {
				Clients: []Client{
					{Provider: "shop", ClientIdentity: ClientIdentity{
						ID: "gateway", AuthMethod: ClientSecretPost, SecretFile: "testdata/secrets/orders",
					}},
					{Provider: "lab", ClientIdentity: ClientIdentity{
						ID: "gateway", AuthMethod: PrivateKeyJWT, KeyFile: "testdata/keys/orders.jwk", KeyID: "orders-1", Algorithm: "ES256",
						AssertionAudience: "https://idp.lab.example",
					}},
					{Provider: "lab", ClientIdentity: ClientIdentity{
						ID: "gateway-2", AuthMethod: TLSClientAuth, CertFile: "testdata/tls/orders.pem", KeyFile: "testdata/tls/orders.key",
					}},
				},
				Grant:    GrantClientCredentials,
				Scopes:   []string{"orders.read", "orders.write"},
				Audience: "https://orders.example",
				Resource: "https://orders.example/v1",
				Params:   map[string]string{"tenant": "7"},
				Header:   Header{Name: "x-orders-token"},
				Expiry: Expiry{
					Default: 2 * time.Minute, Max: time.Hour, Least: time.Second, RefreshToken: time.Hour,
				},
				Cache: CacheCached,
				Rejection: Rejection{
					Action: ActionEvict, Statuses: []int{401}, Methods: reads, CoolDown: 30 * time.Second, Presets: []string{"wso2", "vault"},
					Rules: []Rule{
						{
							Name: "expired", Statuses: []int{401}, ContentTypes: []string{"application/problem+json"}, Pointer: "/error/code",
							Matches: "^(E17|E18)$", Verdict: VerdictDead,
						},
						{Name: "forbidden", ContentTypes: []string{"application/json"}, Matches: "no access", Verdict: VerdictNotAllowed},
					},
					Introspect: true,
				},
			},
			"stock": {
				Clients: []Client{{Provider: "lab", ClientIdentity: ClientIdentity{
					ID: "1234", SecretFile: "/run/secrets/stock", AuthMethod: ClientSecretBasic,
				}}},
				Grant:  GrantClientCredentials,
				Header: Header{Name: "authorization", Scheme: "Bearer"},
				Expiry: expiry,
				Cache:  CacheBypass,
				Rejection: Rejection{
					Action: ActionRetry, Statuses: []int{401, 403}, Methods: reads, CoolDown: 20 * time.Second,
				},
			},
			"delegated": {
				Clients: exchanger,
				Grant:   GrantTokenExchange, TokenExchange: &TokenExchange{SubjectTokenType: "jwt", RequestedTokenType: "urn:example:token-type:x"},
				Header: bearer, Expiry: expiry, Cache: CacheCached, Rejection: rejection,
			},
			"signed": {
				Clients: []Client{{Provider: "lab", ClientIdentity: ClientIdentity{AuthMethod: NoClientAuth}}},
				Grant:   GrantJWTBearer,
				JWTBearer: &JWTBearer{
					Issuer: "gateway@example", Subject: "robot", Audience: "https://idp.lab.example/token", KeyFile: "testdata/keys/signed.pem",
					KeyID: "1", Algorithm: "RS256", Claims: map[string]string{"tenant": "7"}, Lifetime: time.Minute,
				},
				Header: bearer, Expiry: expiry, Cache: CacheCached, Rejection: rejection,
			},
			"refreshed": {
				Clients: exchanger,
				Grant:   GrantRefreshToken, RefreshToken: &RefreshToken{File: "testdata/secrets/first", StateFile: "/var/lib/rebearer/refreshed"},
				Header: bearer, Expiry: expiry, Cache: CacheCached, Rejection: rejection,
			},
			"static": {
				TokenFile: "testdata/secrets/static", Grant: GrantClientCredentials,
				Header: Header{Name: "x-api-key"}, Expiry: expiry, Cache: CacheCached, Rejection: rejection,
			},
		},
		Policies: map[string]Policy{
			"default": {
				Callers:    []string{"shop", "revocable"},
				TokenFrom:  &TokenFrom{Header: "x-caller-token", Scheme: "Token"},
				Hosts:      []string{"orders.example", "*.orders.example"},
				Preflight:  PreflightAllow,
				Cache:      CacheBypass,
				Delivery:   DeliveryCheck,
				Scopes:     []string{"orders.read"},
				AnyScopes:  []string{"orders.write", "orders.admin"},
				Claims:     map[string][]string{"tenant": {"acme", "umbrella"}, "email_verified": {"true"}},
				Clients:    []string{"web", "app"},
				Credential: "orders",
				Forward: Forward{
					Subject: "x-caller-subject", Client: "x-caller-client", Scopes: "x-caller-scopes",
					Claims: map[string]string{"tenant": "x-caller-tenant"}, Token: "authorization",
				},
			},
			"stock": {
				Callers: []string{"legacy"}, TokenFrom: &TokenFrom{Cookie: "session"}, Preflight: PreflightDeny, Credential: "stock",
				Cache: CacheCached, Delivery: DeliveryCheck,
			},
			"public":    {Anonymous: true, Preflight: PreflightDeny, Credential: "stock", Cache: CacheCached, Delivery: DeliveryCheck},
			"pushed":    {Callers: []string{"shop"}, Preflight: PreflightDeny, Credential: "signed", Cache: CacheCached, Delivery: DeliveryPush},
			"delegated": {Callers: []string{"shop"}, Preflight: PreflightDeny, Credential: "delegated", Cache: CacheCached, Delivery: DeliveryCheck},
			"refreshed": {Callers: []string{"shop"}, Preflight: PreflightDeny, Credential: "refreshed", Cache: CacheCached, Delivery: DeliveryCheck},
			"static":    {Callers: []string{"shop"}, Preflight: PreflightDeny, Credential: "static", Cache: CacheCached, Delivery: DeliveryPush},
		},
		Envoy: Envoy{
			Shape:      ShapeLean,
			Version:    "1.37",
			MaxRetries: 5000,
			Retries:    Retries{Conditions: "5xx,reset", Attempts: 2, PerTryTimeout: 3 * time.Second, Hedge: true},
			Istio: &Istio{
				Namespace: "gateways", Selector: map[string]string{"istio": "ingress"}, Hosts: []string{"orders.example"},
				Routes: []IstioRoute{
					{Name: "orders", Policy: "default", Protocol: ProtocolHTTP1},
					{Name: "pushed", Policy: "pushed", Service: "stock.shop.svc.cluster.local:80", Protocol: ProtocolHTTP2},
				},
			},
			EnvoyGateway: &EnvoyGateway{
				Namespace: "gateways", Gateway: "edge", Listeners: []string{"https"},
				Routes: []GatewayRoute{
					{Kind: GRPCRoute, Namespace: "shop", Name: "orders", Policy: "default", Rules: 2, Protocol: ProtocolHTTP2},
				},
			},
			Addresses: []Address{"rebearer-0.example:9001", "rebearer-1.example:9001"},
			TLS: &EnvoyTLS{
				CAFile:     "/etc/envoy/ca.pem",
				CertFile:   "/etc/envoy/envoy.pem",
				KeyFile:    "/etc/envoy/envoy.key",
				ServerName: "rebearer.example",
			},
			IdleTimeout:            time.Minute,
			MaxBodyBytes:           65536,
			HeadersWithUnderscores: UnderscoresReject,
			EscapedSlashes:         SlashesUnescape,
			TrustedHops:            1,
			AccessLog:              true,
		},
	}
	got, err := Parse(readTestFile(t, "testdata/full.yaml"), "testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	ignore := cmp.Options{cmpopts.IgnoreUnexported(Config{}), cmpopts.IgnoreFields(Config{}, "Defaults")}
	if diff := cmp.Diff(want, got, ignore); diff != "" {
		t.Errorf("Parse(full.yaml): (-want +got)\n%s", diff)
	}
	wantFiles := []string{
		"/etc/pki/corp.pem", "/run/secrets/stock", "testdata/keys/orders.jwk", "testdata/keys/signed.pem",
		"testdata/secrets/admin", "testdata/secrets/exchanger", "testdata/secrets/first",
		"testdata/secrets/introspection", "testdata/secrets/orders", "testdata/secrets/static",
		"testdata/tls/clients.pem", "testdata/tls/orders.key", "testdata/tls/orders.pem",
		"testdata/tls/server.key", "testdata/tls/server.pem",
	}
	if diff := cmp.Diff(wantFiles, got.Files()); diff != "" {
		t.Errorf("Files(): (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{"email_verified", "tenant"}, got.CallerClaims("revocable")); diff != "" {
		t.Errorf("CallerClaims(): (-want +got)\n%s", diff)
	}
	if names := got.CallerClaims("legacy"); len(names) != 0 {
		t.Errorf("CallerClaims() of tokens that nobody looks at: %q", names)
	}
	wantHeaders := []string{"accept", "access-control-request-method", "content-type", "cookie", "origin", "x-caller-token"}
	if diff := cmp.Diff(wantHeaders, got.CheckHeaders()); diff != "" {
		t.Errorf("CheckHeaders(): (-want +got)\n%s", diff)
	}
	addresses, err := got.EnvoyAddresses()
	if err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(want.Envoy.Addresses, addresses); diff != "" {
		t.Errorf("EnvoyAddresses(): (-want +got)\n%s", diff)
	}
}

func TestParseDefaults(t *testing.T) {
	t.Parallel()
	got := mustParse(t, "version: 1\n")
	want := &Config{
		Version: 1,
		Server: Server{
			GRPC:   GRPC{Address: "127.0.0.1:9001"},
			Status: Status{Address: "127.0.0.1:9003"},
			Admin:  Admin{Address: "127.0.0.1:9002"},
		},
		Cache:    Memory{MaxBytes: 256 << 20},
		Defaults: Defaults{Credential: defaultCredential()},
		Envoy: Envoy{
			Shape:                  ShapeNested,
			MaxRetries:             10_000,
			Retries:                Retries{Attempts: 1},
			RouteTimeout:           15 * time.Second,
			IdleTimeout:            5 * time.Minute,
			MaxBodyBytes:           1048576,
			HeadersWithUnderscores: UnderscoresDrop,
			EscapedSlashes:         SlashesReject,
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Config{})); diff != "" {
		t.Errorf("defaults: (-want +got)\n%s", diff)
	}
	addresses, err := got.EnvoyAddresses()
	if diff := cmp.Diff([]Address{"127.0.0.1:9001"}, addresses); diff != "" || err != nil {
		t.Errorf("EnvoyAddresses(): %v (-want +got)\n%s", err, diff)
	}
}

// TestParseAccepts holds what looks like a mistake and is none.
func TestParseAccepts(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"byte order mark":     "\ufeffversion: 1\n",
		"windows line ends":   "version: 1\r\nserver:\r\n  grpc: {address: \"127.0.0.1:7001\"}\r\n",
		"document marks":      "---\nversion: 1\n---\n",
		"flow form":           `{version: 1, server: {status: {address: "[::1]:9003"}}}`,
		"JSON":                `{"version": 1, "server": {"grpc": {"address": "unix:///run/rebearer.sock"}}}`,
		"off loopback":        "version: 1\nserver: {grpc: {address: \":9001\", insecure: true}}\n",
		"server TLS only":     "version: 1\nserver: {grpc: {address: \":9001\", insecure: true, tls: {cert_file: a, key_file: b}}}\n",
		"mTLS on loopback":    "version: 1\nserver: {grpc: {tls: {cert_file: a, key_file: b, client_ca_file: c}, peers: [x]}}\n",
		"quoted keys":         "\"version\": 1\nproviders: {\"on\": {issuer: \"https://idp.example\"}}\n",
		"http on loopback":    "version: 1\nproviders: {a: {issuer: \"http://localhost:1/\"}, b: {issuer: \"http://[::1]:1\"}, c: {issuer: \"http://127.9.9.9\"}}\n",
		"token URL only":      "version: 1\nproviders: {a: {token_url: \"https://idp.example/token\"}}\n",
		"merge of two":        "version: 1\nx-a: &a {timeout: 1s}\nx-b: &b {timeout: 2s, insecure: true}\nproviders: {p: {issuer: \"https://idp.example\", <<: [*a, *b]}}\n",
		"anything under x-":   "version: 1\nx-any: [yes, 012, {y: }, ~]\n",
		"duration from zero":  "version: 1\ndefaults: {credential: {expiry: {margin: 0s}}}\n",
		"alias of a scalar":   "version: 1\nx-t: &t 7s\nproviders: {p: {issuer: \"https://idp.example\", timeout: *t}}\n",
		"quoted duration":     "version: 1\nproviders: {p: {issuer: \"https://idp.example\", timeout: \"7s\"}}\n",
		"folded text":         "version: 1\nproviders:\n  p:\n    issuer: >-\n      https://idp.example\n",
		"text like a version": "version: 1\nproviders: {v1.2: {issuer: \"https://idp.example\"}}\n",
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mustParse(t, text)
		})
	}
}

// TestMergePrecedence: the entry wins over the merged, the first over the
// second, and a credential's own over the defaults.
func TestMergePrecedence(t *testing.T) {
	t.Parallel()
	cfg := mustParse(t, `
version: 1
x-a: &a {timeout: 1s}
x-b: &b {timeout: 2s, insecure: true}
providers:
  own: {<<: *b, issuer: "https://idp.example", timeout: 3s}
  first: {<<: [*a, *b], issuer: "https://idp.example"}
defaults:
  credential:
    clients: [{provider: own, id: shared, secret_file: shared}]
    scopes: [a, b]
    params: {v: "1", w: "2"}
    header: {name: x-token}
credentials:
  plain: {}
  other:
    scopes: []
    params: {u: "3"}
    header: {scheme: Token}
`)
	if got := cfg.Providers["own"]; got.Timeout != 3*time.Second || !got.Insecure {
		t.Errorf("own = %+v, want its own timeout 3s and the merged insecure", got)
	}
	if got := cfg.Providers["first"]; got.Timeout != time.Second || !got.Insecure {
		t.Errorf("first = %+v, want the first timeout 1s and the second's insecure", got)
	}
	plain, other := cfg.Credentials["plain"], cfg.Credentials["other"]
	if diff := cmp.Diff(cfg.Defaults.Credential, plain); diff != "" {
		t.Errorf("a credential that says nothing: (-defaults +got)\n%s", diff)
	}
	want := plain
	want.Scopes = []string{}
	want.Params = map[string]string{"u": "3"}
	want.Header = Header{Name: "x-token", Scheme: "Token"}
	if diff := cmp.Diff(want, other); diff != "" {
		t.Errorf("a credential of its own: (-want +got)\n%s", diff)
	}
}

func TestAddress(t *testing.T) {
	t.Parallel()
	tests := []struct {
		address  Address
		network  string
		rest     string
		loopback bool
		every    bool
	}{
		{"127.0.0.1:9001", "tcp", "127.0.0.1:9001", true, false},
		{"127.8.8.8:1", "tcp", "127.8.8.8:1", true, false},
		{"[::1]:9001", "tcp", "[::1]:9001", true, false},
		{"[::ffff:127.0.0.1]:1", "tcp", "[::ffff:127.0.0.1]:1", true, false},
		{"localhost:9001", "tcp", "localhost:9001", true, false},
		{"unix:///run/r.sock", "unix", "/run/r.sock", true, false},
		{":9001", "tcp", ":9001", false, true},
		{"0.0.0.0:9001", "tcp", "0.0.0.0:9001", false, true},
		{"[::]:9001", "tcp", "[::]:9001", false, true},
		{"10.0.0.1:9001", "tcp", "10.0.0.1:9001", false, false},
		{"localhost.example:9001", "tcp", "localhost.example:9001", false, false},
		{"127.0.0.1.example:1", "tcp", "127.0.0.1.example:1", false, false},
		{"nonsense", "tcp", "nonsense", false, false},
	}
	for _, tt := range tests {
		network, rest := tt.address.Network()
		if network != tt.network || rest != tt.rest {
			t.Errorf("%q.Network() = %q, %q, want %q, %q", tt.address, network, rest, tt.network, tt.rest)
		}
		if got := tt.address.Loopback(); got != tt.loopback {
			t.Errorf("%q.Loopback() = %v", tt.address, got)
		}
		if got := tt.address.everyInterface(); got != tt.every {
			t.Errorf("%q.everyInterface() = %v", tt.address, got)
		}
	}
}

func TestEnvoyAddressesRefuses(t *testing.T) {
	t.Parallel()
	const mutual = "tls: {cert_file: a, key_file: b, client_ca_file: c}, peers: [x]"
	tests := map[string]struct{ text, want string }{
		"every interface": {
			"server: {grpc: {address: \":9001\", insecure: true}}",
			"envoy.addresses: server.grpc.address is :9001, which Envoy cannot call: say where it reaches rebearer",
		},
		"TLS on the server only": {
			"server: {grpc: {" + mutual + "}}",
			"envoy.tls: server.grpc has tls, so Envoy needs it too",
		},
		"TLS on Envoy only": {
			"envoy: {tls: {ca_file: a, server_name: b}}",
			"envoy.tls: server.grpc has no tls, so Envoy would not be understood",
		},
		"no client certificate": {
			"server: {grpc: {" + mutual + "}}\nenvoy: {tls: {ca_file: a, server_name: b}}",
			"envoy.tls: server.grpc asks peers for a certificate, so Envoy needs cert_file and key_file",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := mustParse(t, "version: 1\n"+tt.text+"\n").EnvoyAddresses()
			if got := errorText(err); got != tt.want {
				t.Errorf("got %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		text string
		want []string
	}{
		"nothing declared": {"", []string{"policies: there are none, so every request is refused"}},
		"insecure": {
			text: `
server: {grpc: {address: ":9001", insecure: true}}
providers:
  lab: {issuer: "http://idp.example", insecure: true}
  safe: {issuer: "https://idp.example", insecure: true}
`,
			want: []string{
				"server.grpc.insecure: whoever reaches :9001 can be given a backend token",
				"providers.lab.insecure: secrets and tokens travel over http:// where others can read them",
				"providers.safe.insecure: is not needed: remove it",
				"providers.lab: no caller and no credential uses it",
				"providers.safe: no caller and no credential uses it",
				"policies: there are none, so every request is refused",
			},
		},
		"insecure without need": {
			text: "server: {grpc: {insecure: true}}\n",
			want: []string{
				"server.grpc.insecure: is not needed: remove it",
				"policies: there are none, so every request is refused",
			},
		},
		"lifetimes and costs": {
			text: `
server: {admin: {allow_simulation: true}}
providers: {a: {issuer: "https://a.example"}}
callers: {x: {provider: a, audiences: [q]}}
x-c: &c {clients: [{provider: a, id: i, secret_file: s}]}
credentials:
  m: {<<: *c, cache: bypass, expiry: {max: 24h}}
  long: {<<: *c, expiry: {default: 40s, max: 24h}, rejection: {introspect: true}}
  o: {clients: [{provider: a, id: i, secret_file: s}, {provider: a, id: j, secret_file: s}]}
policies:
  default: {callers: [x], credential: m, cache: bypass}
  long: {callers: [x], credential: long, cache: bypass}
  o: {callers: [x], credential: o}
`,
			want: []string{
				"server.admin.allow_simulation: operators can void backend tokens: not for production",
				"credentials.long.expiry.margin: is cut to half of a lifetime: tokens whose provider states none are renewed after 20s",
				"credentials.m.cache: bypass asks the provider for a token for every request: 100 requests a second are 100 token requests a second",
				"credentials.m.expiry.max: a token that leaks is good for up to 24h0m0s, and that it was voided shows only in rejections",
				"credentials.o.clients: all are at the provider a: they do not help when it is down",
				"policies.long.cache: bypass asks the provider for a token for every request: 100 requests a second are 100 token requests a second",
			},
		},
		"push without proof": {
			text: `
server: {grpc: {insecure: true}}
credentials: {m: {token_file: t}}
policies: {default: {anonymous: true, credential: m, delivery: push}}
`,
			want: []string{
				"server.grpc.insecure: whoever reaches 127.0.0.1:9001 is given backend tokens, since policies say delivery: push",
			},
		},
		"unused, no default": {
			text: `
providers: {a: {issuer: "https://a.example"}, b: {issuer: "https://b.example"}}
callers: {x: {provider: a, audiences: [q]}, z: {provider: a, audiences: [q]}}
credentials:
  m: {clients: [{provider: a, id: i, secret_file: s}]}
  o: {clients: [{provider: a, id: i, secret_file: s}]}
policies: {p: {callers: [x], credential: m}}
`,
			want: []string{
				"providers.b: no caller and no credential uses it",
				"callers.z: no policy uses it",
				"credentials.o: no policy uses it",
				"policies: none is called default, so a route that names no policy is refused",
			},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := mustParse(t, "version: 1\n"+tt.text).Warnings()
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Warnings(): (-want +got)\n%s", diff)
			}
		})
	}
}

// TestFields walks all structs: each exported field has a key, and is of a
// type that the decoder knows.
func TestFields(t *testing.T) {
	t.Parallel()
	var walk func(where string, typ reflect.Type)
	walk = func(where string, typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice:
			walk(where, typ.Elem())
		case reflect.Map:
			if typ.Key().Kind() != reflect.String {
				t.Errorf("%s: maps have text as keys", where)
			}
			walk(where, typ.Elem())
		case reflect.Struct:
			for field := range typ.Fields() {
				if field.IsExported() && !field.Anonymous && field.Tag.Get("yaml") == "" {
					t.Errorf("%s.%s has no yaml tag", where, field.Name)
				}
				if field.IsExported() {
					walk(where+"."+field.Name, field.Type)
				}
			}
		case reflect.String, reflect.Bool, reflect.Int, reflect.Int64:
		default:
			t.Errorf("%s: the decoder does not know %s", where, typ)
		}
	}
	walk("Config", reflect.TypeFor[Config]())
}

func TestUnaskedStatuses(t *testing.T) {
	t.Parallel()
	of := func(statuses ...int) Rejection { return Rejection{Action: ActionRetry, Statuses: statuses} }
	evicts, reads := of(401), of(401)
	evicts.Action, reads.Methods = ActionEvict, []string{"GET"}
	for name, tt := range map[string]struct {
		rejections []Rejection
		want       []int
	}{
		"no credential":          {},
		"one":                    {[]Rejection{of(403, 401)}, []int{401, 403}},
		"what all have":          {[]Rejection{of(401, 403, 498), of(499, 401), of(401, 498)}, []int{401}},
		"nothing that all have":  {[]Rejection{of(401), of(403)}, nil},
		"400 is often another's": {[]Rejection{of(400, 401), of(400, 401)}, []int{401}},
		"one evicts":             {[]Rejection{of(401), evicts}, nil},
		"one retries GET only":   {[]Rejection{of(401), reads}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &Config{Credentials: map[string]Credential{}}
			for i, r := range tt.rejections {
				c.Credentials[string(rune('a'+i))] = Credential{Rejection: r}
			}
			if diff := cmp.Diff(tt.want, c.UnaskedStatuses(), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
