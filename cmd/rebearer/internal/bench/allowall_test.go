package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
)

// allowAllVariable makes the test binary the baseline's server.
const allowAllVariable = "REBEARER_BENCH_ALLOW_ALL"

func TestMain(m *testing.M) {
	if os.Getenv(allowAllVariable) != "" {
		if err := serveAllowAll(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// allowAll is the least that an ext_authz server can do: the floor of the
// protocol in Go.
type allowAll struct {
	authv3.UnimplementedAuthorizationServer
}

func (allowAll) Check(context.Context, *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	return &authv3.CheckResponse{
		Status:       &rpcstatus.Status{},
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{}},
	}, nil
}

func serveAllowAll() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, l.Addr())
	server := grpc.NewServer()
	authv3.RegisterAuthorizationServer(server, allowAll{})
	return server.Serve(l)
}

// startAllowAll runs the baseline's server in a process of its own.
func startAllowAll(b *testing.B) *process {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), allowAllVariable+"=1")
	output := start(b, cmd)
	if !output.Scan() {
		b.Fatal("the allow-all server did not start")
	}
	return &process{pid: cmd.Process.Pid, address: output.Text()}
}
