package tokens

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestLifetime(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		expiry       Expiry
		stated, want time.Duration
	}{
		"stated":                   {Expiry{}, time.Hour, time.Hour},
		"not stated":               {Expiry{}, 0, defaultLifetime},
		"not stated, default":      {Expiry{Default: time.Minute}, 0, time.Minute},
		"negative":                 {Expiry{Default: time.Minute}, -time.Second, time.Minute},
		"stated beats default":     {Expiry{Default: time.Minute}, time.Hour, time.Hour},
		"capped":                   {Expiry{Max: time.Minute}, time.Hour, time.Minute},
		"under the cap":            {Expiry{Max: time.Hour}, time.Minute, time.Minute},
		"default is capped too":    {Expiry{Default: time.Hour, Max: time.Minute}, 0, time.Minute},
		"negative default":         {Expiry{Default: -1}, 0, defaultLifetime},
		"a century, without a cap": {Expiry{}, 100 * 365 * 24 * time.Hour, 100 * 365 * 24 * time.Hour},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := tt.expiry.lifetime(tt.stated); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestRenewal(t *testing.T) {
	t.Parallel()
	const almostOne = 0.999999
	tests := map[string]struct {
		margin, life time.Duration
		spread       float64
		want         time.Duration // after the token was issued
	}{
		"margin":                     {30 * time.Second, time.Hour, 0, time.Hour - 30*time.Second},
		"no margin":                  {0, time.Hour, almostOne, time.Hour},
		"negative margin":            {-time.Second, time.Hour, 0, time.Hour},
		"half the lifetime":          {30 * time.Second, 20 * time.Second, 0, 10 * time.Second},
		"just the lifetime":          {30 * time.Second, 30 * time.Second, 0, 15 * time.Second},
		"one second":                 {30 * time.Second, time.Second, 0, time.Second / 2},
		"one second, spread":         {30 * time.Second, time.Second, 0.5, 450 * time.Millisecond},
		"spread":                     {30 * time.Second, time.Hour, 0.5, time.Hour - 33*time.Second},
		"expired when it was issued": {30 * time.Second, -time.Second, 0, 0},
		"no lifetime":                {30 * time.Second, 0, 0.5, 0},
		"a nanosecond":               {30 * time.Second, 1, 0, 1},
	}
	issued := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := Expiry{Margin: tt.margin}.renewal(issued, issued.Add(tt.life), tt.spread)
			if got := got.Sub(issued); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// Every renewal is early, but never by more than the jitter; renewals differ.
func TestRenewalJitter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const margin = 10 * time.Second
		source := numbered(time.Minute, 0)
		c, d := newTestCredential(t, source, func(cfg *Config) { cfg.Expiry.Margin = margin })
		mustToken(t, c)
		time.Sleep(time.Hour)
		renewed := d.of(EventRenewed)
		if len(renewed) < 60 || len(renewed) > 80 {
			t.Errorf("%d renewals in an hour", len(renewed))
		}
		differ := map[time.Duration]bool{}
		asked := source.times()
		for i, ev := range renewed {
			before := asked[i] // the request for the token that was renewed
			early := before.Add(time.Minute).Sub(ev.Time)
			differ[early] = true
			if early < margin || early > margin+margin/5 {
				t.Errorf("renewal %d: %v before the end", i, early)
			}
		}
		if len(differ) < 2 {
			t.Error("renewals do not differ")
		}
		if n := len(d.of(EventEvicted)) + len(d.of(EventExpired)); n > 0 {
			t.Errorf("%d tokens were evicted or expired", n)
		}
	})
}

// While renewals fail the token is used to its end and not a second longer, and
// the provider is not hammered.
func TestFailedRenewal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := &script{answer: func(_ context.Context, n int) (Grant, error) {
			if n > 1 {
				return Grant{}, errDown
			}
			return Grant{AccessToken: "only", ExpiresIn: 10 * time.Minute}, nil
		}}
		c, d := newTestCredential(t, source, func(cfg *Config) { cfg.Expiry.Margin = 4 * time.Minute })
		token := mustToken(t, c)
		time.Sleep(time.Until(token.Expires) - 1)
		if got := mustToken(t, c); got != token {
			t.Errorf("got %+v", got)
		}
		// Tries soon within the first renewal, then 2, 4, ... 30 seconds apart.
		if n := source.asked(); n < 10 || n > 30 {
			t.Errorf("%d token requests", n)
		}
		asked := source.times()
		last := asked[len(asked)-1].Sub(asked[len(asked)-2])
		if last < maxRenewalWait || last > maxRenewalWait+2*time.Second {
			t.Errorf("the last two token requests are %v apart", last)
		}
		time.Sleep(time.Nanosecond)
		if _, err := c.Token(t.Context(), Request{}); err == nil {
			t.Error("got a token after its end")
		}
		if len(d.of(EventExpired)) != 1 {
			t.Errorf("expired: got %+v", d.of(EventExpired))
		}
	})
}

// A renewal that fails once is made up for before the token expires.
func TestRenewalRecovers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		source := numbered(time.Minute, 0)
		answer := source.answer
		source.answer = func(ctx context.Context, n int) (Grant, error) {
			if down.Load() {
				return Grant{}, errDown
			}
			return answer(ctx, n)
		}
		c, d := newTestCredential(t, source, func(cfg *Config) { cfg.Expiry.Margin = 30 * time.Second })
		first := mustToken(t, c)
		down.Store(true)
		time.Sleep(40 * time.Second)
		if len(d.of(EventFailed)) == 0 {
			t.Fatal("no renewal failed")
		}
		if got := mustToken(t, c); got != first {
			t.Errorf("a failed renewal changed the token to %+v", got)
		}
		down.Store(false)
		time.Sleep(time.Until(first.Expires) - 1)
		if got := mustToken(t, c); got.Generation != first.Generation+1 {
			t.Errorf("got %+v", got)
		}
		if len(d.of(EventExpired)) != 0 {
			t.Error("the token expired")
		}
	})
}

// Tokens of a second are renewed each half second and never handed out late.
func TestTinyLifetime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Second, 20*time.Millisecond)
		c, _ := newTestCredential(t, source, func(cfg *Config) { cfg.Expiry.Margin = 30 * time.Second })
		const steps = 1000
		for range steps {
			if token := mustToken(t, c); !time.Now().Before(token.Expires) {
				t.Fatalf("handed out %v after its end", time.Since(token.Expires))
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := source.asked(); n < 10 || n > 30 {
			t.Errorf("%d token requests in 10 seconds", n)
		}
	})
}

// A token that lives shorter than its provider takes to answer is dead when it
// arrives: nobody is given it.
func TestTokenExpiresOnItsWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Second, 2*time.Second)
		c, _ := newTestCredential(t, source)
		token, err := c.Token(t.Context(), Request{})
		if err == nil && !time.Now().Before(token.Expires) {
			t.Errorf("handed out %v after its end", time.Since(token.Expires))
		}
	})
}

// A retried request that waits for a fresh token in vain is not given the old
// one when that expired meanwhile.
func TestTokenExpiresDuringTheWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(10*time.Second, 0)
		c, _ := newTestCredential(t, source)
		token := mustToken(t, c)
		source.answer = func(ctx context.Context, _ int) (Grant, error) { return Grant{}, sleep(ctx, time.Hour) }
		time.Sleep(7 * time.Second)
		got, err := c.Token(t.Context(), Request{Attempt: 2})
		if err == nil && !time.Now().Before(got.Expires) {
			t.Errorf("handed out %v after its end", time.Since(token.Expires))
		}
	})
}

// A token without a stated lifetime gets the default, one that claims a century
// is capped.
func TestStatedLifetimes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for stated, want := range map[time.Duration]time.Duration{
			0:                     time.Minute,
			30 * time.Second:      30 * time.Second,
			1_000_000 * time.Hour: time.Hour,
		} {
			c, _ := newTestCredential(t, numbered(stated, 0), func(cfg *Config) {
				cfg.Expiry = Expiry{Default: time.Minute, Max: time.Hour}
			})
			token := mustToken(t, c)
			if got := token.Expires.Sub(token.Requested); got != want {
				t.Errorf("stated %v: lives %v, want %v", stated, got, want)
			}
		}
	})
}

// A request is given a token that has some life left, if one can be had, and is
// never made to do without.
func TestLeast(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		life, least, left time.Duration
		down              bool
		want              uint64
	}{
		"enough":                       {time.Hour, 5 * time.Second, 5 * time.Second, false, 1},
		"too little":                   {time.Hour, 5 * time.Second, 5*time.Second - 1, false, 2},
		"too little, provider is down": {time.Hour, 5 * time.Second, 5*time.Second - 1, true, 1},
		"none asked for":               {time.Hour, 0, 1, false, 1},
		"more than half of the life":   {8 * time.Second, 5 * time.Second, 4 * time.Second, false, 1},
		"less than half of the life":   {8 * time.Second, 5 * time.Second, 4*time.Second - 1, false, 2},
	}
	for name, tt := range tests {
		for _, behalf := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", on behalf ", behalf), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					down := false
					p := &provider{life: tt.life, slow: time.Millisecond, refuses: func(GrantRequest) error {
						if down {
							return errDown
						}
						return nil
					}}
					c, _ := newTestCredential(t, p, func(c *Config) { c.OnBehalf, c.Expiry.Least, c.Timeout = behalf, tt.least, time.Second })
					first := mustTokenOf(t, c, caller(behalf))
					time.Sleep(time.Until(first.Expires) - tt.left)
					p.set(func() { down = tt.down })
					if token := mustTokenOf(t, c, caller(behalf)); token.Generation != tt.want {
						t.Errorf("got generation %d, want %d", token.Generation, tt.want)
					}
				})
			})
		}
	}
}

// A provider that is known to hang is not waited for while the token that is held
// lives: it would end meanwhile.
func TestLeastWhileProviderHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := &script{answer: func(ctx context.Context, n int) (Grant, error) {
			if n > 1 {
				<-ctx.Done()
				return Grant{}, ctx.Err()
			}
			return Grant{AccessToken: "t", ExpiresIn: time.Hour}, nil
		}}
		c, _ := newTestCredential(t, source, func(c *Config) { c.Expiry = Expiry{Margin: 30 * time.Second, Least: 5 * time.Second} })
		token := mustToken(t, c)
		for _, left := range []time.Duration{4 * time.Second, 1} {
			time.Sleep(time.Until(token.Expires) - left)
			began := time.Now()
			if got := mustToken(t, c); got != token || time.Since(began) != 0 {
				t.Errorf("%v before its end: got %+v after %v", left, got, time.Since(began))
			}
		}
	})
}

func TestRefreshLifetime(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		configured, stated, want time.Duration
	}{
		"stated":              {time.Hour, time.Minute, time.Minute},
		"stated, longer":      {time.Hour, 24 * time.Hour, 24 * time.Hour},
		"configured":          {time.Hour, 0, time.Hour},
		"neither":             {0, 0, defaultRefreshLifetime},
		"stated is negative":  {time.Hour, -1, time.Hour},
		"configured negative": {-1, 0, defaultRefreshLifetime},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := (Expiry{Refresh: tt.configured}).refreshLifetime(tt.stated); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
