package tokens

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// copies is who holds copies of a credential's token.
type copies struct {
	mu   sync.Mutex
	told []Token
}

func (c *copies) publish(t Token) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = append(c.told, t)
}

// values returns what was told since the last call.
func (c *copies) values() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []string
	for _, t := range c.told {
		list = append(list, t.Value.Reveal())
	}
	c.told = nil
	return list
}

// expect fails the test where something else was told since the last call.
func (c *copies) expect(t *testing.T, when string, want ...string) {
	t.Helper()
	synctest.Wait()
	got := c.values()
	if len(got) != len(want) {
		t.Errorf("%s: told %q, want %q", when, got, want)
		return
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("%s: told %q, want %q", when, got, want)
		}
	}
}

// Who holds copies is told of every token of our own, in their order, and of
// its end.
func TestPublish(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &copies{}
		source := numbered(time.Minute, 0)
		c, _ := newTestCredential(t, source, func(c *Config) { c.Publish, c.Expiry.Margin = p.publish, 10*time.Second })
		token := mustToken(t, c)
		p.expect(t, "first", "token-1")
		time.Sleep(2 * freshFor)
		c.Rejected(t.Context(), refusalOf(token, 1, Dead))
		p.expect(t, "rejection", "token-2")
		if _, err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		p.expect(t, "flush", "", "token-3")
		time.Sleep(55 * time.Second)
		p.expect(t, "renewal", "token-4")
		c.Pause()
		time.Sleep(time.Minute)
		c.Resume()
		p.expect(t, "pause beyond its end", "", "token-5")
		c.Close()
		p.expect(t, "close")
	})
}

// A token on behalf of a caller is nobody else's, nor is that of a bypass.
func TestPublishTellsNoCallersToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &copies{}
		c, _ := newTestCredential(t, &provider{life: time.Minute}, onBehalf, func(c *Config) { c.Publish = p.publish })
		mustTokenOf(t, c, "a")
		c, _ = newTestCredential(t, &provider{life: time.Minute}, func(c *Config) { c.Bypass, c.Publish = true, p.publish })
		mustToken(t, c)
		time.Sleep(time.Hour)
		p.expect(t, "callers")
	})
}

// Where nobody asks for tokens, because others hold copies, nobody asks for the
// next one when the provider is back: it must come by itself. And the end of the
// last one is told when it comes.
func TestPublishAfterAnOutage(t *testing.T) {
	t.Parallel()
	for name, warm := range map[string]bool{"from the start": false, "later": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := &copies{}
				down := !warm
				source := &provider{life: time.Minute, refuses: func(GrantRequest) error {
					if down {
						return errDown
					}
					return nil
				}}
				c, _ := newTestCredential(t, source, func(c *Config) { c.Publish, c.Expiry.Margin = p.publish, 10*time.Second })
				c.Warm()
				synctest.Wait()
				if warm {
					p.expect(t, "first", "/1")
					source.set(func() { down = true })
					time.Sleep(time.Until(c.Status().Token.Expires))
					p.expect(t, "at its end", "")
				}
				time.Sleep(10 * time.Minute)
				if most := 70; source.count().asked > most {
					t.Errorf("%d token requests while it was down, want at most %d", source.count().asked, most)
				}
				p.expect(t, "while it is down")
				source.set(func() { down = false })
				time.Sleep(maxRenewalWait + maxRetry)
				if got := p.values(); len(got) == 0 || got[0] == "" {
					t.Errorf("told %q once the provider was back", got)
				}
			})
		})
	}
}

// A token that is voided for a simulation is replaced as soon as it is refused.
func TestVoid(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &copies{}
		c, d := newTestCredential(t, numbered(time.Hour, 20*time.Millisecond), func(c *Config) { c.Publish = p.publish })
		if err := c.Void(); !errors.Is(err, ErrNothingHeld) {
			t.Errorf("nothing to void: got %v", err)
		}
		good := settled(t, c)
		p.expect(t, "first", "token-1")
		if err := c.Void(); err != nil {
			t.Fatal(err)
		}
		void := mustToken(t, c)
		p.expect(t, "void", "", void.Value.Reveal())
		if void.Value == good.Value || void.Generation != 2 || !void.Expires.Equal(good.Expires) || void.Fingerprint != FingerprintOf(void.Value.Reveal()) {
			t.Errorf("got %+v", void)
		}
		if o := c.Rejected(t.Context(), refusalOf(void, 1, Unclear)); o != (Outcome{Answer: TryAgain, Reason: ReasonProbe}) {
			t.Errorf("got %+v", o)
		}
		if token := mustToken(t, c); token.Value != "token-2" || token.Generation != 3 {
			t.Errorf("got %+v", token)
		}
		if o := c.Rejected(t.Context(), refusalOf(good, 1, Dead)); o.Reason != ReasonLate {
			t.Errorf("a late rejection of the one before: got %+v", o)
		}
		if evicted := d.of(EventEvicted); len(evicted) != 2 || evicted[0].Reason != ReasonSimulated || evicted[0].Fingerprint != good.Fingerprint {
			t.Errorf("evicted: %+v", evicted)
		}
	})
}
