package hook_test

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/rebearer/rebearer/envoy/rejection"
	"github.com/rebearer/rebearer/tokens"
)

// unfinished is a stream on which nothing comes after the first message.
type unfinished struct {
	oneMessage

	ended chan struct{} // by Envoy, or by the hook
}

func (s *unfinished) Recv() (*extprocv3.ProcessingRequest, error) {
	if s.request != nil {
		return s.oneMessage.Recv()
	}
	<-s.ended
	return nil, io.EOF
}

// A body that does not come holds nobody for long. What the headers say is told
// for the sake of other requests, and nobody waits for what follows from it.
func TestBodyThatDoesNotCome(t *testing.T) {
	t.Parallel()
	for name, envoyEnds := range map[string]time.Duration{"trickles": time.Hour, "is cut off": 300 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := &credential{
					outcome: tokens.Outcome{Answer: tokens.Unavailable},
					hold:    func(ctx context.Context) { <-ctx.Done() },
				}
				to := target(c)
				to.Rules = readsEverything(t)
				s := &unfinished{oneMessage{ctx: as(t.Context(), observes()), request: answerOf("401", body(13))}, make(chan struct{})}
				end := time.AfterFunc(envoyEnds, func() { close(s.ended) })
				began := time.Now()
				if err := newHook(t, to).Process(s); err != nil {
					t.Error(err)
				}
				if held := time.Since(began); held > 2*time.Second {
					t.Errorf("held for %v", held)
				}
				if end.Stop() {
					close(s.ended)
				}
				if len(s.answers) != 1 {
					t.Errorf("%d answers, want the one that asks for the body", len(s.answers))
				}
				rejected, _ := c.told()
				if len(rejected) != 1 || rejected[0].Retriable || rejected[0].Verdict != tokens.Dead || rejected[0].Rule != rejection.RuleStatus {
					t.Errorf("rejected: got %+v", rejected)
				}
			})
		})
	}
}
