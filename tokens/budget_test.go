package tokens

import (
	"fmt"
	"testing"
	"time"
)

func TestBudget(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const every = 10 * time.Second
	type step struct {
		at       time.Duration // since start
		reserve  int
		giveBack bool
		want     bool // taken
		wait     time.Duration
	}
	tests := map[string][]step{
		"a burst, then one each period": {
			{0, 0, false, true, 0},
			{0, 0, false, true, 0},
			{0, 0, false, true, every},
			{0, 0, false, false, every},
			{5 * time.Second, 0, false, false, 5 * time.Second},
			{10 * time.Second, 0, false, true, every},
			{10 * time.Second, 0, false, false, every},
		},
		"a reserve is left": {
			{0, 1, false, true, 0}, {0, 1, false, true, 0}, {0, 1, false, false, 0}, {0, 0, false, true, every},
		},
		"a reserve as large as the burst": {{0, 3, false, false, 0}, {0, 2, false, true, 0}},
		"it never holds more than the burst": {
			{time.Hour, 0, true, true, 0},
			{time.Hour, 0, false, true, 0},
			{time.Hour, 0, false, true, every},
			{time.Hour, 0, false, false, every},
		},
		"what is given back can be taken": {
			{0, 0, false, true, 0},
			{0, 0, false, true, 0},
			{0, 0, false, true, every},
			{0, 0, true, true, every},
			{0, 0, false, false, every},
		},
		"a clock that goes back changes nothing": {
			{0, 0, false, true, 0},
			{0, 0, false, true, 0},
			{0, 0, false, true, every},
			{-time.Hour, 0, false, false, every},
			{10 * time.Second, 0, false, true, every},
		},
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBudget(3, every, start)
			for i, s := range steps {
				now := start.Add(s.at)
				if s.giveBack {
					b.giveBack()
				}
				if got := b.take(now, s.reserve); got != s.want {
					t.Errorf("step %d: take: got %t", i, got)
				}
				if got := b.wait(now); got != s.wait {
					t.Errorf("step %d: wait: got %v, want %v", i, got, s.wait)
				}
			}
		})
	}
}

func TestSilence(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := silence{}
	s.add("a", now, now.Add(time.Second))
	for _, tt := range []struct {
		name string
		at   time.Duration
		want bool
	}{
		{"a", 0, true},
		{"b", 0, false},
		{"a", time.Second - 1, true},
		{"a", time.Second, false},
		{"a", 0, false}, // forgotten
	} {
		if got := s.has(tt.name, now.Add(tt.at)); got != tt.want {
			t.Errorf("%s after %v: got %t", tt.name, tt.at, got)
		}
	}
}

func TestSilenceIsBounded(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := silence{}
	for i := range maxSilent + 10 {
		s.add(fmt.Sprint(i), now, now.Add(time.Second))
	}
	if len(s) != maxSilent {
		t.Errorf("holds %d, want %d", len(s), maxSilent)
	}
	if s.has(fmt.Sprint(maxSilent), now) {
		t.Error("silenced without room")
	}
	// One that is silenced already needs no room.
	s.add("0", now, now.Add(time.Minute))
	later := now.Add(2 * time.Second)
	if !s.has("0", later) {
		t.Error("a name that was silenced already was not silenced for longer")
	}
	s.add("1", now, now.Add(time.Second)) // full again
	s.add("new", later, later.Add(time.Second))
	if !s.has("new", later) || len(s) > 2 {
		t.Errorf("what is over makes no room: holds %d", len(s))
	}
}
