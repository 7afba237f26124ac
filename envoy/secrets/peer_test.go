package secrets_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/rebearer/rebearer/envoy/secrets"
)

const identity = "spiffe://mesh.example/edge"

// selfSigned makes a certificate that is its own authority.
func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	name, err := url.Parse(identity)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestWhoMayHaveSecrets(t *testing.T) {
	t.Parallel()
	certificate, pool := selfSigned(t)
	serve := func(auth tls.ClientAuthType) credentials.TransportCredentials {
		return credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{certificate}, ClientCAs: pool, ClientAuth: auth, MinVersion: tls.VersionTLS13})
	}
	call := credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{certificate}, RootCAs: pool, MinVersion: tls.VersionTLS13})
	for name, tt := range map[string]struct {
		network        string
		cfg            secrets.Config
		server, client credentials.TransportCredentials
		want           codes.Code
		peer           string
	}{
		"unix socket":             {network: "unix", want: codes.OK, peer: "unix socket"},
		"plain TCP on loopback":   {network: "tcp", want: codes.PermissionDenied, peer: "127.0.0.1:"},
		"insecure":                {network: "tcp", cfg: secrets.Config{Insecure: true}, want: codes.OK, peer: "127.0.0.1:"},
		"client certificate":      {network: "tcp", server: serve(tls.RequireAndVerifyClientCert), client: call, want: codes.OK, peer: identity + " at 127.0.0.1:"},
		"TLS, nobody is asked":    {network: "tcp", server: serve(tls.NoClientCert), client: call, want: codes.PermissionDenied, peer: "127.0.0.1:"},
		"certificate not checked": {network: "tcp", server: serve(tls.RequireAnyClientCert), client: call, want: codes.PermissionDenied, peer: "127.0.0.1:"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tt.server == nil {
				tt.server, tt.client = insecure.NewCredentials(), insecure.NewCredentials()
			}
			var log bytes.Buffer
			s, err := secrets.New(slog.New(slog.NewTextHandler(&log, nil)), prometheus.NewRegistry(), tt.cfg)
			if err != nil {
				t.Fatal(err)
			}
			newPusher(s, "orders").publisher("orders", "")(token("o1", 1))
			address := "127.0.0.1:0"
			if tt.network == "unix" {
				address = socketPath(t)
			}
			target, stop := listenAndServe(t, s, tt.network, address, tt.server)
			connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(tt.client))
			if err != nil {
				t.Fatal(err)
			}
			asks := secretv3.NewSecretDiscoveryServiceClient(connection)
			for range 2 {
				if n, err := firstSOTW(t, asks); status.Code(err) != tt.want || err == nil && n != 1 {
					t.Errorf("%d secrets and %v, want %v", n, err, tt.want)
				}
				if n, err := firstDelta(t, asks); status.Code(err) != tt.want || err == nil && n != 1 {
					t.Errorf("incremental: %d secrets and %v, want %v", n, err, tt.want)
				}
			}
			_ = connection.Close()
			stop() // and now nobody writes to the log
			about := "gets its secrets here"
			if tt.want != codes.OK {
				about = "and gets none"
			}
			if !strings.Contains(log.String(), about) || !strings.Contains(log.String(), tt.peer) {
				t.Errorf("the log has nothing about %q:\n%s", tt.peer, &log)
			}
			if got := strings.Count(log.String(), "and gets none"); got > 1 {
				t.Errorf("%d lines about refusals, want one a minute", got)
			}
		})
	}
}

// listenAndServe returns the address as gRPC's client takes it, and what stops
// the server.
func listenAndServe(t testing.TB, s *secrets.Server, network, address string, with credentials.TransportCredentials) (string, func()) {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	target := listener.Addr().String()
	if network == "unix" {
		target = "unix://" + target
	}
	server, served := grpc.NewServer(grpc.Creds(with)), make(chan error, 1)
	secretv3.RegisterSecretDiscoveryServiceServer(server, s)
	go func() { served <- server.Serve(listener) }()
	stop := sync.OnceFunc(func() {
		s.Close()
		server.GracefulStop()
		if err := <-served; err != nil {
			t.Errorf("gRPC server: %v", err)
		}
	})
	t.Cleanup(stop)
	return target, stop
}

// socketPath is short enough for a socket, which that of the test's own folder
// need not be.
func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sds")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "socket")
}

// firstSOTW asks for a secret and returns how many came, or how that failed.
func firstSOTW(t *testing.T, asks secretv3.SecretDiscoveryServiceClient) (int, error) {
	t.Helper()
	stream, err := asks.StreamSecrets(t.Context())
	if err != nil {
		return 0, err
	}
	// Where the stream has ended already, Recv says why.
	_ = stream.Send(&discoveryv3.DiscoveryRequest{ResourceNames: []string{"rebearer/orders"}})
	got, err := stream.Recv()
	return len(got.GetResources()), err
}

// firstDelta is firstSOTW for the incremental variant.
func firstDelta(t *testing.T, asks secretv3.SecretDiscoveryServiceClient) (int, error) {
	t.Helper()
	stream, err := asks.DeltaSecrets(t.Context())
	if err != nil {
		return 0, err
	}
	_ = stream.Send(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"rebearer/orders"}})
	got, err := stream.Recv()
	return len(got.GetResources()), err
}
