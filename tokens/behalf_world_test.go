package tokens

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// requestBehalf sends one request the way Envoy would, with a token that is got
// on behalf of the caller.
func (w *world) requestBehalf(ctx context.Context, caller, subject string, real bool) string {
	c := w.replicas[0]
	for n := 1; ; n++ {
		r := behalfOf(subject)
		r.Attempt = n
		token, err := c.Token(ctx, r)
		if err != nil {
			return "503"
		}
		use := Use{
			Policy: "p", Credential: "orders", Caller: Fingerprint(caller), Subject: token.Subject,
			Generation: token.Generation, Age: time.Since(token.Issued),
		}
		if answer := w.finish(ctx, try{use, token, n}, real, false); answer != "" {
			return answer
		}
	}
}

// abuse lets a caller make as many rejections as he can, each few with a token of
// their own, until ctx ends.
func (w *world) abuse(ctx context.Context, who string) {
	go func() {
		for n := 0; ctx.Err() == nil; n++ {
			w.requestBehalf(context.Background(), who, fmt.Sprint(who, "-", n/5), true)
			time.Sleep(100 * time.Millisecond)
		}
	}()
}

// come lets callers send a request every so often, until ctx ends.
func (w *world) come(ctx context.Context, who string, n int, every time.Duration, real bool) {
	for i := range n {
		go func() {
			caller := fmt.Sprint(who, i)
			time.Sleep(every * time.Duration(i) / time.Duration(n))
			for ctx.Err() == nil {
				w.note(w.requestBehalf(context.Background(), caller, caller, real))
				time.Sleep(every)
			}
		}()
	}
}

// A provider that voids the tokens of all callers costs each of them one token
// request: a few find out, the others' are renewed before they are used.
func TestRestartUnderLoadOnBehalf(t *testing.T) {
	t.Parallel()
	const callers, restarts = 200, 2
	tests := []struct {
		name  string
		bad   int // callers who have nothing but real 403s
		abuse int // callers who make as many rejections as they can
		lost  float64
	}{
		{"all good", 0, 0, 0.001},
		{"one is not allowed", 1, 0, 0.004},
		{"ten are not allowed", 10, 0, 0.004},
		{"one abuses it", 0, 1, 0.004},
		{"five abuse it", 0, 5, 0.004},
	}
	for _, tt := range tests {
		for _, verdict := range []Verdict{Unclear, Dead} {
			t.Run(fmt.Sprint(tt.name, ", ", verdict), func(t *testing.T) {
				t.Parallel()
				simulate(t, tt.bad+tt.abuse > 0, func(t *testing.T) error {
					w := newWorld(t, 1, onBehalf)
					w.verdict = verdict
					ctx, stop := context.WithCancel(t.Context())
					w.come(ctx, "good-", callers, time.Second, false)
					w.come(ctx, "bad-", tt.bad, 100*time.Millisecond, true)
					for i := range tt.abuse {
						w.abuse(ctx, fmt.Sprint("abuser-", i))
					}
					w.restarts(restarts, time.Minute)
					stop()
					time.Sleep(10 * time.Second)
					synctest.Wait()
					lost := w.results["403"]
					if tt.bad == 0 {
						lost += w.results["503"]
					}
					total := lost + w.results["200"]
					t.Logf("%d requests, %d lost, %d token requests, %v", total, lost, w.asked, w.results)
					if got := float64(lost) / float64(total); got > tt.lost {
						return fmt.Errorf("lost %d of %d requests, want at most %.1f %%", lost, total, 100*tt.lost)
					}
					if most := (callers+tt.bad)*(restarts+1) + 4*trialBurst + 10*tt.bad; tt.abuse == 0 && w.asked > most {
						return fmt.Errorf("%d token requests, want at most %d", w.asked, most)
					}
					return nil
				})
			})
		}
	}
}
