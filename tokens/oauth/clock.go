package oauth

import (
	"net/http"
	"sync/atomic"
	"time"
)

// clock is a provider's clock, as far as its answers show it. The zero value is
// our own clock.
type clock struct {
	skew atomic.Pointer[time.Duration] // nil before the first answer
}

// now returns what the provider's clock shows, or a little less: a Date header
// has whole seconds and is older than its arrival. So an assertion made now is
// never from the provider's future.
func (c *clock) now() time.Time {
	now := time.Now()
	if skew := c.skew.Load(); skew != nil {
		now = now.Add(*skew)
	}
	return now
}

// note learns from the header of an answer that just arrived.
func (c *clock) note(header http.Header) {
	if header.Get("Age") != "" {
		return // from a cache, which keeps the Date of old (RFC 9111 section 5.1)
	}
	date, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return
	}
	skew := time.Until(date)
	c.skew.Store(&skew)
}

// clockTransport sets a clock by the answers that pass.
type clockTransport struct {
	next  http.RoundTripper
	clock *clock
}

// RoundTrip implements [http.RoundTripper].
func (t clockTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := t.next.RoundTrip(request)
	if err == nil {
		t.clock.note(response.Header)
	}
	return response, err
}
