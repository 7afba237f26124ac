package render

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"google.golang.org/protobuf/proto"
)

// anyListen stands for an address that is not looked at.
const anyListen = "127.0.0.1:10000"

// Hashes returns what an Envoy that runs a configuration rendered from cfg may
// say that it runs ([envoy.ConfigMetadata]), one for each shape. Addresses and
// backends do not count, and need not be there: `rebearer serve` knows neither.
// The error is like that of [Bootstrap].
func Hashes(cfg Config) ([]string, error) {
	cfg.Listen, cfg.Admin, cfg.EnvoyVersion = anyListen, "", ""
	var list []string
	for _, shape := range []Shape{Nested, Lean} {
		cfg.Shape = shape
		b, err := newBuilder(cfg)
		if err != nil {
			return nil, err
		}
		list = append(list, b.hash)
	}
	return list, nil
}

// hash identifies the configuration that is rendered from a valid Config with
// defaults: 16 hexadecimal digits of a SHA-256 over all of it but addresses,
// backends and the hash itself.
func hash(cfg Config) (string, error) {
	cfg.Listen, cfg.EnvoyVersion = anyListen, ""
	cfg.Service = Service{Endpoints: []string{"127.0.0.1:9001"}}
	cfg.Routes = slices.Clone(cfg.Routes)
	for i := range cfg.Routes {
		cfg.Routes[i].Backend, cfg.Routes[i].CAFile = "", ""
	}
	m, err := (&builder{cfg: cfg}).static()
	if err != nil {
		return "", err
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8]), nil
}
