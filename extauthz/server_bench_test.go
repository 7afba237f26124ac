package extauthz_test

import (
	"context"
	"log/slog"
	"syscall"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/rebearer/rebearer/extauthz"
	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
	"github.com/rebearer/rebearer/tokens"
)

// allowAll is the floor: a server that checks nothing.
type allowAll struct {
	authv3.UnimplementedAuthorizationServer
}

func (allowAll) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return &authv3.CheckResponse{
		Status:       &rpcstatus.Status{},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}},
	}, nil
}

// steady gives out one token, as a credential does that has a living one.
type steady struct{ token tokens.Token }

func (steady) Name() string { return "orders" }

func (s steady) Token(context.Context, tokens.Request) (tokens.Token, error) { return s.token, nil }

// reportCPU reports the processor time of the process for each operation, which
// says more than the clock on a machine that is shared.
func reportCPU(b *testing.B) func() {
	b.Helper()
	cpu := func() time.Duration {
		var usage syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
			b.Fatal(err)
		}
		return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	start := cpu()
	return func() { b.ReportMetric(float64(cpu()-start)/float64(b.N), "cpu-ns/op") }
}

// BenchmarkCheck compares Check with an allow-all server: with the marshalling of
// its answer, and through gRPC, where the client's work counts too.
func BenchmarkCheck(b *testing.B) {
	issuer := extauthztest.NewIssuer(b)
	verifier, err := caller.NewJWT(caller.NewKeySet(issuer, slog.New(slog.DiscardHandler)), caller.JWTConfig{
		Issuer: issuer.URL, Audiences: []string{extauthztest.Audience},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(verifier.Close)
	server, err := extauthz.New(slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		b.Fatal(err)
	}
	credential := steady{tokens.Token{Value: backendToken, Generation: 7, Issued: time.Now()}}
	if err := server.SetPolicies([]extauthz.Policy{{Name: "default", Callers: verifier, Credential: credential}}); err != nil {
		b.Fatal(err)
	}
	strict := newStrictServer(b, issuer, credential)
	good := extauthztest.NewRequest(extauthztest.WithBearer(issuer.Token("alice", map[string]any{"tenant": "acme"})))
	bad := extauthztest.NewRequest(extauthztest.WithBearer("a.b.c"))
	for _, bench := range []struct {
		name    string
		server  authv3.AuthorizationServer
		request *authv3.CheckRequest
	}{
		{"allow-all", allowAll{}, good}, {"rebearer", server, good}, {"rebearer-strict", strict, good}, {"rebearer-denial", server, bad},
	} {
		b.Run("direct/"+bench.name, func(b *testing.B) {
			b.ReportAllocs()
			defer reportCPU(b)()
			for b.Loop() {
				response, _ := bench.server.Check(b.Context(), bench.request)
				if _, err := proto.Marshal(response); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for _, bench := range []struct {
		name   string
		server authv3.AuthorizationServer
	}{{"allow-all", allowAll{}}, {"rebearer", server}, {"rebearer-strict", strict}} {
		b.Run("grpc/"+bench.name, func(b *testing.B) {
			client := extauthztest.NewClient(b, bench.server)
			b.ReportAllocs()
			defer reportCPU(b)()
			for b.Loop() {
				if _, err := client.Check(b.Context(), good); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// newStrictServer returns a server whose policy asks for hosts, scopes and claims,
// and tells the backend who calls.
func newStrictServer(b *testing.B, issuer *extauthztest.Issuer, credential extauthz.Credential) *extauthz.Server {
	b.Helper()
	verifier, err := caller.NewJWT(caller.NewKeySet(issuer, slog.New(slog.DiscardHandler)), caller.JWTConfig{
		Issuer: issuer.URL, Audiences: []string{extauthztest.Audience}, Claims: []string{"tenant"},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(verifier.Close)
	server, err := extauthz.New(slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		b.Fatal(err)
	}
	policy := extauthz.Policy{
		Name: "default", Callers: verifier, Credential: credential, Hosts: []string{"*.example"}, Preflight: true,
		Require: extauthz.Requirement{Scopes: []string{"orders.read"}, Claims: map[string][]string{"tenant": {"acme"}}, Clients: []string{"app"}},
		Forward: extauthz.Forward{Subject: "x-subject", Claims: map[string]string{"tenant": "x-tenant"}},
	}
	if err := server.SetPolicies([]extauthz.Policy{policy}); err != nil {
		b.Fatal(err)
	}
	return server
}
