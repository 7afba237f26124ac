package telemetry_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/telemetry"
)

// stuck is a writer that takes nothing until it is opened.
type stuck struct {
	open  chan struct{}
	began chan struct{} // gets one for every Write
	bytes.Buffer
}

func newStuck() *stuck {
	return &stuck{open: make(chan struct{}), began: make(chan struct{}, 100_000)}
}

func (s *stuck) Write(data []byte) (int, error) {
	s.began <- struct{}{}
	<-s.open
	return s.Buffer.Write(data)
}

func TestWriterWritesEverything(t *testing.T) {
	t.Parallel()
	out := newStuck()
	close(out.open)
	w := telemetry.NewWriter(out, false)
	line := []byte("line 1\n")
	for range 3 {
		if n, err := w.Write(line); n != len(line) || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
	}
	copy(line, "changed") // the writer has its own copy
	for range 2 {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
	if got, want := out.String(), strings.Repeat("line 1\n", 3); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if n, err := w.Write(line); n != len(line) || err != nil {
		t.Errorf("after Close: got %d, %v", n, err)
	}
}

// Whoever logs does not wait for whoever reads, and what was lost is said where
// it was lost.
func TestWriterNeverBlocks(t *testing.T) {
	t.Parallel()
	for text, note := range map[bool]string{
		false: `{"level":"WARN","msg":"log lines were lost","lost":%d}`,
		true:  `level=WARN msg="log lines were lost" lost=%d`,
	} {
		t.Run(fmt.Sprintf("text %t", text), func(t *testing.T) {
			t.Parallel()
			testNeverBlocks(t, text, note)
		})
	}
}

func testNeverBlocks(t *testing.T, text bool, note string) {
	t.Helper()
	const lines = 10_000
	out := newStuck()
	w := telemetry.NewWriter(out, text)
	_, _ = w.Write([]byte("first\n"))
	<-out.began // it is stuck with that
	var wg sync.WaitGroup
	for worker := range 10 {
		wg.Go(func() {
			for i := range lines / 10 {
				_, _ = fmt.Fprintf(w, "line %d of %d\n", i, worker)
			}
		})
	}
	wg.Wait() // nobody reads, and nobody waits
	close(out.open)
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	got := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(got) < 3 || got[0] != "first" {
		t.Fatalf("got %d lines", len(got))
	}
	const notes = 1
	written := len(got) - 1 - notes
	want := fmt.Sprintf(note, lines-written)
	if got[1] != want {
		t.Errorf("got %q, want %q", got[1], want)
	}
	if written >= lines {
		t.Error("no line was lost")
	}
}
