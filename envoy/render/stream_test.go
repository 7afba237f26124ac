package render

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/envoy/envoytest"
)

func TestStreams(t *testing.T) {
	eachWay(t, func(t *testing.T, b envoytest.Binary, w way) {
		s := &stub{}
		cfg := s.config(t)
		cfg.RetryUnasked = []int{http.StatusUnauthorized}
		r := s.start(t, b, w, cfg)
		for name, test := range map[string]func(*testing.T, *rig){
			"upload refused early":         retriesUploadRefusedEarly,
			"large upload refused early":   answersLargeUploadRefusedEarly,
			"upgrade":                      upgrades,
			"upgrade refused once":         retriesUpgrade,
			"upgrade refused":              answersRefusedUpgrade,
			"extended connect":             connectsExtended,
			"gRPC unary refused":           retriesUnary,
			"gRPC unary, immediate answer": answersUnary,
			"gRPC bidi":                    streamsBoth,
			"gRPC bidi refused once":       retriesBidi,
			"gRPC bidi refused":            answersRefusedBidi,
			"gRPC bidi unclear":            passesUnclearBidi,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, r)
				r.wantWorking(t)
			})
		}
	})
}

// refuseEarly refuses the first try before it has read the body.
func refuseEarly(drain bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !isFirst(r) {
			n, _ := io.Copy(io.Discard, r.Body)
			_, _ = fmt.Fprintf(w, "%d bytes", n)
			return
		}
		c := http.NewResponseController(w)
		_ = c.EnableFullDuplex()
		refuse(w, r)
		_ = c.Flush()
		if drain {
			_, _ = io.Copy(io.Discard, r.Body)
		}
	}
}

// uploadSlowly sends half of a body, and the other half when the hook was asked.
func (r *rig) uploadSlowly(t *testing.T, size int, drain bool) answer {
	t.Helper()
	asked := make(chan struct{}, 4)
	name, _ := r.script(t, &scenario{
		backend: refuseEarly(drain),
		hook: func(o observation) *extprocv3.ProcessingResponse {
			asked <- struct{}{}
			return retryRejected(envoy.RetryDead)(o)
		},
		watch: func() { asked <- struct{}{} },
	})
	conn := r.dial(t)
	_, _ = fmt.Fprintf(conn, "POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", name, size)
	half := make([]byte, size/2)
	go func() {
		_, _ = conn.Write(half)
		<-asked
		_, _ = conn.Write(half) // Envoy may have answered and closed by now
	}()
	return readAnswer(t, bufio.NewReader(conn))
}

func (r *rig) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func readAnswer(t *testing.T, from *bufio.Reader) answer {
	t.Helper()
	resp, err := http.ReadResponse(from, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{status: resp.StatusCode, header: resp.Header, body: string(body)}
}

// In the nested shape a refused upload is sent again whole, as long as what came
// before the refusal fits into the buffer. What comes after it need not. In the
// others the refusal passes, and the hook is told.
func retriesUploadRefusedEarly(t *testing.T, r *rig) {
	for _, drain := range []bool{true, false} {
		a := r.uploadSlowly(t, 300_000, drain)
		if r.way != nested {
			wantRefused(t, a)
			continue
		}
		if a.status != http.StatusOK || a.body != "300000 bytes" {
			t.Errorf("drain %v: got %d %q", drain, a.status, a.body)
		}
	}
}

// Of a larger one it depends on how fast the refusal is.
func answersLargeUploadRefusedEarly(t *testing.T, r *rig) {
	for _, drain := range []bool{true, false} {
		a := r.uploadSlowly(t, 6_000_000, drain)
		if r.way != nested {
			wantRefused(t, a)
			continue
		}
		if a.status != http.StatusOK || a.body != "6000000 bytes" {
			wantRenewed(t, a)
		}
	}
}

const upgradeRequest = "GET /%s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"

// echoUpgraded accepts an upgrade and returns what it is sent.
func echoUpgraded(w http.ResponseWriter, _ *http.Request) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	_ = rw.Flush()
	_, _ = io.Copy(conn, rw)
}

func upgrades(t *testing.T, r *rig) {
	name, sc := r.script(t, &scenario{backend: echoUpgraded})
	r.wantUpgraded(t, name)
	r.wantCounts(t, sc, 1, 0, 1)
}

// wantWatched waits until the hook was told of an answer that could not be held.
// The scenario's watch must be the channel's.
func (r *rig) wantWatched(t *testing.T, sc *scenario, told <-chan struct{}) {
	t.Helper()
	<-told
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if len(sc.observed) > 0 || len(sc.tries) != 1 {
		t.Errorf("observed %d, tries %d; want 0 and 1", len(sc.observed), len(sc.tries))
	}
}

// watched adds to a scenario the channel on which it says that it was watched.
func watched(sc *scenario) (*scenario, <-chan struct{}) {
	told := make(chan struct{}, 8)
	sc.watch = func() { told <- struct{}{} }
	return sc, told
}

func retriesUpgrade(t *testing.T, r *rig) {
	if r.way != nested {
		t.Skip("an upgrade that is refused cannot be held")
	}
	name, sc := r.script(t, &scenario{backend: func(w http.ResponseWriter, r *http.Request) {
		if isFirst(r) {
			refuse(w, r)
			return
		}
		echoUpgraded(w, r)
	}})
	r.wantUpgraded(t, name)
	r.wantCounts(t, sc, 1, 2, 2)
}

func (r *rig) wantUpgraded(t *testing.T, name string) {
	t.Helper()
	conn := r.dial(t)
	_, _ = fmt.Fprintf(conn, upgradeRequest, name)
	from := bufio.NewReader(conn)
	resp, err := http.ReadResponse(from, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %d", resp.StatusCode)
	}
	_, _ = fmt.Fprintln(conn, "hello")
	if line, err := from.ReadString('\n'); line != "hello\n" {
		t.Errorf("got %q, %v", line, err)
	}
}

func answersRefusedUpgrade(t *testing.T, r *rig) {
	for value, want := range map[string]func(*testing.T, answer){envoy.RetryDead: wantRenewed, envoy.RetryUnclear: wantRefused} {
		sc, told := watched(&scenario{backend: refuse, hook: retryRejected(value)})
		name, _ := r.script(t, sc)
		conn := r.dial(t)
		_, _ = fmt.Fprintf(conn, upgradeRequest, name)
		if r.way != nested {
			wantRefused(t, readAnswer(t, bufio.NewReader(conn)))
			r.wantWatched(t, sc, told)
			continue
		}
		want(t, readAnswer(t, bufio.NewReader(conn)))
		r.wantCounts(t, sc, 1, 1+maxRetries, 1+maxRetries)
	}
}

// connectsExtended opens a WebSocket over HTTP/2 (RFC 8441).
func connectsExtended(t *testing.T, r *rig) {
	front := r.behindHTTP2(t)
	name, _ := r.script(t, &scenario{backend: echoUpgraded})
	front.wantUpgraded(t, name)

	name, _ = r.script(t, &scenario{backend: refuse})
	conn := front.dial(t)
	_, _ = fmt.Fprintf(conn, upgradeRequest, name)
	a := readAnswer(t, bufio.NewReader(conn))
	if r.way != nested {
		wantRefused(t, a)
		return
	}
	wantRenewed(t, a)
}

// behindHTTP2 puts a plain Envoy before the rig's, which makes an extended CONNECT
// of an upgrade: no client in the standard library does.
func (r *rig) behindHTTP2(t *testing.T) *rig {
	t.Helper()
	host, port, err := net.SplitHostPort(strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	e := envoytest.Start(t, r.binary, fmt.Appendf(nil, `
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - name: front
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          upgrade_configs: [{upgrade_type: websocket}]
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: behind}}]}]}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: behind
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {allow_connect: true}}
    load_assignment:
      cluster_name: behind
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %s, port_value: %s}}}}]}]
`, host, port))
	front := *r
	front.envoy, front.url = e, "http://"+e.Address(t, "front")
	return &front
}

// The two answers of a gRPC backend that is written as a plain handler.
func refuseGRPC(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Grpc-Status", "16")
	w.Header().Set("Grpc-Message", "dead")
	w.WriteHeader(http.StatusOK)
}

// echoGRPC returns every message, and OK in the trailers.
func echoGRPC(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/grpc")
	w.WriteHeader(http.StatusOK)
	c := http.NewResponseController(w)
	_ = c.Flush()
	buf := make([]byte, 1024)
	for {
		n, err := r.Body.Read(buf)
		_, _ = w.Write(buf[:n])
		_ = c.Flush()
		if err != nil {
			break
		}
	}
	w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	w.Header().Set(http.TrailerPrefix+"X-Trailer", "here")
}

func gRPCBackend(refuses func(*http.Request) bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if refuses(r) {
			refuseGRPC(w)
			return
		}
		echoGRPC(w, r)
	}
}

func always(*http.Request) bool { return true }

func never(*http.Request) bool { return false }

func (r *rig) connect(t *testing.T) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("passthrough:///"+strings.TrimPrefix(r.url, "http://"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func retriesUnary(t *testing.T, r *rig) {
	name, sc := r.script(t, &scenario{backend: gRPCBackend(isFirst)})
	var header, trailer metadata.MD
	err := r.connect(t).Invoke(t.Context(), "/grpc/"+name+"/Unary", &emptypb.Empty{}, &emptypb.Empty{},
		grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil {
		t.Error(err)
	}
	if v := header.Get(envoy.RetryHeader); v != nil || trailer.Get("x-trailer") == nil {
		t.Errorf("header %v, trailer %v", header, trailer)
	}
	if r.way != nested {
		r.wantUnasked(t, sc, 2, 1)
		return
	}
	r.wantCounts(t, sc, 1, 2, 2)
	if got := sc.observed[0].header["grpc-status"]; got != "16" {
		t.Errorf("observed grpc-status %q", got)
	}
}

func wantUnavailable(t *testing.T, err error, message string) {
	t.Helper()
	if s := status.Convert(err); s.Code() != codes.Unavailable || !strings.Contains(s.Message(), message) {
		t.Errorf("got %v, want Unavailable with %q", err, message)
	}
}

// wantUnasked expects so many tries and calls of inject, and that nothing was held.
func (r *rig) wantUnasked(t *testing.T, sc *scenario, tries, injected int) {
	t.Helper()
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if len(sc.tries) != tries || len(sc.injected) != injected || len(sc.observed) != 0 {
		t.Errorf("%d tries, %d injected, %d observed", len(sc.tries), len(sc.injected), len(sc.observed))
	}
}

// answersUnasked is answersUnary where Envoy sends the call again by itself.
func answersUnasked(t *testing.T, r *rig) {
	name, sc := r.script(t, &scenario{
		backend: gRPCBackend(always),
		inject:  func(observation) *extprocv3.ProcessingResponse { return unavailable() },
	})
	err := r.connect(t).Invoke(t.Context(), "/grpc/"+name+"/Unary", &emptypb.Empty{}, &emptypb.Empty{})
	wantUnavailable(t, err, "no token")
	r.wantUnasked(t, sc, 1, 1)

	name, sc = r.script(t, &scenario{backend: gRPCBackend(always)})
	wantUnauthenticated(t, r.connect(t).Invoke(t.Context(), "/grpc/"+name+"/Unary", &emptypb.Empty{}, &emptypb.Empty{}))
	r.wantUnasked(t, sc, 2, 1)
}

func answersUnary(t *testing.T, r *rig) {
	if r.way != nested {
		answersUnasked(t, r)
		return
	}
	name, sc := r.script(t, &scenario{
		backend: gRPCBackend(always),
		hook:    func(observation) *extprocv3.ProcessingResponse { return unavailable() },
	})
	err := r.connect(t).Invoke(t.Context(), "/grpc/"+name+"/Unary", &emptypb.Empty{}, &emptypb.Empty{})
	wantUnavailable(t, err, "no token")
	r.wantCounts(t, sc, 1, 1, 1)

	name, sc = r.script(t, &scenario{backend: gRPCBackend(always)})
	err = r.connect(t).Invoke(t.Context(), "/grpc/"+name+"/Unary", &emptypb.Empty{}, &emptypb.Empty{})
	wantUnavailable(t, err, "renewed")
	r.wantCounts(t, sc, 1, 1+maxRetries, 1+maxRetries)
}

func (r *rig) bidi(t *testing.T, name string) grpc.ClientStream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	stream, err := r.connect(t).NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/grpc/"+name+"/Bidi")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg(&emptypb.Empty{}); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return stream
}

func streamsBoth(t *testing.T, r *rig) {
	name, sc := r.script(t, &scenario{backend: gRPCBackend(never)})
	wantEcho(t, r.bidi(t, name))
	r.wantCounts(t, sc, 1, 0, 1)
}

func retriesBidi(t *testing.T, r *rig) {
	if r.way != nested {
		t.Skip("a stream that is refused cannot be held")
	}
	name, sc := r.script(t, &scenario{backend: gRPCBackend(isFirst)})
	wantEcho(t, r.bidi(t, name))
	r.wantCounts(t, sc, 1, 2, 2)
}

func wantEcho(t *testing.T, stream grpc.ClientStream) {
	t.Helper()
	for range 3 {
		if err := stream.RecvMsg(&emptypb.Empty{}); err != nil {
			t.Fatal(err)
		}
		if err := stream.SendMsg(&emptypb.Empty{}); err != nil {
			t.Fatal(err)
		}
	}
}

func answersRefusedBidi(t *testing.T, r *rig) {
	sc, told := watched(&scenario{backend: gRPCBackend(always)})
	name, _ := r.script(t, sc)
	if r.way != nested {
		wantUnauthenticated(t, r.bidi(t, name).RecvMsg(&emptypb.Empty{}))
		r.wantWatched(t, sc, told)
		return
	}
	wantUnavailable(t, r.bidi(t, name).RecvMsg(&emptypb.Empty{}), "renewed")
	r.wantCounts(t, sc, 1, 1+maxRetries, 1+maxRetries)
}

func wantUnauthenticated(t *testing.T, err error) {
	t.Helper()
	if s := status.Convert(err); s.Code() != codes.Unauthenticated || s.Message() != "dead" {
		t.Errorf("got %v, want the backend's answer", s)
	}
}

func passesUnclearBidi(t *testing.T, r *rig) {
	sc, told := watched(&scenario{backend: gRPCBackend(always), hook: retryRejected(envoy.RetryUnclear)})
	name, _ := r.script(t, sc)
	wantUnauthenticated(t, r.bidi(t, name).RecvMsg(&emptypb.Empty{}))
	if r.way != nested {
		r.wantWatched(t, sc, told)
		return
	}
	r.wantCounts(t, sc, 1, 1+maxRetries, 1+maxRetries)
}
