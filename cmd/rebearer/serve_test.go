package main

import (
	"strings"
	"testing"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
)

// What `rebearer envoy` prints says of itself what `rebearer serve` expects, also
// where serve does not know how Envoy reaches it.
func TestEnvoyHashes(t *testing.T) {
	t.Parallel()
	const text = `version: 1
server: {grpc: {address: ":9001", tls: {cert_file: c, key_file: k, client_ca_file: a}, peers: [envoy.example]}}
providers: {shop: {issuer: "https://idp.example", jwks_url: "https://idp.example/jwks"}}
callers: {shop: {provider: shop, audiences: [orders]}}
credentials: {orders: {clients: [{provider: shop, id: gateway, secret_file: s}]}}
policies:
  default: {callers: [shop], credential: orders}
  pushed: {callers: [shop], credential: orders, delivery: push}
`
	parse := func(text string) *config.Config {
		cfg, err := config.Parse([]byte(text), "rebearer.yaml")
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	known, err := envoyHashes(parse(text))
	if err != nil {
		t.Fatal(err)
	}
	const envoy = "envoy: {addresses: [\"rebearer.example:9001\"], tls: {ca_file: a, cert_file: c, key_file: k, server_name: rebearer.example}}\n"
	for _, shape := range []string{"nested", "lean"} {
		flags := envoyFlags{target: targetEnvoy, shape: shape, bootstrap: true, listen: "127.0.0.1:1", backends: []string{"default=127.0.0.1:2", "pushed=127.0.0.1:3"}}
		out, err := flags.render(parse(text + envoy))
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, hash := range known {
			found = found || strings.Contains(string(out), hash)
		}
		if !found {
			t.Errorf("%s: none of %q is in what is printed", shape, known)
		}
	}
	other, err := envoyHashes(parse(strings.ReplaceAll(text, "audiences: [orders]", "audiences: [stock]")))
	if err != nil || other[0] == known[0] || other[1] == known[1] {
		t.Errorf("other audiences: got %q, %v, want none of %q", other, err, known)
	}
	if none, err := envoyHashes(parse("version: 1\n")); len(none) > 0 || err != nil {
		t.Errorf("without policies: got %q, %v", none, err)
	}
}
