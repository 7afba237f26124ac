package render

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/envoy/envoytest"
)

var update = flag.Bool("update", false, "write the golden files in testdata")

// minimal is the least that is a valid configuration.
func minimal() Config {
	return Config{
		Listen:  "127.0.0.1:10000",
		Service: Service{Endpoints: []string{"127.0.0.1:9001"}},
		Routes:  []Route{{Policy: "default", Backend: "127.0.0.1:8080"}},
	}
}

// everything has each field set, and names that YAML 1.1 would misread.
func everything() Config {
	return Config{
		Listen: "[::]:10000",
		Admin:  "127.0.0.1:9901",
		Service: Service{
			Endpoints: []string{"rebearer.example:9001", "10.0.0.7:9001"},
			TLS:       &TLS{CAFile: "/pki/ca.pem", CertFile: "/pki/envoy.pem", KeyFile: "/pki/envoy.key", ServerName: "rebearer.example"},
		},
		Routes: []Route{
			{Policy: "on", Backend: "api.example:80"},
			{Policy: "default", Backend: "https://shop.example:443"},
			{Policy: "0x1f", Backend: "https://10.0.0.9:8443", CAFile: "/pki/backends.pem"},
			{Policy: "orders", Backend: "h2c://[::1]:8081"},
		},
		CheckTimeout:      3 * time.Second,
		HookTimeout:       4 * time.Second,
		RouteTimeout:      -1,
		IdleTimeout:       time.Hour,
		RejectionStatuses: []int{401, 403, 419},
		CredentialHeaders: []string{"authorization", "x-api-token"},
		BodyBuffer:        64 << 10,
		Underscores:       "reject",
		EscapedSlashes:    "keep",
		TrustedHops:       2,
		AccessLog:         true,
	}
}

func placeholders() Config {
	cfg := minimal()
	cfg.Service.Endpoints = []string{"unix:///run/rebearer/grpc.sock"}
	cfg.Routes = []Route{{Policy: "default"}, {Policy: "orders"}}
	return cfg
}

// leanPush is the lean shape with a route in push mode, and all that goes with it.
func leanPush() Config {
	cfg := everything()
	cfg.Shape, cfg.EnvoyVersion = Lean, "1.37"
	cfg.Retries = Retries{On: "5xx,reset", Attempts: 2, PerTryTimeout: 5 * time.Second, Hedge: true}
	cfg.MaxRetries = 500
	cfg.Callers = []Caller{
		{Name: "shop", Issuer: "https://idp.example", Audiences: []string{"orders"}, JWKSURL: "https://idp.example/keys", ClockSkew: 30 * time.Second},
		{
			Name: "club", Issuer: "https://club.example", Audiences: []string{"on"}, JWKSURL: "http://10.0.0.8:81/keys", ClockSkew: time.Second,
			Algorithms: []string{"ES256"}, RequiredClaims: []string{"jti"},
		},
	}
	cfg.Routes[3].Push = &Push{
		Credential: "orders", Header: "x-api-token", Callers: []string{"shop", "club"}, TokenHeader: "x-token", TokenScheme: "Key",
		Hosts: []string{"shop.example", "*.shop.example"}, Scopes: []string{"orders.read"}, AnyScopes: []string{"a", "b"},
		Claims: map[string][]string{"tenant": {"7", "true", "x"}}, Clients: []string{"app"},
	}
	return cfg
}

func pushPlaceholder() Config {
	cfg := placeholders()
	cfg.Routes[1].Push = &Push{Credential: "orders"}
	return cfg
}

func TestGolden(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		print func(Config) ([]byte, error)
		cfg   Config
	}{
		"bootstrap.yaml":            {Bootstrap, minimal()},
		"bootstrap_everything.yaml": {Bootstrap, everything()},
		"static.yaml":               {Static, placeholders()},
		"lean_everything.yaml":      {Bootstrap, leanPush()},
		"static_push.yaml":          {Static, pushPlaceholder()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := test.print(test.cfg)
			if err != nil {
				t.Fatal(err)
			}
			again, err := test.print(test.cfg)
			if err != nil || !bytes.Equal(got, again) {
				t.Errorf("printed twice, it is not the same (%v)", err)
			}
			path := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(path, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("not as in %s (go test -update writes it): %s", path, diff)
			}
		})
	}
}

// Every policy's name arrives as the string that it is.
func TestYAMLStrings(t *testing.T) {
	t.Parallel()
	cfg := minimal()
	names := []string{"on", "off", "yes", "n", "null", "1e3", "0x1f", "0o17", "1_000", "1.5", "2026-11-21", "true"}
	for _, name := range names {
		cfg.Routes = append(cfg.Routes, Route{Policy: name, Backend: "127.0.0.1:8080"})
	}
	text, err := Bootstrap(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, new(any)); err != nil {
		t.Error(err)
	}
	for _, name := range names {
		if !strings.Contains(string(text), `policy: "`+name+`"`) && !strings.Contains(string(text), `policy: '`+name+`'`) {
			t.Errorf("policy %s is not quoted", name)
		}
	}
}

func TestValidation(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no listen":              {func(c *Config) { c.Listen = "" }, `listen: "" is not an IP address and port`},
		"listen name":            {func(c *Config) { c.Listen = "localhost:80" }, `listen: "localhost:80" is not an IP address and port`},
		"admin":                  {func(c *Config) { c.Admin = "x" }, `admin: "x" is not an IP address and port`},
		"admin off loopback":     {func(c *Config) { c.Admin = "0.0.0.0:9901" }, "admin: 0.0.0.0:9901 is not a loopback address"},
		"no endpoint":            {func(c *Config) { c.Service.Endpoints = nil }, "service: needs at least one endpoint"},
		"endpoint without port":  {func(c *Config) { c.Service.Endpoints = []string{"rebearer"} }, `service: "rebearer" is not host:port`},
		"endpoint port":          {func(c *Config) { c.Service.Endpoints = []string{"rebearer:0"} }, `service: "rebearer:0" has no port from 1 to 65535`},
		"endpoint URL":           {func(c *Config) { c.Service.Endpoints = []string{"http://a:1"} }, `service: "http://a:1" is not host:port`},
		"relative socket":        {func(c *Config) { c.Service.Endpoints = []string{"unix://grpc.sock"} }, "the path of a unix socket is absolute"},
		"socket and name":        {func(c *Config) { c.Service.Endpoints = []string{"unix:///s", "a:1"} }, "service: unix sockets and host names cannot be mixed"},
		"tls":                    {func(c *Config) { c.Service.TLS = &TLS{CertFile: "x"} }, "service tls: needs a CA file\nservice tls: needs a server name\nservice tls: needs both a certificate and its key, or neither"},
		"no route":               {func(c *Config) { c.Routes = nil }, "routes: needs at least one"},
		"policy":                 {func(c *Config) { c.Routes[0].Policy = "a/b" }, `route: policy "a/b" is not a plain name`},
		"policy of dots":         {func(c *Config) { c.Routes[0].Policy = ".." }, `route: policy ".." is not a plain name`},
		"policy twice":           {func(c *Config) { c.Routes = append(c.Routes, c.Routes[0]) }, `route: policy "default" is given twice`},
		"no backend":             {func(c *Config) { c.Routes[0].Backend = "" }, "route default: needs a backend"},
		"backend scheme":         {func(c *Config) { c.Routes[0].Backend = "grpc://a:1" }, `route default: backend "grpc://a:1": a backend is host:port, h2c://host:port or https://host:port`},
		"backend path":           {func(c *Config) { c.Routes[0].Backend = "https://a:1/x" }, `route default: backend: "a:1/x" has no port from 1 to 65535`},
		"check timeout":          {func(c *Config) { c.CheckTimeout = -1 }, "check timeout: -1ns is not a time to wait"},
		"hook timeout":           {func(c *Config) { c.HookTimeout = -1 }, "hook timeout: -1ns is not a time to wait"},
		"route timeout":          {func(c *Config) { c.RouteTimeout = 6 * time.Second }, "route timeout: 6s is not above the hook timeout, 6s, which counts in it"},
		"status":                 {func(c *Config) { c.RejectionStatuses = []int{200} }, "rejection status: 200 is not an error status"},
		"credential header":      {func(c *Config) { c.CredentialHeaders = []string{"x']"} }, `credential header: "x']" is not a header name in lower case`},
		"credential header case": {func(c *Config) { c.CredentialHeaders = []string{"X-A"} }, `credential header: "X-A" is not a header name in lower case`},
		"check header":           {func(c *Config) { c.CheckHeaders = []string{"cookie", "X-A"} }, `check header: "X-A" is not a header name in lower case`},
		"underscores":            {func(c *Config) { c.Underscores = "keep" }, `underscores: "keep" is none of ["allow" "drop" "reject"]`},
		"escaped slashes":        {func(c *Config) { c.EscapedSlashes = "drop" }, `escaped slashes: "drop" is none of ["keep" "reject" "unescape"]`},
		"shape":                  {func(c *Config) { c.Shape = "slim" }, `shape: "slim" is none of ["lean" "nested"]`},
		"version":                {func(c *Config) { c.EnvoyVersion = "v1.37" }, `envoy version: "v1.37" is not one of Envoy's, like 1.37 or 1.37.0`},
		"old version":            {func(c *Config) { c.EnvoyVersion = "1.35.3" }, "envoy version: 1.35.3 is too old: rebearer needs Envoy 1.36"},
		"lean on 1.36":           {func(c *Config) { c.Shape, c.EnvoyVersion = Lean, "1.36.4" }, "envoy version: 1.36.4 crashes in the lean shape and in push mode, which need Envoy 1.37"},
		"push on 1.36":           {func(c *Config) { c.Routes[0].Push, c.EnvoyVersion = &Push{Credential: "a"}, "1.36" }, "envoy version: 1.36 crashes"},
		"per-try timeout":        {func(c *Config) { c.Retries.PerTryTimeout = time.Second }, "retries: a per-try timeout of 1s is not above the hook timeout, 6s, which counts in it"},
		"push, no credential":    {func(c *Config) { c.Routes[0].Push = &Push{} }, "route default: push: needs a credential"},
		"push header":            {func(c *Config) { c.Routes[0].Push = &Push{Credential: "a", Header: "X-A"} }, `route default: push: "X-A" is not a header name in lower case`},
		"push, unknown caller":   {func(c *Config) { c.Routes[0].Push = &Push{Credential: "a", Callers: []string{"b"}} }, `route default: push: there is no caller "b"`},
		"push, scopes of nobody": {func(c *Config) { c.Routes[0].Push = &Push{Credential: "a", Scopes: []string{"b"}} }, "route default: push: scopes, claims and clients need callers"},
		"caller": {
			func(c *Config) { c.Callers = []Caller{{Name: "a", JWKSURL: "ftp://x/y"}, {Name: "a"}} },
			"caller a: needs an issuer and audiences\nclock skew: Envoy takes whole seconds from 1s on, not 0s\nJWKS URL: \"ftp://x/y\" is not one that Envoy can get",
		},
		"not UTF-8": {func(c *Config) { c.Service.Endpoints = []string{"unix:///\xff"} }, "UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := minimal()
			test.change(&cfg)
			_, err := Bootstrap(cfg)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// Both versions accept all that is printed, and complain of nothing.
func TestEnvoyValidates(t *testing.T) {
	ca := newAuthority(t)
	certFile, keyFile := ca.issue(t, "envoy.test")
	all := everything()
	all.Service.TLS = &TLS{CAFile: ca.file, CertFile: certFile, KeyFile: keyFile, ServerName: "rebearer.test"}
	for i := range all.Routes {
		all.Routes[i].CAFile = ca.file
	}
	eachBinary(t, func(t *testing.T, b envoytest.Binary) {
		list := map[string]Config{"minimal": minimal(), "everything": all}
		if len(ways(t, b)) > 1 {
			both := leanPush()
			both.Service.TLS, both.Routes, both.Callers[0].CAFile = all.Service.TLS, slices.Clone(both.Routes), ca.file
			for i := range both.Routes {
				both.Routes[i].CAFile = ca.file
			}
			list["lean and push"] = both
		}
		for name, cfg := range list {
			text, err := Bootstrap(cfg)
			if err != nil {
				t.Fatal(err)
			}
			out, err := b.Validate(t, text)
			if err != nil {
				t.Errorf("%s: %v\n%s", name, err, out)
			}
			for line := range strings.Lines(out) {
				if strings.Contains(line, "deprecated") || strings.Contains(line, "unknown") {
					t.Errorf("%s: %s", name, line)
				}
			}
		}
		text, err := Static(placeholders())
		if err != nil {
			t.Fatal(err)
		}
		if out, err := b.Validate(t, text); err == nil || !strings.Contains(out, "YOUR-CLUSTER-FOR-orders") {
			t.Errorf("a cluster to fill in was not refused: %v\n%s", err, out)
		}
		filled := strings.ReplaceAll(string(text), "YOUR-CLUSTER-FOR-default", "rebearer")
		filled = strings.ReplaceAll(filled, "YOUR-CLUSTER-FOR-orders", "rebearer")
		if out, err := b.Validate(t, []byte(filled)); err != nil {
			t.Errorf("filled in: %v\n%s", err, out)
		}
	})
}

// An Envoy that would crash refuses the configuration by itself.
func TestOldEnvoyRefuses(t *testing.T) {
	eachBinary(t, func(t *testing.T, b envoytest.Binary) {
		if len(ways(t, b)) > 1 {
			t.Skip("this Envoy is new enough")
		}
		lean, elsewhere, pushed := minimal(), minimal(), minimal()
		lean.Shape, elsewhere.Shape = Lean, Lean
		elsewhere.Service = Service{Cluster: "backend_default"}
		pushed.Routes[0].Push = &Push{Credential: "a"}
		for name, cfg := range map[string]Config{"lean": lean, "lean, a cluster of the user's": elsewhere, "push": pushed} {
			text, err := Bootstrap(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if out, err := b.Validate(t, text); err == nil || !strings.Contains(out, "has unknown fields") {
				t.Errorf("%s: got %v\n%s", name, err, out)
			}
		}
	})
}

// A hash stands for what is rendered, but for addresses and backends.
func TestHashes(t *testing.T) {
	t.Parallel()
	base, err := Hashes(minimal())
	if err != nil {
		t.Fatal(err)
	}
	if len(base) != 2 || base[0] == base[1] {
		t.Errorf("got %q", base)
	}
	for name, test := range map[string]struct {
		change func(*Config)
		same   bool
	}{
		"listen":   {func(c *Config) { c.Listen = "" }, true},
		"admin":    {func(c *Config) { c.Admin = "127.0.0.1:1" }, true},
		"backend":  {func(c *Config) { c.Routes[0].Backend = "" }, true},
		"service":  {func(c *Config) { c.Service = Service{Cluster: "x"} }, true},
		"shape":    {func(c *Config) { c.Shape = Lean }, true},
		"timeout":  {func(c *Config) { c.HookTimeout = 7 * time.Second }, false},
		"status":   {func(c *Config) { c.RejectionStatuses = []int{401} }, false},
		"policy":   {func(c *Config) { c.Routes[0].Policy = "other" }, false},
		"delivery": {func(c *Config) { c.Routes[0].Push = &Push{Credential: "a"} }, false},
	} {
		cfg := minimal()
		test.change(&cfg)
		got, err := Hashes(cfg)
		if err != nil || slices.Equal(got, base) != test.same {
			t.Errorf("%s: got %q, %v; before %q", name, got, err, base)
		}
		for _, shape := range []Shape{Nested, Lean} {
			cfg.Shape, cfg.Listen = shape, anyListen
			text, err := Static(cfg)
			if err != nil || !slices.ContainsFunc(got, func(hash string) bool { return strings.Contains(string(text), hash) }) {
				t.Errorf("%s, %s: none of %q is in what is printed (%v)", name, shape, got, err)
			}
		}
	}
}

// Parts are what is printed.
func TestParts(t *testing.T) {
	t.Parallel()
	cfg := leanPush()
	parts, err := NewParts(cfg)
	if err != nil {
		t.Fatal(err)
	}
	last := func(list []*hcmv3.HttpFilter) string { return list[len(list)-1].GetName() }
	if parts.Finish == nil || len(parts.Host.ResponseHeadersToRemove) != 2 || parts.Check.GetName() != extAuthzFilter || parts.Service.GetName() != serviceCluster ||
		last(parts.Upstream) != "envoy.filters.http.upstream_codec" || len(parts.Push) != 1 || len(parts.Push["orders"]) != 5 {
		t.Errorf("got %v", parts)
	}
	cfg.Service = Service{Cluster: "outbound|9001||rebearer"}
	parts, err = NewParts(cfg)
	if err != nil || parts.Service != nil || !strings.Contains(parts.Check.String(), "rebearer") {
		t.Errorf("got %v, %v", parts, err)
	}
	cfg.Service = Service{}
	if _, err := NewParts(cfg); err == nil {
		t.Error("no service was accepted")
	}
}
