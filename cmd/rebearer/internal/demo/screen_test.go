package demo

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestScreen(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		width func() int
		want  string
	}{
		"terminal": {func() int { return 9 }, "first\n" + eraseLine + "status 1" + eraseLine + "event\nstatus 1" + eraseLine + "status 2" + eraseLine + "last\n"},
		"plain":    {nil, "first\nstatus 1 is long\nevent\nstatus 2 is long\nlast\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			s := newScreen(&out, false)
			s.width = test.width
			s.line("first")
			s.show("status 1 is long")
			s.line("event")
			s.show("status 2 is long")
			s.clear()
			s.line("last")
			if got := out.String(); got != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

func TestFollowPlain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		s := newScreen(&out, true)
		done := make(chan struct{})
		time.AfterFunc(2550*time.Millisecond, func() { close(done) })
		events := make(chan string, 1)
		events <- "at once"
		time.AfterFunc(2510*time.Millisecond, func() { events <- "at the end" })
		lines := func() []string {
			select {
			case event := <-events:
				return []string{event}
			default:
				return nil
			}
		}
		s.follow(done, lines, func() string { return "status" })
		if got, want := out.String(), "at once\nstatus\nstatus\nat the end\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestCut(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text  string
		width int
		want  string
	}{
		{"äöü", 3, "äöü"}, {"äöü", 2, "äö"}, {"abc", 0, ""}, {"abc", -1, ""}, {"", 5, ""},
	} {
		if got := cut(test.text, test.width); got != test.want {
			t.Errorf("cut(%q, %d): got %q, want %q", test.text, test.width, got, test.want)
		}
	}
}
