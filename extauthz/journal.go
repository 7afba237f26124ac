package extauthz

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/rebearer/rebearer/tokens"
)

// A reason gets linesPerWindow log lines per window and policy, so that a flood
// of bad tokens does not become a flood of lines, and hides no other reason.
const (
	linesPerWindow = 5
	window         = 10 * time.Second
)

// denialLog writes the log lines of a policy's denials.
type denialLog struct {
	log *slog.Logger

	mu sync.Mutex
	// reasons has an entry for each reason that occurred. They are constants,
	// so it is bounded.
	reasons map[string]*sample
}

// sample counts the denials of one reason in the present window.
type sample struct {
	start   time.Time
	written int
	omitted int // since the last line
}

func newDenialLog(log *slog.Logger, policy string) *denialLog {
	return &denialLog{log: log.With(slog.String("policy", policy)), reasons: map[string]*sample{}}
}

// write logs a denial, or counts it for the next line of its reason.
func (l *denialLog) write(ctx context.Context, d denial, err error, id string, who tokens.Fingerprint) {
	omitted, ok := l.admit(d.reason, time.Now())
	if !ok {
		return
	}
	attributes := []slog.Attr{
		slog.String("decision", d.decision), slog.String("reason", d.reason),
		slog.Any("error", err), slog.String("request_id", id),
	}
	if who != "" {
		attributes = append(attributes, slog.String("caller", string(who)))
	}
	if omitted > 0 {
		attributes = append(attributes, slog.Int("lines_left_out_before", omitted))
	}
	l.log.LogAttrs(ctx, slog.LevelInfo, "denied", attributes...)
}

// admit reports whether a line may be written, and how many were left out
// before it.
func (l *denialLog) admit(reason string, now time.Time) (omitted int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.reasons[reason]
	if s == nil {
		s = &sample{start: now}
		l.reasons[reason] = s
	}
	if now.Sub(s.start) >= window {
		s.start, s.written = now, 0
	}
	if s.written >= linesPerWindow {
		s.omitted++
		return 0, false
	}
	omitted, s.omitted = s.omitted, 0
	s.written++
	return omitted, true
}
