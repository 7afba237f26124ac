package endpoint

import (
	"io"
	"net/http"
	"testing"
)

// transport returns a transport that speaks only the one protocol.
func transport(t *testing.T, http2 bool) *http.Transport {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	transport := &http.Transport{Protocols: protocols}
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// get returns the body of the answer, or the error of the transport.
func get(t *testing.T, transport *http.Transport, url string) (string, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

func TestServer(t *testing.T) {
	t.Parallel()
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, err := Listen(t.Context(), "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = server.Close() }()
			handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Proto) })
			if err := server.Serve(handler); err != nil {
				t.Fatal(err)
			}
			if err := server.Serve(handler); err == nil {
				t.Error("a second Serve was accepted")
			}
			client := transport(t, http2)
			for _, down := range []bool{false, true, true, false, false} {
				if err := server.SetDown(down); err != nil {
					t.Fatalf("SetDown(%v): %v", down, err)
				}
				got, err := get(t, client, server.URL())
				if down != (err != nil) {
					t.Fatalf("down %v: error %v", down, err)
				}
				if !down && got != name {
					t.Errorf("got protocol %q, want %q", got, name)
				}
			}
			if err := server.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			if _, err := get(t, client, server.URL()); err == nil {
				t.Error("a closed endpoint still answers")
			}
			if err := server.SetDown(false); err == nil {
				t.Error("a closed endpoint came up again")
			}
		})
	}
}

func TestListenTaken(t *testing.T) {
	t.Parallel()
	first, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Close() }()
	if _, err := Listen(t.Context(), first.Address()); err == nil {
		t.Error("the same address was bound twice")
	}
}
