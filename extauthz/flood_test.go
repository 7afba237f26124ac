package extauthz_test

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"

	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
)

// coolDown is that of package caller.
const coolDown = 10 * time.Second

// floodTime is how long a flood lasts: long with REBEARER_SLOW=1.
func floodTime() time.Duration {
	if os.Getenv("REBEARER_SLOW") == "1" {
		return 30 * time.Second
	}
	return 2 * time.Second
}

// load calls Check from several goroutines at once until it is stopped.
type load struct {
	client  authv3.AuthorizationClient
	stopped atomic.Bool
	running sync.WaitGroup
}

// run calls Check with the tokens that next gives, as fast as it goes, and tells
// seen what came of it.
func (l *load) run(t *testing.T, workers int, next func() string, seen func(status int, reason string)) {
	t.Helper()
	for range workers {
		l.running.Go(func() {
			for !l.stopped.Load() {
				response, err := l.client.Check(t.Context(), extauthztest.NewRequest(extauthztest.WithBearer(next())))
				if err != nil {
					t.Errorf("Check: %v", err)
					return
				}
				status := int(response.GetDeniedResponse().GetStatus().GetCode())
				if (status == 0) != (response.GetStatus().GetCode() == int32(codes.OK)) {
					t.Errorf("status %v with %d", response.GetStatus(), status)
				}
				seen(status, response.GetStatus().GetMessage())
			}
		})
	}
}

func (l *load) stop() {
	l.stopped.Store(true)
	l.running.Wait()
}

// security.md C22: a flood of random kids causes few fetches of the keys, and the
// issuer can change its key in the middle of it: no good token is refused.
func TestRandomKeyFlood(t *testing.T) {
	t.Parallel()
	issuer := extauthztest.NewIssuer(t)
	verifier, err := caller.NewJWT(caller.NewKeySet(issuer, slog.New(slog.DiscardHandler)), caller.JWTConfig{
		Issuer: issuer.URL, Audiences: []string{extauthztest.Audience},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(verifier.Close)
	l := &load{client: extauthztest.NewClient(t, newServer(t, verifier))}

	// Good callers, who come again and again, with tokens of the present key.
	var present atomic.Pointer[[]string]
	sign := func() {
		var tokens []string
		for i := range 8 {
			tokens = append(tokens, issuer.Token(fmt.Sprintf("regular-%d", i), nil))
		}
		present.Store(&tokens)
	}
	sign()
	var passed, fresh, refused atomic.Int64
	for _, token := range *present.Load() {
		if got := l.once(t, token); got != 0 {
			t.Fatalf("before the flood: got %d", got)
		}
	}
	l.run(t, 2, func() string { return (*present.Load())[rand.IntN(8)] }, func(status int, reason string) {
		if passed.Add(1); status != 0 {
			refused.Add(1)
			t.Errorf("a good token was answered %d %s", status, reason)
		}
	})
	// Made-up ones: all is right but the kid, which is another one each time.
	var made, invalid, unavailable atomic.Int64
	parts := strings.Split(issuer.Token("nobody", nil), ".")
	l.run(t, 4*runtime.GOMAXPROCS(0), func() string {
		header := fmt.Sprintf(`{"alg":"ES256","typ":"at+jwt","kid":"%016x"}`, rand.Uint64())
		return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + parts[1] + "." + parts[2]
	}, func(status int, _ string) {
		made.Add(1)
		switch status {
		case 401:
			invalid.Add(1)
		case 503:
			unavailable.Add(1)
		default:
			t.Errorf("a made-up token was answered %d", status)
		}
	})
	start := time.Now()
	wait(t, floodTime()/2)
	issuer.AddKey("2")
	sign()
	before := passed.Load()
	wait(t, floodTime()/2)
	// Someone who was not seen before: never refused, and served once the new
	// key is known.
	if got := l.once(t, issuer.Token("new", nil)); got != 0 {
		t.Errorf("a new caller after the change: got %d", got)
	}
	l.stop()
	lasted := time.Since(start)
	fresh.Store(passed.Load() - before)

	perCause := int(lasted/coolDown) + 1
	// The first load, and fetches for unknown keys of callers who are not known
	// and of those who are.
	if bound := 1 + 2*perCause; issuer.Fetches() > bound {
		t.Errorf("%d fetches of the keys, want at most %d", issuer.Fetches(), bound)
	}
	if fresh.Load() == 0 || passed.Load() == fresh.Load() {
		t.Error("no good token before or after the change")
	}
	t.Logf("%v: %d made-up tokens (%.0f/s: %d answered 401, %d 503), %d good ones, %d of them after the change and %d refused, %d fetches of the keys",
		lasted.Round(time.Millisecond), made.Load(), float64(made.Load())/lasted.Seconds(), invalid.Load(), unavailable.Load(),
		passed.Load(), fresh.Load(), refused.Load(), issuer.Fetches())
}

// once checks one token and returns the status.
func (l *load) once(t *testing.T, token string) int {
	t.Helper()
	response, err := l.client.Check(t.Context(), extauthztest.NewRequest(extauthztest.WithBearer(token)))
	if err != nil {
		t.Fatal(err)
	}
	return int(response.GetDeniedResponse().GetStatus().GetCode())
}

// wait lets a load go on.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}
