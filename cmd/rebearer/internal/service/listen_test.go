package service

import (
	"errors"
	"net"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
)

// TestListenSocket: what a killed process left behind must not keep the next
// one from starting, and a living process must keep its socket.
func TestListenSocket(t *testing.T) {
	t.Parallel()
	at := config.Address("unix://" + filepath.Join(t.TempDir(), "grpc.sock"))
	_, path := at.Network()
	killed, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	killed.SetUnlinkOnClose(false)
	_ = killed.Close()

	living, err := listen(at)
	if err != nil {
		t.Fatalf("a socket that nobody answers on: %v", err)
	}
	defer func() { _ = living.Close() }()
	if _, err := listen(at); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a socket that is in use: got %v, want %v", err, syscall.EADDRINUSE)
	}
}
