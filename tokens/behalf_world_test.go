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
func (w *world) requestBehalf(ctx context.Context, caller string, real bool) string {
	c := w.replicas[0]
	for attempt := 1; ; attempt++ {
		r := behalfOf(caller)
		r.Attempt = attempt
		token, err := c.Token(ctx, r)
		if err != nil {
			return "503"
		}
		use := Use{Policy: "p", Credential: "orders", Caller: Fingerprint(caller), Subject: token.Subject, Generation: token.Generation, Age: time.Since(token.Issued)}
		answer := w.finish(ctx, try{use, token, attempt}, real, false)
		if answer != "" {
			return answer
		}
	}
}

func TestScratchBehalf(t *testing.T) {
	for _, bad := range []int{0, 1, 10} {
		for _, fresh := range []bool{false, true} {
			for _, v := range []Verdict{Unclear, Dead} {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t, 1, onBehalf)
					w.verdict = v
					ctx, stop := context.WithCancel(t.Context())
					for i := range 200 {
						go func() {
							time.Sleep(time.Duration(i) * 5 * time.Millisecond)
							for ctx.Err() == nil {
								w.note(w.requestBehalf(context.Background(), fmt.Sprint("good-", i), false))
								time.Sleep(time.Second)
							}
						}()
					}
					for i := range bad {
						go func() {
							for n := 0; ctx.Err() == nil; n++ {
								who := fmt.Sprint("bad-", i)
								if fresh {
									who = fmt.Sprint("bad-", i, "-", n/5)
								}
								w.requestBehalf(context.Background(), who, true)
								time.Sleep(100 * time.Millisecond)
							}
						}()
					}
					time.Sleep(30 * time.Second)
					w.results = map[string]int{}
					w.restarts(2, 60*time.Second)
					stop()
					time.Sleep(10 * time.Second)
					lost := w.results["403"] + w.results["503"]
					t.Logf("bad %d fresh %v %v: lost %d of %d, asked %d %v", bad, fresh, v, lost, lost+w.results["200"], w.asked, w.results)
				})
			}
		}
	}
}
