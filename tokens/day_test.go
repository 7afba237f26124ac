package tokens

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// heap returns what lives on the heap.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what the first one put into pools
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// longText makes a text of its own as long as a JWT often is.
func longText(kind string, n int) Secret {
	return Secret(fmt.Sprintf("%s-%d-%s", kind, n, strings.Repeat("x", 700)))
}

// wordy answers with long tokens, and keeps no book.
type wordy struct{ asked int }

func (w *wordy) Grant(context.Context, GrantRequest) (Grant, error) {
	w.asked++
	return Grant{AccessToken: longText("access", w.asked), RefreshToken: longText("refresh", w.asked), ExpiresIn: time.Hour}, nil
}

func (w *wordy) Revoke(context.Context, int, Secret) error { return nil }

// The bytes that are counted are those that an entry takes. It measures the heap
// and so runs alone.
func TestEntryBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 15_000
		cache := newTestCache(t, 1<<28)
		c, _ := newCredentialIn(t, cache, &wordy{}, onBehalf, func(c *Config) { c.Key, c.Observer = strings.Repeat("k", 64), nil })
		before := heap()
		for i := range n {
			if _, err := c.Token(t.Context(), Request{Subject: Subject{Token: longText("subject", i)}}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		taken := heap() - before
		s := cache.Stats()
		if s.Entries != n {
			t.Fatalf("%d entries, want %d", s.Entries, n)
		}
		texts := int64(s.Bytes) - n*entryBytes
		t.Logf("%d bytes counted, %d taken: %d for an entry beside its texts", s.Bytes, taken, (taken-texts)/n)
		if got := float64(s.Bytes) / float64(taken); got < 0.9 || got > 1.1 {
			t.Errorf("counted %.2f times what is taken", got)
		}
	})
}

// traffic is how callers come.
type traffic struct {
	every time.Duration // a new one
	life  time.Duration // of his token, and of the one that is got for him
	lasts time.Duration
	cache int64 // bytes
}

// day is the traffic of a day: in full with REBEARER_SLOW=1.
func day() traffic {
	if os.Getenv("REBEARER_SLOW") == "1" {
		return traffic{100 * time.Millisecond, time.Hour, 24 * time.Hour, 1 << 28}
	}
	return traffic{100 * time.Millisecond, 5 * time.Minute, 30 * time.Minute, 1 << 28}
}

// living is how many callers' tokens live at once, and a few whose end ristretto
// has not seen yet.
func (x traffic) living() int { return int((x.life + 15*time.Second + inUse) / x.every) }

// A day of distinct callers, ten a second: what is held stays flat, here and at
// the provider, and tokens of our own are never pushed out. It measures the heap
// and so runs alone.
func TestDayOfTraffic(t *testing.T) {
	room, pressure := day(), day()
	pressure.cache = 1 << 20
	for name, x := range map[string]traffic{"room": room, "pressure": pressure} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { x.run(t) })
		})
	}
}

func (x traffic) run(t *testing.T) {
	p := &provider{life: x.life, refreshes: true, slow: 20 * time.Millisecond}
	cache := newTestCache(t, x.cache)
	c, _ := newCredentialIn(t, cache, p, onBehalf, func(c *Config) { c.Observer = nil })
	ours := numbered(2*x.lasts, 0)
	own, _ := newCredentialIn(t, cache, ours, func(c *Config) { c.Observer = nil })
	empty := heap()
	var sizes []int64
	began := time.Now()
	for n := 0; time.Since(began) < x.lasts; n++ {
		r := Request{Subject: Subject{Token: longText("caller", n), Expires: time.Now().Add(x.life)}}
		if token, err := c.Token(t.Context(), r); err != nil || !strings.HasPrefix(token.Value.Reveal(), r.Subject.Token.Reveal()) {
			t.Fatalf("caller %d: got %s, %v", n, token.Value.Reveal(), err)
		}
		mustToken(t, own)
		time.Sleep(x.every - p.slow)
		if n%int(x.life/x.every) == 0 {
			sizes = append(sizes, heap()-empty)
			x.check(t, cache.Stats(), c.Status(), sizes)
		}
	}
	if n := p.count(); n.asked != int(x.lasts/x.every) || p.most > x.living() || n.refreshed != 0 {
		t.Errorf("%d refresh tokens lived at once, want at most %d; %+v", p.most, x.living(), n)
	}
	if ours.asked() != 1 {
		t.Errorf("%d token requests of our own, want 1", ours.asked())
	}
	time.Sleep(x.life + time.Minute)
	if n := p.count(); n.living != 0 || n.revoked != n.asked {
		t.Errorf("when all callers were gone: %+v", n)
	}
	if n := c.Status().Subjects; n != 0 {
		t.Errorf("%d entries are left", n)
	}
	p.check(t)
	t.Logf("%d callers, %d refresh tokens lived at once, heap in MB at the end of each life: %v", p.count().asked, p.most, inMB(sizes))
}

// check is what is true at the end of every life.
func (x traffic) check(t *testing.T, s CacheStats, c Status, sizes []int64) {
	t.Helper()
	if s.Bytes > uint64(x.cache) || int(s.Entries) > x.living()+1 || c.Subjects > int(s.Entries) {
		t.Errorf("%+v for %d callers' tokens", s, c.Subjects)
	}
	n := len(sizes)
	if n <= 2 { // it fills
		return
	}
	if flat := sizes[1] + sizes[1]/4 + 4<<20; sizes[n-1] > flat {
		t.Errorf("the heap grows: %v MB", inMB(sizes))
	}
	if got := float64(s.Bytes) / float64(sizes[n-1]); x.cache > 1<<20 && (got < 0.7 || got > 1.3) {
		t.Errorf("counted %.2f times what is taken", got)
	}
}

func inMB(sizes []int64) []string {
	var list []string
	for _, s := range sizes {
		list = append(list, fmt.Sprintf("%.1f", float64(s)/(1<<20)))
	}
	return list
}
