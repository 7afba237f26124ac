package telemetry

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// Writer hands lines to another writer from a goroutine of its own, so that
// whoever logs never waits for whoever reads the log. Lines that find no room
// are lost and counted. It is safe for concurrent use.
type Writer struct {
	out   io.Writer
	text  bool
	lines chan []byte
	lost  atomic.Uint64
	ended chan struct{}
	stop  sync.Once
	quit  chan struct{}
}

// queuedLines is how many lines wait at most: some seconds of a busy log.
const queuedLines = 4096

// NewWriter starts a Writer that writes to out. Close it. What it says itself is in
// the form of slog's text or JSON handler.
func NewWriter(out io.Writer, text bool) *Writer {
	w := &Writer{out: out, text: text, lines: make(chan []byte, queuedLines), ended: make(chan struct{}), quit: make(chan struct{})}
	go w.run()
	return w
}

// Write queues a copy of one line. It never blocks and never fails.
func (w *Writer) Write(line []byte) (int, error) {
	select {
	case w.lines <- append([]byte(nil), line...):
	default:
		w.lost.Add(1)
	}
	return len(line), nil
}

// closeTimeout is how long Close waits for whoever does not read the log.
const closeTimeout = time.Second

// Close writes what is queued and ends the goroutine; it gives up after a second
// if that blocks. Lines written afterwards are lost.
func (w *Writer) Close() error {
	w.stop.Do(func() { close(w.quit) })
	select {
	case <-w.ended:
		return nil
	case <-time.After(closeTimeout):
		return errors.New("the log is not read: its last lines are lost")
	}
}

func (w *Writer) run() {
	defer close(w.ended)
	for {
		select {
		case line := <-w.lines:
			w.write(line)
		case <-w.quit:
			w.drain()
			return
		}
	}
}

func (w *Writer) drain() {
	for {
		select {
		case line := <-w.lines:
			w.write(line)
		default:
			return
		}
	}
}

func (w *Writer) write(line []byte) {
	if n := w.lost.Swap(0); n > 0 {
		form := `{"level":"WARN","msg":"log lines were lost","lost":%d}`
		if w.text {
			form = `level=WARN msg="log lines were lost" lost=%d`
		}
		_, _ = fmt.Fprintf(w.out, form+"\n", n)
	}
	_, _ = w.out.Write(line)
}
