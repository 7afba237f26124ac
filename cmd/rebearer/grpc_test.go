package main

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// grpcBackend is a gRPC service, health, that refuses dead tokens the usual
// way: in an interceptor, before it has answered anything.
type grpcBackend struct {
	valid   func(token string) bool
	calls   atomic.Int64
	refused atomic.Int64
}

func (b *grpcBackend) authorize(ctx context.Context) error {
	b.calls.Add(1)
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) == 1 && b.valid(strings.TrimPrefix(values[0], "Bearer ")) {
		return nil
	}
	b.refused.Add(1)
	return status.Error(codes.Unauthenticated, "the token is not active")
}

func (b *grpcBackend) unary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := b.authorize(ctx); err != nil {
		return nil, err
	}
	return next(ctx, request)
}

func (b *grpcBackend) stream(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := b.authorize(stream.Context()); err != nil {
		return err
	}
	return next(server, stream)
}

// serve serves it until the test ends and returns its address.
func (b *grpcBackend) serve(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", anyPort)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(b.unary), grpc.StreamInterceptor(b.stream))
	healthv1.RegisterHealthServer(server, health.NewServer())
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

// Calls to a gRPC backend that refuses a dead token are repeated too.
func TestGRPCBackend(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		backend := &grpcBackend{}
		s := newStack(t, newest(), stackOptions{way: w, provider: "timeout: 1s", backend: func(valid func(string) bool) string {
			backend.valid = valid
			return backend.serve(t)
		}})
		conn, err := grpc.NewClient(strings.TrimPrefix(s.url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		client := healthv1.NewHealthClient(conn)
		ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+s.token)

		calls := map[string]func() (metadata.MD, error){
			"unary": func() (metadata.MD, error) {
				var header metadata.MD
				_, err := client.Check(ctx, &healthv1.HealthCheckRequest{}, grpc.Header(&header))
				return header, err
			},
			"server streaming": func() (metadata.MD, error) {
				ctx, cancel := context.WithCancel(ctx)
				defer cancel()
				stream, err := client.Watch(ctx, &healthv1.HealthCheckRequest{})
				if err != nil {
					return nil, err
				}
				if _, err := stream.Recv(); err != nil {
					return nil, err
				}
				return stream.Header()
			},
		}
		for name, call := range calls {
			t.Run(name, func(t *testing.T) {
				refused := backend.refused.Load()
				s.awaitSettled(t) // see Limits, HTTP/2
				s.restart(t)
				header, err := call()
				if err != nil {
					t.Fatalf("with a dead token: %v", err)
				}
				if got := header.Get("x-rebearer-retry"); got != nil {
					t.Errorf("the caller sees the retry header %q", got)
				}
				if got := backend.refused.Load() - refused; got != 1 {
					t.Errorf("refused %d times, want once", got)
				}

				s.awaitSettled(t) // see Limits, HTTP/2
				s.restart(t)
				setDown(t, s.backendPort, true)
				if _, err := call(); status.Code(err) != codes.Unavailable {
					t.Errorf("with a dead token and no provider: %v, want Unavailable", err)
				}
				setDown(t, s.backendPort, false)
				await(t, "recovery", func() bool { _, err := call(); return err == nil })
			})
		}
	})
}
