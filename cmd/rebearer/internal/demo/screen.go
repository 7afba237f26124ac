package demo

import (
	"fmt"
	"io"
	"os"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

const (
	// drawEvery is how often a terminal is brought up to date.
	drawEvery = 100 * time.Millisecond
	// plainEvery is how many of these pass between two plain status lines.
	plainEvery = int(time.Second / drawEvery)
)

// eraseLine returns to the start of the line and clears it (ECMA-48 EL).
const eraseLine = "\r\x1b[K"

// screen shows lines, and on a terminal a status line below them that is
// updated in place. It is not safe for concurrent use. What cannot be written
// is lost: there is nobody to tell.
type screen struct {
	out    io.Writer
	width  func() int // of the terminal; nil if there is none
	status string     // what stands on the status line
}

func newScreen(out io.Writer, plain bool) *screen {
	s := &screen{out: out}
	file, ok := out.(*os.File)
	if plain || !ok {
		return s
	}
	fd := int(file.Fd())
	if term.IsTerminal(fd) {
		s.width = func() int {
			width, _, err := term.GetSize(fd)
			if err != nil || width == 0 { // a terminal that does not know
				return 80
			}
			return width
		}
	}
	return s
}

// line prints a line that stays.
func (s *screen) line(text string) {
	if s.status != "" {
		_, _ = io.WriteString(s.out, eraseLine)
	}
	_, _ = fmt.Fprintln(s.out, text)
	if s.status != "" {
		_, _ = io.WriteString(s.out, s.status)
	}
}

// show brings the status line up to date.
func (s *screen) show(status string) {
	if s.width == nil {
		_, _ = fmt.Fprintln(s.out, status)
		return
	}
	s.status = cut(status, s.width()-1)
	_, _ = io.WriteString(s.out, eraseLine+s.status)
}

// clear removes the status line.
func (s *screen) clear() {
	if s.status != "" {
		_, _ = io.WriteString(s.out, eraseLine)
		s.status = ""
	}
}

// cut shortens a text to so many characters.
func cut(text string, width int) string {
	if utf8.RuneCountInString(text) <= max(width, 0) {
		return text
	}
	return string([]rune(text)[:max(width, 0)])
}

// follow shows the lines and the status until done is closed, and then what
// lines there are still.
func (s *screen) follow(done <-chan struct{}, lines func() []string, status func() string) {
	ticker := time.NewTicker(drawEvery)
	defer ticker.Stop()
	for tick, ended := 1, false; !ended; tick++ {
		select {
		case <-ticker.C:
		case <-done:
			ended = true
		}
		for _, text := range lines() {
			s.line(text)
		}
		if s.width != nil || tick%plainEvery == 0 {
			s.show(status())
		}
	}
	s.clear()
}
