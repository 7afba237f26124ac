package tokens

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// model is what a test knows of a credential that it drives at random.
type model struct {
	c     *Credential
	began time.Time
	renew bool                 // before tokens expire
	given []Token              // what was handed out, oldest first
	dead  map[Fingerprint]bool // what was evicted as dead while a fresh one was in hand
	held  Token                // as of the last check

	mu       sync.Mutex // guards what follows
	provider behaviour
	// causes counts the tokens that came, by why they were asked for.
	causes map[Reason]int
}

// behaviour is what a provider does.
type behaviour struct {
	down bool
	slow time.Duration
	life time.Duration
}

func (m *model) behaviour() behaviour {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.provider
}

// caused is how many tokens came because of rejections.
func (m *model) caused() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.causes[ReasonDead] + m.causes[ReasonProbe] + m.causes[ReasonProportion] + m.causes[ReasonSuspect]
}

func newModel(t *rapid.T, cache *Cache) *model {
	m := &model{
		provider: behaviour{life: time.Minute}, dead: map[Fingerprint]bool{}, causes: map[Reason]int{}, began: time.Now(),
	}
	source := &script{answer: func(ctx context.Context, n int) (Grant, error) {
		does := m.behaviour()
		if err := sleep(ctx, does.slow); err != nil {
			return Grant{}, err
		}
		if does.down {
			return Grant{}, errDown
		}
		return Grant{AccessToken: Secret(fmt.Sprint("token-", n)), ExpiresIn: does.life}, nil
	}}
	var expiry Expiry
	if m.renew = rapid.Bool().Draw(t, "renew"); m.renew {
		expiry.Margin = 10 * time.Second
	}
	c, err := NewCredential(cache, Config{
		Name: "orders", Key: "k", Source: source, Expiry: expiry,
		Observer: func(ev Event) {
			m.mu.Lock()
			defer m.mu.Unlock()
			if ev.Kind == EventIssued {
				m.causes[ev.Reason]++
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	m.c = c
	return m
}

// token takes a token, and checks what was handed out.
func (m *model) token(t *rapid.T) {
	attempt := rapid.IntRange(1, 3).Draw(t, "attempt")
	token, err := m.c.Token(context.Background(), Request{Attempt: attempt})
	if err != nil {
		return
	}
	if !time.Now().Before(token.Expires) {
		t.Fatalf("handed out generation %d %v after its end", token.Generation, time.Since(token.Expires))
	}
	if m.dead[token.Fingerprint] {
		t.Fatalf("handed out generation %d, which was evicted", token.Generation)
	}
	if n := len(m.given); n > 0 && token.Generation < m.given[n-1].Generation {
		t.Fatalf("handed out generation %d after %d", token.Generation, m.given[n-1].Generation)
	}
	m.given = append(m.given, token)
}

// reject tells of the rejection of any token that was ever handed out.
func (m *model) reject(t *rapid.T) {
	if len(m.given) == 0 {
		t.Skip("nothing was handed out")
	}
	// Mostly one of the last.
	back := rapid.IntRange(0, min(len(m.given)-1, 4)).Draw(t, "back")
	token := m.given[len(m.given)-1-back]
	r := refusalOf(token, rapid.IntRange(1, 3).Draw(t, "attempt"), rapid.SampledFrom([]Verdict{Unclear, Dead, NotAllowed}).Draw(t, "verdict"))
	r.Use.Caller = Fingerprint(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "caller"))
	held := m.c.Status().Token
	o := m.c.Rejected(context.Background(), r)
	now := m.c.Status()
	switch {
	case r.Verdict == NotAllowed && o.Answer != Pass:
		t.Fatalf("not allowed: got %+v", o)
	case o.Answer == TryAgain && !now.Alive:
		t.Fatalf("%+v without a token in hand", o)
	case o.Answer == TryAgain && now.Token.Fingerprint == r.Fingerprint:
		t.Fatalf("%+v with the refused token in hand", o)
	case o.Reason == ReasonLate && held.Generation != now.Token.Generation && held.Fingerprint != r.Fingerprint:
		t.Fatalf("a late rejection of generation %d replaced %d", token.Generation, held.Generation)
	}
	if o.Answer == TryAgain {
		m.dead[r.Fingerprint] = true
	}
}

// storm sends requests at once, whose token may die meanwhile.
func (m *model) storm(t *rapid.T) {
	n := rapid.IntRange(2, 20).Draw(t, "requests")
	dies := rapid.Bool().Draw(t, "dies")
	verdict := rapid.SampledFrom([]Verdict{Unclear, Dead}).Draw(t, "verdict")
	last := m.c.Status().Token.Generation
	problems := make(chan string, 10*n)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			send(context.Background(), m.c, verdict, func(token Token) bool {
				if !time.Now().Add(-20 * time.Millisecond).Before(token.Expires) {
					problems <- fmt.Sprintf("handed out generation %d after its end", token.Generation)
				}
				return dies && token.Generation <= last
			})
		})
	}
	wg.Wait()
	close(problems)
	for problem := range problems {
		t.Fatal(problem)
	}
	if s := m.c.Status(); s.Token.Generation > last+uint64(n) {
		t.Fatalf("%d requests made generation %d of %d", n, s.Token.Generation, last)
	}
}

// check is what is true after every step.
func (m *model) check(t *rapid.T) {
	synctest.Wait()
	s := m.c.Status()
	if s.Token.Generation < m.held.Generation {
		t.Fatalf("generation %d follows %d", s.Token.Generation, m.held.Generation)
	}
	m.held = s.Token
	caused := m.caused()
	coolDowns := int(time.Since(m.began)/defaultCoolDown) + 1
	most := trialBurst + returnBurst + 2*coolDowns
	if m.renew {
		// A rejection that joins a renewal takes it over at no cost.
		most += int(time.Since(m.began) / (4 * time.Second))
	}
	if caused > most {
		t.Fatalf("rejections caused %d token requests in %v, want at most %d", caused, time.Since(m.began), most)
	}
}

// keep lets time pass, in which a token that is alive and that nobody refuses
// must not be lost.
func (m *model) keep(t *rapid.T) {
	before := m.c.Status()
	pass := time.Duration(rapid.Int64Range(0, int64(20*time.Second)).Draw(t, "pass"))
	time.Sleep(pass)
	synctest.Wait()
	after := m.c.Status()
	lives := time.Now().Before(before.Token.Expires)
	switch {
	case before.Alive && lives && !after.Alive:
		t.Fatalf("generation %d was lost, %v before its end", before.Token.Generation, time.Until(before.Token.Expires))
	case after.Alive && !time.Now().Before(after.Token.Expires):
		t.Fatalf("generation %d lives after its end", after.Token.Generation)
	}
}

// undying is a test whose deadline is not asked for: synctest has none.
type undying struct{ testing.TB }

// Whatever happens in whatever order, no expired token is handed out, none that
// was replaced because it was refused, no living one is lost, and rejections
// cost no more than their budget.
func TestCredentialProperties(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cache, err := NewCache(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		defer cache.Close()
		rapid.Check(undying{t}, func(t *rapid.T) {
			m := newModel(t, cache)
			defer func() {
				m.c.Close()
				time.Sleep(time.Minute) // what is in flight ends
			}()
			t.Repeat(map[string]func(*rapid.T){
				"":         m.check,
				"token":    m.token,
				"reject":   m.reject,
				"storm":    m.storm,
				"keep":     m.keep,
				"flush":    func(*rapid.T) { _, _ = m.c.Flush() },
				"pause":    func(*rapid.T) { m.c.Pause() },
				"resume":   func(*rapid.T) { m.c.Resume() },
				"accept":   m.accept,
				"provider": m.change,
			})
		})
	})
}

// accept tells that a retried request passed with the last token.
func (m *model) accept(t *rapid.T) {
	if len(m.given) == 0 {
		t.Skip("nothing was handed out")
	}
	token := m.given[len(m.given)-1]
	m.c.Accepted(Acceptance{Fingerprint: token.Fingerprint, Attempt: rapid.IntRange(1, 3).Draw(t, "attempt")})
}

// change makes the provider another.
func (m *model) change(t *rapid.T) {
	does := behaviour{
		down: rapid.Bool().Draw(t, "down"),
		slow: rapid.SampledFrom([]time.Duration{0, 20 * time.Millisecond, time.Second, 4 * time.Second, 10 * time.Second}).Draw(t, "slow"),
		life: rapid.SampledFrom([]time.Duration{0, time.Second, 15 * time.Second, time.Minute, time.Hour}).Draw(t, "life"),
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.provider = does
}
