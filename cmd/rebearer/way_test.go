package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rebearer/rebearer/envoy/envoytest"
)

// way is how a token gets into requests, and another one into those that are
// sent again.
type way int

const (
	nested way = iota // the check, before every try
	lean              // the check, and Envoy's router on later tries
	pushed            // Envoy, which holds the token and checks callers
)

func (w way) String() string { return [...]string{"nested", "lean", "push"}[w] }

// oldestUpstream is the minor version from which on Envoy can go all ways.
const oldestUpstream = 37

// ways are those that an Envoy can go.
func ways(t testing.TB, binary envoytest.Binary) []way {
	t.Helper()
	minor, err := strconv.Atoi(strings.Split(binary.Version(t), ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	if minor < oldestUpstream {
		return []way{nested}
	}
	return []way{nested, lean, pushed}
}

// eachWay runs a test on every Envoy, those of the ways that it can go. None
// named are all.
func eachWay(t *testing.T, some []way, test func(t *testing.T, binary envoytest.Binary, w way)) {
	t.Helper()
	eachEnvoy(t, func(t *testing.T, binary envoytest.Binary) {
		for _, w := range ways(t, binary) {
			if some == nil || slices.Contains(some, w) {
				t.Run(w.String(), func(t *testing.T) { test(t, binary, w) })
			}
		}
	})
}

// everyWay runs a test on the newest Envoy, some ways at once. None named are all.
func everyWay(t *testing.T, test func(t *testing.T, w way), some ...way) {
	t.Helper()
	t.Parallel()
	newest().Require(t)
	for _, w := range ways(t, newest()) {
		if some != nil && !slices.Contains(some, w) {
			continue
		}
		t.Run(w.String(), func(t *testing.T) {
			t.Parallel()
			test(t, w)
		})
	}
}

// shape is what the configuration says of Envoy.
func (w way) shape() string {
	if w == lean {
		return "shape: lean, "
	}
	return ""
}

// delivery is what it says of every policy.
func (w way) delivery() string {
	if w == pushed {
		return ", delivery: push"
	}
	return ""
}

// keys are what it says of the callers' provider: Envoy looks up no metadata.
func (w way) keys(issuer string) string {
	if w == pushed {
		return fmt.Sprintf(", jwks_url: %q", issuer+"/jwks")
	}
	return ""
}

// socket is where a replica listens: tokens are pushed to nobody over a port
// that asks for no certificate.
func (w way) socket(t testing.TB, address string) string {
	t.Helper()
	if w != pushed {
		return address
	}
	// A test's own folder may have too long a name for a socket.
	folder, err := os.MkdirTemp("", "rebearer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	return "unix://" + filepath.Join(folder, "grpc")
}
