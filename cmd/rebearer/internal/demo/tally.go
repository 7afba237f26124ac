package demo

import (
	"fmt"
	"sync"
)

// maxLines is how many events are shown at once; the others are only counted,
// so that a storm of them stays readable.
const maxLines = 20

// tally counts events and keeps the newest until they are shown. It is safe for
// concurrent use; the zero value is empty.
type tally struct {
	mu      sync.Mutex
	counts  map[string]int // kind → events
	pending []Event        // at most maxLines
	skipped int            // events that are not in pending
}

// add notes an event. It does not block.
func (t *tally) add(event Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = make(map[string]int)
	}
	t.counts[event.Kind]++
	if len(t.pending) == maxLines {
		t.skipped++
		return
	}
	t.pending = append(t.pending, event)
}

// count returns how many events of a kind there were.
func (t *tally) count(kind string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts[kind]
}

// lines returns a line for each event since the last call.
func (t *tally) lines() []string {
	t.mu.Lock()
	pending, skipped := t.pending, t.skipped
	t.pending, t.skipped = nil, 0
	t.mu.Unlock()
	var lines []string
	for _, event := range pending {
		lines = append(lines, event.line())
	}
	if skipped > 0 {
		lines = append(lines, fmt.Sprintf("              and %d more", skipped))
	}
	return lines
}
