package render

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

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

func TestGolden(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		print func(Config) ([]byte, error)
		cfg   Config
	}{
		"bootstrap.yaml":            {Bootstrap, minimal()},
		"bootstrap_everything.yaml": {Bootstrap, everything()},
		"static.yaml":               {Static, placeholders()},
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
	if _, err := yaml.YAMLToJSONStrict(text); err != nil {
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
		"not UTF-8":              {func(c *Config) { c.Service.Endpoints = []string{"unix:///\xff"} }, "UTF-8"},
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
		for name, cfg := range map[string]Config{"minimal": minimal(), "everything": all} {
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
