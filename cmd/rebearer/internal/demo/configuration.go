package demo

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// configuration is rebearer's configuration file in a demo. Values are quoted
// by %q, which writes YAML's double-quoted form for what stands here.
const configuration = `version: 1
server:
  grpc: {address: %q}
  status: {address: %q}
  admin: {address: %q}
providers:
  callers: {issuer: %q}
  backend: {issuer: %q}
callers:
  demo: {provider: callers, audiences: [%q], algorithms: [ES256]}
credentials:
  demo:
    clients:
      - {provider: backend, id: %q, secret_file: %q}
    # The demo's provider restarts far more often than a real one.
    rejection: {cool_down: 1s}
policies:
  default: {callers: [demo], credential: demo}
`

// addresses are where rebearer listens.
type addresses struct{ grpc, status, admin string }

// freeAddresses finds three free ports of loopback. Another process could take
// one before rebearer does; that would end the demo with an error that says so.
func freeAddresses(ctx context.Context) (addresses, error) {
	var found [3]string
	for i := range found {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", defaultAddress)
		if err != nil {
			return addresses{}, fmt.Errorf("finding a free port: %w", err)
		}
		defer func() { _ = listener.Close() }() // all are held until all are found
		found[i] = listener.Addr().String()
	}
	return addresses{grpc: found[0], status: found[1], admin: found[2]}, nil
}

// writeConfiguration writes rebearer's configuration file and the secret that
// it names into folder, for the owner alone, and returns the file's path.
func writeConfiguration(folder string, at addresses, callers, backend string) (string, error) {
	secret := filepath.Join(folder, "gateway.secret")
	if err := os.WriteFile(secret, []byte(GatewaySecret), 0o600); err != nil {
		return "", fmt.Errorf("writing the gateway's secret: %w", err)
	}
	path := filepath.Join(folder, "rebearer.yaml")
	content := fmt.Sprintf(configuration, at.grpc, at.status, at.admin, callers, backend, Audience, GatewayID, secret)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return "", fmt.Errorf("writing rebearer's configuration: %w", err)
	}
	return path, nil
}
