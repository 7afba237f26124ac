package endpoint

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// readHeaderTimeout only keeps half-open connections from piling up.
const readHeaderTimeout = 10 * time.Second

var errClosed = errors.New("endpoint is closed")

// Server is an address and the handler served on it. It is safe for concurrent
// use. [Listen] makes one; the zero value is of no use.
type Server struct {
	address string

	mu       sync.Mutex
	listener net.Listener // bound, not yet served
	handler  http.Handler // set by Serve
	server   *http.Server // nil while nothing is served
	closed   bool
	serving  sync.WaitGroup
}

// Listen binds address (host:port; port 0 takes a free one) and serves nothing
// yet: connections wait until [Server.Serve]. ctx bounds only the binding.
func Listen(ctx context.Context, address string) (*Server, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	return &Server{address: listener.Addr().String(), listener: listener}, nil
}

// Address returns the bound host:port. It never changes.
func (s *Server) Address() string { return s.address }

// URL returns "http://" and the address.
func (s *Server) URL() string { return "http://" + s.address }

// Serve starts to answer with handler, in the background, and returns at once.
// It is called once.
func (s *Server) Serve(handler http.Handler) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return errClosed
	case s.handler != nil:
		return errors.New("endpoint is served already")
	}
	s.handler = handler
	s.start()
	return nil
}

// SetDown takes the endpoint down: the port refuses connections, and those
// that were open break. SetDown(false) brings it up again on the same address;
// it fails if something else has taken the port meanwhile. Asking for the
// present state does nothing.
func (s *Server) SetDown(down bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return errClosed
	case s.handler == nil:
		return errors.New("endpoint is not served yet")
	case down:
		return s.stop()
	case s.server != nil:
		return nil
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", s.address)
	if err != nil {
		return fmt.Errorf("listening again: %w", err)
	}
	s.listener = listener
	s.start()
	return nil
}

// Close closes the port and every connection, and returns once nothing is
// served any more. Requests in flight are cut off. Later calls do nothing.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.stop()
}

// start serves the bound listener. The caller holds mu.
func (s *Server) start() {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler:           s.handler,
		Protocols:         protocols,
		ReadHeaderTimeout: readHeaderTimeout,
	}
	listener := s.listener
	s.listener, s.server = nil, server
	s.serving.Go(func() { _ = server.Serve(listener) }) // ends with ErrServerClosed
}

// stop closes whatever is open. The caller holds mu.
func (s *Server) stop() error {
	var err error
	if s.listener != nil {
		err = s.listener.Close()
		s.listener = nil
	}
	if s.server != nil {
		err = errors.Join(err, s.server.Close())
		s.server = nil
	}
	s.serving.Wait()
	return err
}
