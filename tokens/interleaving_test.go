package tokens

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// crowd is what a test knows of a credential that several callers share, and
// that it drives at random.
type crowd struct {
	cache *Cache
	p     *provider
	cfg   Config
	c     *Credential
	begun time.Time
	who   []string             // the callers; one without a name for a token of our own
	given map[string][]Token   // what each was handed out, oldest first
	held  map[string]Token     // what must not be lost
	dead  map[Fingerprint]bool // what was refused, and a fresh one was in hand
	flush time.Time            // the last one
	spent int                  // budgets that reloads gave anew

	mu     sync.Mutex // guards what follows
	caused int        // tokens that came because of rejections
}

func newCrowd(t *rapid.T, cache *Cache) *crowd {
	m := &crowd{
		cache: cache, begun: time.Now(), who: []string{""},
		p:     &provider{life: time.Minute},
		given: map[string][]Token{}, held: map[string]Token{}, dead: map[Fingerprint]bool{},
	}
	m.cfg = Config{Name: "orders", Provider: "shop", Key: "k", Source: m.p, Observer: m.observe}
	if m.cfg.OnBehalf = rapid.Bool().Draw(t, "on behalf"); m.cfg.OnBehalf {
		m.who = []string{"a", "b", "c"}
	}
	if rapid.Bool().Draw(t, "renew") {
		m.cfg.Expiry.Margin = 10 * time.Second
	}
	m.cfg.Expiry.Refresh = 5 * time.Minute
	m.c = m.load(t)
	return m
}

func (m *crowd) observe(ev Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch ev.Reason {
	case ReasonDead, ReasonProbe, ReasonProportion, ReasonSuspect:
		if ev.Kind == EventIssued {
			m.caused++
		}
	}
}

func (m *crowd) load(t *rapid.T) *Credential {
	c, err := NewCredential(m.cache, m.cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (m *crowd) caller(t *rapid.T) string { return rapid.SampledFrom(m.who).Draw(t, "caller") }

// token takes a token for a caller, and looks at it.
func (m *crowd) token(t *rapid.T) {
	who := m.caller(t)
	r := behalfOf(who)
	r.Attempt = rapid.IntRange(1, 3).Draw(t, "attempt")
	r.Bypass = rapid.IntRange(0, 9).Draw(t, "bypass") == 0
	token, err := m.c.Token(context.Background(), r)
	if err != nil {
		m.failed(t, who, r.Bypass, err)
		return
	}
	switch {
	case !strings.HasPrefix(token.Value.Reveal(), who+"/"):
		t.Fatalf("%q was given %s", who, token.Value.Reveal())
	case !time.Now().Before(token.Expires):
		t.Fatalf("handed out generation %d %v after its end", token.Generation, time.Since(token.Expires))
	case token.Requested.Before(m.flush):
		t.Fatalf("handed out generation %d, which was flushed", token.Generation)
	case m.dead[token.Fingerprint]:
		t.Fatalf("handed out generation %d, which was evicted", token.Generation)
	case r.Bypass != (token.Generation == 0):
		t.Fatalf("handed out generation %d, bypass %t", token.Generation, r.Bypass)
	}
	if r.Bypass {
		return
	}
	if old := m.held[who]; old.aliveAt(time.Now()) && token.Requested.Before(old.Requested) {
		t.Fatalf("handed out generation %d after %d", token.Generation, old.Generation)
	}
	m.given[who] = append(m.given[who], token)
	m.held[who] = token
}

// failed looks at why there was no token.
func (m *crowd) failed(t *rapid.T, who string, bypass bool, err error) {
	var subject *SubjectError
	var unavailable *UnavailableError
	switch held := m.held[who]; {
	case !bypass && held.aliveAt(time.Now()):
		t.Fatalf("generation %d of %q was lost, %v before its end: %v", held.Generation, who, time.Until(held.Expires), err)
	case errors.As(err, &subject) && who != "a":
		t.Fatalf("%q was told that his token was refused", who)
	case !errors.As(err, &subject) && !errors.As(err, &unavailable):
		t.Fatalf("got %v", err)
	}
}

// reject tells of the rejection of a token that a caller was handed out lately.
func (m *crowd) reject(t *rapid.T) {
	who := m.caller(t)
	given := m.given[who]
	if len(given) == 0 {
		t.Skip("nothing was handed out")
	}
	token := given[len(given)-1-rapid.IntRange(0, min(len(given)-1, 4)).Draw(t, "back")]
	verdict := rapid.SampledFrom([]Verdict{Unclear, Dead, NotAllowed}).Draw(t, "verdict")
	r := refusalFor(who, token, rapid.IntRange(1, 3).Draw(t, "attempt"), verdict)
	o := m.c.Rejected(context.Background(), r)
	switch {
	case verdict == NotAllowed && o.Answer != Pass:
		t.Fatalf("not allowed: got %+v", o)
	case verdict == Dead && o.Answer == Pass:
		t.Fatalf("dead: got %+v", o)
	case o.Answer != TryAgain:
		return
	}
	m.dead[token.Fingerprint] = true
	if m.held[who].Fingerprint == token.Fingerprint {
		delete(m.held, who)
	}
	m.again(t, who, r)
}

// again sends a request that may be sent again, and may tell that it passed.
func (m *crowd) again(t *rapid.T, who string, r Rejection) {
	token, err := m.c.Again(context.Background(), retried(r))
	if err != nil {
		return // the fresh one ended
	}
	if token.Fingerprint == r.Fingerprint || !strings.HasPrefix(token.Value.Reveal(), who+"/") || token.Requested.Before(m.flush) {
		t.Fatalf("%q was sent again with generation %d, %s", who, token.Generation, token.Value.Reveal())
	}
	if rapid.Bool().Draw(t, "passes") {
		m.c.Accepted(Acceptance{Use: r.Use, Fingerprint: token.Fingerprint, Attempt: r.Attempt + 1})
	}
}

// rush sends requests of all callers at once.
func (m *crowd) rush(t *rapid.T) {
	n := rapid.IntRange(2, 30).Draw(t, "requests")
	asked := m.p.count().asked
	strange := make(chan string, n)
	var wg sync.WaitGroup
	for i := range n {
		who := m.who[i%len(m.who)]
		wg.Go(func() {
			if token, err := m.c.Token(context.Background(), behalfOf(who)); err == nil && !strings.HasPrefix(token.Value.Reveal(), who+"/") {
				strange <- fmt.Sprintf("%q was given %s", who, token.Value.Reveal())
			}
		})
	}
	wg.Wait()
	close(strange)
	for s := range strange {
		t.Fatal(s)
	}
	m.p.mu.Lock()
	healthy := m.p.refuses == nil && m.p.slow < time.Second && m.p.life > time.Minute
	m.p.mu.Unlock()
	if got := m.p.count().asked - asked; healthy && got > 2*len(m.who) { // one may have been in flight at a flush
		t.Fatalf("%d requests of %d callers cost %d token requests", n, len(m.who), got)
	}
}

func (m *crowd) flushAll(*rapid.T) {
	if _, err := m.c.Flush(); err == nil {
		m.flush = time.Now()
		clear(m.held)
	}
}

// reload has another credential take over, or fail to.
func (m *crowd) reload(t *rapid.T) {
	next := m.load(t)
	next.Adopt(m.c)
	m.spent++
	if rapid.IntRange(0, 3).Draw(t, "fails") == 0 {
		next.Close()
		return
	}
	m.c.Close()
	m.c = next
}

// change makes the provider another.
func (m *crowd) change(t *rapid.T) {
	err := rapid.SampledFrom([]error{nil, nil, errDown, &PermanentError{Err: errDown}, &SubjectError{Err: errDown}}).Draw(t, "fails")
	var subject *SubjectError
	ofOne := errors.As(err, &subject)
	m.p.mu.Lock()
	defer m.p.mu.Unlock()
	m.p.refuses = nil
	if err != nil {
		m.p.refuses = func(r GrantRequest) error {
			if ofOne && r.Subject != "a" {
				return nil
			}
			return err
		}
	}
	m.p.slow = rapid.SampledFrom([]time.Duration{0, 20 * time.Millisecond, time.Second, 4 * time.Second}).Draw(t, "slow")
	m.p.life = rapid.SampledFrom([]time.Duration{0, time.Second, 15 * time.Second, time.Minute, time.Hour}).Draw(t, "life")
	m.p.refreshes = rapid.Bool().Draw(t, "refreshes")
	m.p.keeps = rapid.Bool().Draw(t, "keeps")
}

// check is what is true after every step.
func (m *crowd) check(t *rapid.T) {
	synctest.Wait()
	m.p.mu.Lock()
	faults := m.p.faults
	m.p.mu.Unlock()
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	m.mu.Lock()
	caused := m.caused
	m.mu.Unlock()
	passed := time.Since(m.begun)
	most := trialBurst + returnBurst + 2*(int(passed/defaultCoolDown)+1) + m.spent*(trialBurst+returnBurst)
	if m.cfg.Expiry.Margin > 0 {
		// A rejection that joins a renewal takes it over at no cost.
		most += len(m.who) * int(passed/(4*time.Second))
	}
	if caused > most {
		t.Fatalf("rejections caused %d token requests in %v, want at most %d", caused, passed, most)
	}
}

// end is what is true when everybody has left.
func (m *crowd) end(t *rapid.T) {
	m.c.Close()
	time.Sleep(time.Minute) // what is in flight ends
	m.check(t)
	if n := m.p.count(); n.living != 0 || m.c.Status().Subjects != 0 || len(m.cache.busy) != 0 {
		t.Fatalf("%d refresh tokens live, %d entries, %d busy", n.living, m.c.Status().Subjects, len(m.cache.busy))
	}
}

// Whatever happens in whatever order, nobody is given a token that is another's,
// that ended, or that was flushed or evicted; none that lives is lost; rejections
// cost no more than their budget; and every refresh token is used or revoked.
func TestInterleavings(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cache := newTestCache(t, 1<<20)
		rapid.Check(undying{t}, func(t *rapid.T) {
			m := newCrowd(t, cache)
			defer m.end(t)
			t.Repeat(map[string]func(*rapid.T){
				"":       m.check,
				"token":  m.token,
				"reject": m.reject,
				"rush":   m.rush,
				"pass": func(t *rapid.T) {
					time.Sleep(time.Duration(rapid.Int64Range(0, int64(20*time.Second)).Draw(t, "pass")))
				},
				"flush":    m.flushAll,
				"pause":    func(*rapid.T) { m.c.Pause() },
				"resume":   func(*rapid.T) { m.c.Resume() },
				"reload":   m.reload,
				"provider": m.change,
			})
		})
	})
}
