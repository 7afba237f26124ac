package demo

import (
	"strings"
	"testing"
	"time"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/load"
)

func TestSummary(t *testing.T) {
	t.Parallel()
	full := Summary{
		Requests: 1000, Failed: 2, Rejections: 5, Evictions: 5, Restarts: 5, TokenRequests: 6, Retried: 5,
		RetriedP50: 3_142 * time.Microsecond, RetriedMax: 9_849 * time.Microsecond,
	}
	tests := map[string]struct{ got, want string }{
		"last line": {full.String(), "demo: 1000 requests, 2 failed, 5 restarts, 6 token requests, 5 retried (p50 3.1ms, max 9.8ms)"},
		"none retried": {
			Summary{Requests: 10, Restarts: 1, TokenRequests: 1}.String(),
			"demo: 10 requests, 0 failed, 1 restart, 1 token request, 0 retried",
		},
		"status": {
			full.status(),
			"requests 1000  failed 2  retried 5 (p50 3.1ms, max 9.8ms)  restarts 5  token requests 6  rejections 5  evictions 5",
		},
		"caller": {full.caller(), "caller: 1000 requests, 2 failed, 5 retried (p50 3.1ms, max 9.8ms)"},
		"slow":   {Summary{Retried: 1, RetriedP50: 1234567890, RetriedMax: 1234567890}.latency(), " (p50 1.23s, max 1.23s)"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.got != test.want {
				t.Errorf("got  %q\nwant %q", test.got, test.want)
			}
		})
	}
}

func TestSummarise(t *testing.T) {
	t.Parallel()
	result := load.Result{Requests: 10, ByStatus: map[int]int{200: 6, 403: 3}, Real: 1, Errors: 1}
	result.Retried.Add(time.Millisecond)
	var s Summary
	s.summarise(result)
	want := Summary{Requests: 10, Failed: 3, Retried: 1, RetriedP50: time.Millisecond, RetriedMax: time.Millisecond}
	if s != want {
		t.Errorf("got %+v, want %+v", s, want)
	}
}

func TestEventLine(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 21, 12, 0, 1, 234e6, time.UTC)
	tests := map[string]struct {
		event Event
		want  string
	}{
		"full": {
			Event{Time: at, Kind: "issued", Credential: "demo", Generation: 2, Fingerprint: "ab12", Reason: "rejected", Latency: 1234 * time.Microsecond},
			"12:00:01.234  issued     credential demo  generation 2  token ab12  rejected  1.2ms",
		},
		"bare": {Event{Time: at, Kind: KindRestart, Reason: "all void"}, "12:00:01.234  restart    all void"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := test.event.line(); got != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

func TestTally(t *testing.T) {
	t.Parallel()
	var all tally
	for range maxLines + 3 {
		all.add(Event{Kind: KindRejected})
	}
	lines := all.lines()
	if len(lines) != maxLines+1 || !strings.Contains(lines[maxLines], "3 more") {
		t.Errorf("got %d lines, the last %q", len(lines), lines[len(lines)-1])
	}
	if got := all.count(KindRejected); got != maxLines+3 {
		t.Errorf("got %d rejections, want %d", got, maxLines+3)
	}
	if lines := all.lines(); len(lines) != 0 {
		t.Errorf("got %q again", lines)
	}
}
