package render

import (
	"bytes"
	"io"
	"net"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2conn is an HTTP/2 client with a single stream.
type h2conn struct {
	t      *testing.T
	framer *http2.Framer
	block  bytes.Buffer
	enc    *hpack.Encoder
}

func newH2Conn(t *testing.T, conn net.Conn) *h2conn {
	t.Helper()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	c := &h2conn{t: t, framer: http2.NewFramer(conn, conn)}
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.enc = hpack.NewEncoder(&c.block)
	c.must(c.framer.WriteSettings())
	return c
}

func (c *h2conn) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *h2conn) writeHeaders(fields map[string]string) {
	c.t.Helper()
	for _, name := range sortedKeys(fields) {
		c.must(c.enc.WriteField(hpack.HeaderField{Name: name, Value: fields[name]}))
	}
	c.must(c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block.Bytes(), EndHeaders: true}))
}

func (c *h2conn) writeData(data []byte) {
	c.t.Helper()
	c.must(c.framer.WriteData(1, false, data))
}

// next returns the next frame of the stream.
func (c *h2conn) next() http2.Frame {
	c.t.Helper()
	for {
		f, err := c.framer.ReadFrame()
		c.must(err)
		if s, ok := f.(*http2.SettingsFrame); ok && !s.IsAck() {
			c.must(c.framer.WriteSettingsAck())
		}
		if f.Header().StreamID == 1 {
			return f
		}
	}
}

func (c *h2conn) readHeaders() map[string]string {
	c.t.Helper()
	f, ok := c.next().(*http2.MetaHeadersFrame)
	if !ok {
		c.t.Fatalf("got no headers")
	}
	header := map[string]string{}
	for _, field := range f.Fields {
		header[field.Name] = field.Value
	}
	return header
}

func (c *h2conn) readData() []byte {
	c.t.Helper()
	for {
		if f, ok := c.next().(*http2.DataFrame); ok {
			return f.Data()
		}
	}
}
