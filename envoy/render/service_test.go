package render

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/rebearer/rebearer/envoy/envoytest"
)

func eachBinary(t *testing.T, test func(*testing.T, envoytest.Binary)) {
	t.Parallel()
	for _, b := range envoytest.Binaries() {
		t.Run(b.Name, func(t *testing.T) {
			b.Require(t)
			t.Parallel()
			test(t, b)
		})
	}
}

// Nothing reaches the backend while rebearer is down, and nothing needs to be
// told when it is back.
func TestServiceDown(t *testing.T) {
	eachWay(t, func(t *testing.T, b envoytest.Binary, w way) {
		s := &stub{}
		backend := s.serveBackend(t)
		socket := filepath.Join(t.TempDir(), "grpc.sock")
		r := s.start(t, b, w, Config{
			Service: Service{Endpoints: []string{"unix://" + socket}},
			Routes:  []Route{{Policy: "default", Backend: backend}, {Policy: "grpc", Backend: "h2c://" + backend}},
		})
		name, sc := r.script(t, &scenario{})
		for range 10 {
			if a := r.get(t, "/"+name); a.status != http.StatusServiceUnavailable {
				t.Errorf("got %d, want 503", a.status)
			}
		}
		err := r.connect(t).Invoke(t.Context(), "/grpc/"+name+"/Unary", &emptypb.Empty{}, &emptypb.Empty{})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("gRPC: got %v, want Unavailable", err)
		}
		r.wantCounts(t, sc, 0, 0, 0)

		s.serveGRPC(t, listen(t, "unix", socket))
		if w == push {
			r.awaitSecret(t)
		}
		r.wantWorking(t)
	})
}

// One of two replicas is down: no caller finds out.
func TestServiceReplicaDown(t *testing.T) {
	eachWay(t, func(t *testing.T, b envoytest.Binary, w way) {
		s := &stub{}
		gone := listen(t, "tcp", "127.0.0.1:0")
		_ = gone.Close()
		live := listen(t, "tcp", "127.0.0.1:0")
		s.serveGRPC(t, live)
		r := s.start(t, b, w, Config{
			Service: Service{Endpoints: []string{gone.Addr().String(), live.Addr().String()}},
			Routes:  []Route{{Policy: "default", Backend: s.serveBackend(t)}},
		})
		for range 10 {
			r.wantWorking(t)
		}
	})
}

// One of two replicas answers no call, as one does that is about to stop, after it
// was sent whole: no caller finds out, and what the other one is sent is whole too.
func TestServiceReplicaUnavailable(t *testing.T) {
	eachWay(t, func(t *testing.T, b envoytest.Binary, w way) {
		s := &stub{}
		live, stopping := listen(t, "tcp", "127.0.0.1:0"), listen(t, "tcp", "127.0.0.1:0")
		s.serveGRPC(t, live)
		refused := status.Error(codes.Unavailable, "stopping")
		s.serveGRPC(t, stopping,
			grpc.UnaryInterceptor(func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) { return nil, refused }),
			grpc.StreamInterceptor(func(_ any, stream grpc.ServerStream, info *grpc.StreamServerInfo, _ grpc.StreamHandler) error {
				if strings.HasPrefix(info.FullMethod, "/envoy.service.ext_proc.") {
					_ = stream.RecvMsg(&extprocv3.ProcessingRequest{})
				}
				return refused
			}))
		r := s.start(t, b, w, Config{
			Service: Service{Endpoints: []string{stopping.Addr().String(), live.Addr().String()}},
			Routes:  []Route{{Policy: "default", Backend: s.serveBackend(t)}},
		})
		for range 10 {
			r.wantWorking(t)
		}
	})
}

// Each wait ends: for the check and for the backend in an error that says whose
// fault it is not, for the hook in the backend's own answer.
func TestTimeouts(t *testing.T) {
	eachWay(t, func(t *testing.T, b envoytest.Binary, w way) {
		s := &stub{}
		cfg := s.config(t)
		cfg.CheckTimeout, cfg.HookTimeout, cfg.RouteTimeout = 300*time.Millisecond, 300*time.Millisecond, 600*time.Millisecond
		r := s.start(t, b, w, cfg)
		end := make(chan struct{})
		defer close(end)
		hang := func() { <-end }

		if w != push {
			name, sc := r.script(t, &scenario{check: hang})
			if a := r.get(t, "/"+name); a.status != http.StatusServiceUnavailable {
				t.Errorf("check hangs: got %d, want 503", a.status)
			}
			r.wantCounts(t, sc, 1, 0, 0)
		}

		name, sc := r.script(t, &scenario{hook: func(observation) *extprocv3.ProcessingResponse {
			hang()
			return letPass()
		}})
		wantRefused(t, r.get(t, "/"+name))
		r.wantCounts(t, sc, 1, 1, 1)

		name, sc = r.script(t, &scenario{backend: func(http.ResponseWriter, *http.Request) { hang() }})
		if a := r.get(t, "/"+name); a.status != http.StatusGatewayTimeout {
			t.Errorf("backend hangs: got %d, want 504", a.status)
		}
		r.wantCounts(t, sc, 1, 0, 1)
	})
}

// Both sides prove who they are, and Envoy refuses another name.
func TestServiceTLS(t *testing.T) {
	eachWay(t, func(t *testing.T, b envoytest.Binary, w way) {
		s := &stub{}
		ca := newAuthority(t)
		l := listen(t, "tcp", "127.0.0.1:0")
		s.serveGRPC(t, l, grpc.Creds(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{ca.load(t, "rebearer.test")},
			ClientCAs:    ca.pool,
			ClientAuth:   tls.RequireAndVerifyClientCert,
		})))
		certFile, keyFile := ca.issue(t, "envoy.test")
		cfg := Config{
			Service: Service{
				Endpoints: []string{l.Addr().String()},
				TLS:       &TLS{CAFile: ca.file, CertFile: certFile, KeyFile: keyFile, ServerName: "rebearer.test"},
			},
			Routes: []Route{{Policy: "default", Backend: s.serveBackend(t)}},
		}
		s.start(t, b, w, cfg).wantWorking(t)

		cfg.Service.TLS.ServerName = "other.test"
		if a := s.start(t, b, w, cfg).get(t, "/x"); a.status != http.StatusServiceUnavailable {
			t.Errorf("a certificate for another name: got %d, want 503", a.status)
		}
	})
}

// A backend with TLS, reached by name.
func TestBackendTLS(t *testing.T) {
	eachWay(t, func(t *testing.T, b envoytest.Binary, w way) {
		s := &stub{}
		ca := newAuthority(t)
		service := listen(t, "tcp", "127.0.0.1:0")
		s.serveGRPC(t, service)
		l := listen(t, "tcp", "127.0.0.1:0")
		server := &http.Server{Handler: s, TLSConfig: &tls.Config{Certificates: []tls.Certificate{ca.load(t, "localhost")}}}
		go func() { _ = server.ServeTLS(l, "", "") }()
		t.Cleanup(func() { _ = server.Close() })
		_, port, _ := net.SplitHostPort(l.Addr().String())
		r := s.start(t, b, w, Config{
			Service: Service{Endpoints: []string{service.Addr().String()}},
			Routes:  []Route{{Policy: "default", Backend: "https://localhost:" + port, CAFile: ca.file}},
		})
		r.wantWorking(t)
	})
}

// authority signs certificates for the tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{cert: cert, key: key, pool: x509.NewCertPool()}
	a.pool.AddCert(cert)
	a.file = writePEM(t, "ca.pem", "CERTIFICATE", der)
	return a
}

// issue returns the files of a certificate for name and of its key.
func (a *authority) issue(t *testing.T, name string) (certFile, keyFile string) {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return writePEM(t, name+".pem", "CERTIFICATE", der), writePEM(t, name+".key", "PRIVATE KEY", keyDER)
}

func (a *authority) load(t *testing.T, name string) tls.Certificate {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(a.issue(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func writePEM(t *testing.T, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
