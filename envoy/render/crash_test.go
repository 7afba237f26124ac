package render

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/rebearer/rebearer/envoy"
)

const (
	// voidings is how often all tokens die while callers are at work.
	voidings = 10
	// callersAtWork is how many behave, beside one of each other kind.
	callersAtWork = 4
	// requestsPerVoiding are well-behaved requests between two voidings.
	requestsPerVoiding = 32
)

// provider hands out tokens, all of which can be voided at once.
type provider struct{ valid, current atomic.Int64 }

func (p *provider) token(int) string { return fmt.Sprintf("v%d", p.current.Load()) }

func (p *provider) isDead(r *http.Request) bool {
	return r.Header.Get("Authorization") != fmt.Sprintf("Bearer v%d", p.valid.Load())
}

// judge fetches a fresh token where one was refused, as the hook does.
func (p *provider) judge(o observation) *extprocv3.ProcessingResponse {
	if !o.rejected() {
		return letPass()
	}
	p.current.Store(p.valid.Load())
	return askRetry(envoy.RetryDead)
}

// Tokens die under the load of callers of every kind. Whoever behaves never finds
// out, and Envoy lives.
func TestVoidingsUnderLoad(t *testing.T) {
	eachEnvoy(t, func(t *testing.T, r *rig) {
		p := &provider{}
		p.valid.Store(1)
		name, _ := r.script(t, &scenario{
			token: p.token, hook: p.judge,
			backend: func(w http.ResponseWriter, req *http.Request) {
				if p.isDead(req) {
					refuse(w, req) // without a look at the body
					return
				}
				n, _ := io.Copy(io.Discard, req.Body)
				_, _ = fmt.Fprintf(w, "%d bytes", n)
			},
		})
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var bad, good sync.WaitGroup
		for _, misbehave := range []func(context.Context, string){r.leave, r.uploadInPieces, r.askUpgrade} {
			bad.Go(func() {
				for ctx.Err() == nil {
					misbehave(ctx, name)
				}
			})
		}
		for i := range callersAtWork {
			good.Go(func() { r.behave(t, i, name, p) })
		}
		good.Wait()
		stop()
		bad.Wait()
		r.wantWorking(t)
	})
}

// behave sends requests that must all succeed, and voids all tokens every so
// often.
func (r *rig) behave(t *testing.T, number int, name string, p *provider) {
	clients := r.clients()
	client := clients[number%len(clients)]
	body := make([]byte, 2000*(number/2))
	for i := range voidings * requestsPerVoiding / callersAtWork {
		if number == 0 && i%(requestsPerVoiding/callersAtWork) == 0 {
			p.valid.Add(1)
		}
		a, err := exchange(t, client, http.MethodPost, r.url+"/"+name, body, nil)
		if err != nil || a.status != http.StatusOK || a.body != fmt.Sprintf("%d bytes", len(body)) {
			t.Errorf("got %d %q %v", a.status, a.body, err)
		}
	}
}

// leave sends a request and does not wait for the answer.
func (r *rig) leave(ctx context.Context, name string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+"/"+name, &leavingReader{cancel: cancel})
	if err != nil {
		return
	}
	for _, c := range []*http.Client{http1(), http2Client()} {
		if resp, err := c.Do(req.Clone(ctx)); err == nil {
			_ = resp.Body.Close()
		}
		c.CloseIdleConnections()
	}
}

// leavingReader is a body whose sender goes away when some of it was read.
type leavingReader struct {
	cancel context.CancelFunc
	read   int
}

func (l *leavingReader) Read(p []byte) (int, error) {
	if l.read > 100_000 {
		l.cancel()
		return 0, context.Canceled
	}
	n := min(len(p), 10_000)
	l.read += n
	return n, nil
}

// uploadInPieces sends a body bit by bit, whether an answer has come or not.
func (r *rig) uploadInPieces(_ context.Context, name string) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	const pieces, size = 100, 1000
	_, _ = fmt.Fprintf(conn, "POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", name, pieces*size)
	go func() {
		for range pieces {
			if _, err := conn.Write(make([]byte, size)); err != nil {
				return
			}
		}
	}()
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
		_ = resp.Body.Close()
	}
}

// askUpgrade asks for a WebSocket, which the backend never accepts.
func (r *rig) askUpgrade(ctx context.Context, name string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/"+name, http.NoBody)
	if err != nil {
		return
	}
	req.Header = http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Sec-Websocket-Version": {"13"},
	}
	c := http1()
	defer c.CloseIdleConnections()
	if resp, err := c.Do(req); err == nil {
		_ = resp.Body.Close()
	}
}

// The second try may be refused early as well, or cut off.
func TestSecondTryFails(t *testing.T) {
	eachEnvoy(t, func(t *testing.T, r *rig) {
		body := bytes.Repeat([]byte("x"), 900_000)
		for what, second := range map[string]http.HandlerFunc{
			"refused early": refuse,
			"cut off":       cutOff,
		} {
			for _, c := range []*http.Client{http1(), http2Client()} {
				name, _ := r.script(t, &scenario{backend: func(w http.ResponseWriter, req *http.Request) {
					if isFirst(req) {
						_, _ = io.Copy(io.Discard, req.Body)
						refuse(w, req)
						return
					}
					second(w, req)
				}})
				if a := send(t, c, http.MethodPost, r.url+"/"+name, body, nil); a.status < 400 {
					t.Errorf("%s: got %d", what, a.status)
				}
				r.wantWorking(t)
			}
		}
	})
}

// cutOff closes the connection in place of an answer.
func cutOff(w http.ResponseWriter, _ *http.Request) {
	if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
		_ = c.Close()
	}
}

// A slow upload that is refused early over a bare connection, and whose caller
// then hangs up.
func TestHangUpAfterRefusal(t *testing.T) {
	eachEnvoy(t, func(t *testing.T, r *rig) {
		for range 20 {
			name, _ := r.script(t, &scenario{backend: refuseEarly(false)})
			conn := r.dial(t)
			_, _ = fmt.Fprintf(conn, "POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n%s", name, strings.Repeat("x", 1000))
			if r.way != nested {
				wantRefused(t, readAnswer(t, bufio.NewReader(conn)))
			}
			_ = conn.Close()
		}
		r.wantWorking(t)
	})
}
