package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The caller and the backend speak just enough HTTP/1.1 for one kind of request
// and answer: net/http at both ends would need more CPU time than Envoy, and what
// is measured would be how fast it can be called.
const (
	backendAnswer = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 3\r\n\r\n" + backendBody
	backendBody   = "ok\n"
	endOfHead     = "\r\n\r\n"

	answerTimeout  = 10 * time.Second
	maxAnswerBytes = 16 << 10
)

// startBackend answers every request with 200, and returns its address.
func startBackend(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go answerAll(conn)
		}
	}()
	return l.Addr().String()
}

// answerAll serves a connection until it is closed.
func answerAll(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	request := make([]byte, maxAnswerBytes)
	for {
		if _, err := readTo(conn, request, endOfHead); err != nil {
			return
		}
		if _, err := conn.Write([]byte(backendAnswer)); err != nil {
			return
		}
	}
}

// readTo reads until what has come ends with that.
func readTo(conn net.Conn, buffer []byte, end string) ([]byte, error) {
	n := 0
	for n < len(buffer) {
		m, err := conn.Read(buffer[n:])
		n += m
		switch {
		case err != nil:
			return buffer[:n], err
		case bytes.HasSuffix(buffer[:n], []byte(end)):
			return buffer[:n], nil
		}
	}
	return buffer, errors.New("too long")
}

// sendAll sends one request after the other, on so many connections, until ctx
// ends, and returns how many were answered: with 200, or there is an error.
func sendAll(ctx context.Context, address string, request []byte, connections int) (int, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var answered atomic.Int64
	var group sync.WaitGroup
	for range connections {
		group.Go(func() {
			n, err := sendSome(ctx, address, request)
			answered.Add(int64(n))
			if err != nil {
				stop(err)
			}
		})
	}
	group.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.DeadlineExceeded) {
		return 0, err
	}
	return int(answered.Load()), nil
}

// sendSome is sendAll on one connection.
func sendSome(ctx context.Context, address string, request []byte) (int, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	answer := make([]byte, maxAnswerBytes)
	for n := 0; ; n++ {
		if ctx.Err() != nil {
			return n, nil
		}
		if err := conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
			return n, err
		}
		if _, err := conn.Write(request); err != nil {
			return n, err
		}
		got, err := readTo(conn, answer, endOfHead+backendBody)
		if err != nil || !bytes.HasPrefix(got, []byte("HTTP/1.1 200 ")) {
			return n, fmt.Errorf("got %q: %w", got, errors.Join(err, errNotOK))
		}
	}
}

var errNotOK = errors.New("no 200 of the backend")
