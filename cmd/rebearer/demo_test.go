package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo"
)

// The demo ends at once where its Envoy's configuration cannot be printed.
func TestRenderDemo(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	name := filepath.Join(folder, "rebearer.yaml")
	for file, text := range map[string]string{
		filepath.Join(folder, "secret"): "gateway-secret",
		name: `{version: 1, providers: {shop: {issuer: "http://127.0.0.1:1"}}, callers: {shop: {provider: shop, audiences: [a]}},
			credentials: {demo: {clients: [{provider: shop, id: gw, secret_file: secret}]}},
			policies: {default: {callers: [shop], credential: demo}}}`,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := renderDemo(t.Context(), demo.Rendering{
		ConfigPath: name, Listen: "127.0.0.1:10000", Admin: "127.0.0.1:9901", Backend: "127.0.0.1:2",
	})
	if err != nil || len(out) == 0 {
		t.Errorf("got %d bytes, %v", len(out), err)
	}
}
