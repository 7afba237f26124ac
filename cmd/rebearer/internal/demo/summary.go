package demo

import (
	"fmt"
	"strings"
	"time"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/load"
)

// Summary is what has happened in a demo.
type Summary struct {
	// Requests is how many requests of callers came to their end.
	Requests int
	// Failed is how many of them a caller has reason to complain about. It is
	// what the demo is about: it should be 0.
	Failed int
	// Rejections and Evictions count rebearer's events.
	Rejections, Evictions int
	// Restarts is how often the backend's provider restarted.
	Restarts int
	// TokenRequests is how often it was asked for a token.
	TokenRequests int
	// Retried is how many requests the API refused and then got again.
	Retried int
	// RetriedP50 and RetriedMax are the latencies that their callers saw.
	RetriedP50, RetriedMax time.Duration
}

// summarise fills in what the load tells.
func (s *Summary) summarise(result load.Result) {
	s.Requests, s.Failed = result.Requests, result.Failed()
	s.Retried = result.Retried.Count()
	s.RetriedP50, s.RetriedMax = result.Retried.Quantile(0.5), result.Retried.Max()
}

// String returns the last line of a demo.
func (s Summary) String() string {
	return fmt.Sprintf("demo: %d requests, %d failed, %s, %s, %d retried%s",
		s.Requests, s.Failed, count(s.Restarts, "restart"), count(s.TokenRequests, "token request"), s.Retried, s.latency())
}

// status returns the line that is shown while the demo runs. What matters most
// comes first, because a narrow terminal cuts it.
func (s Summary) status() string {
	return fmt.Sprintf("requests %d  failed %d  retried %d%s  restarts %d  token requests %d  rejections %d  evictions %d",
		s.Requests, s.Failed, s.Retried, s.latency(), s.Restarts, s.TokenRequests, s.Rejections, s.Evictions)
}

func (s Summary) latency() string {
	if s.Retried == 0 {
		return ""
	}
	return fmt.Sprintf(" (p50 %v, max %v)", short(s.RetriedP50), short(s.RetriedMax))
}

func count(number int, what string) string {
	if number == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", number, what)
}

// short rounds a duration to what is worth reading.
func short(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(10 * time.Millisecond)
}

// line returns the line that is shown for an event.
func (e Event) line() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %-9s", e.Time.Format("15:04:05.000"), e.Kind)
	if e.Credential != "" {
		fmt.Fprintf(&b, "  credential %s", e.Credential)
	}
	if e.Generation != 0 {
		fmt.Fprintf(&b, "  generation %d", e.Generation)
	}
	if e.Fingerprint != "" {
		fmt.Fprintf(&b, "  token %s", e.Fingerprint)
	}
	if e.Reason != "" {
		fmt.Fprintf(&b, "  %s", e.Reason)
	}
	if e.Latency != 0 {
		fmt.Fprintf(&b, "  %v", short(e.Latency))
	}
	return b.String()
}
