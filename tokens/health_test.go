package tokens

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// What one caller's fetch found out about a provider that is down, those of others
// need not find out by themselves; and it is forgotten as soon as one succeeds.
func TestOutageIsShared(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Config){
		"on behalf": onBehalf,
		"bypass":    func(c *Config) { c.Bypass = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var up atomic.Bool
				source := &script{answer: func(context.Context, int) (Grant, error) {
					if !up.Load() {
						return Grant{}, errDown
					}
					return Grant{AccessToken: Secret(fmt.Sprint("token ", time.Now())), ExpiresIn: time.Hour}, nil
				}}
				c, _ := newTestCredential(t, source, change)
				if _, err := c.Token(t.Context(), behalfOf("first")); err == nil {
					t.Fatal("a token of a provider that is down")
				}
				before := source.asked()
				const others = 50
				for i := range others {
					if _, err := c.Token(t.Context(), behalfOf(fmt.Sprint("caller ", i))); err == nil {
						t.Fatal("a token of a provider that is down")
					}
				}
				if n := source.asked() - before; n > others {
					t.Errorf("%d token requests for %d callers, want one each at most", n, others)
				}
				up.Store(true)
				for range 2 {
					if _, err := c.Token(t.Context(), behalfOf("last")); err != nil {
						t.Errorf("got %v of a provider that is well again", err)
					}
				}
				if h := c.h.health(); h.failures != 0 {
					t.Errorf("it is still taken for down: %+v", h)
				}
			})
		})
	}
}

// A provider that refuses us is asked less and less often while nobody wants a
// token, and never not at all: it may have been told.
func TestRefusedByProviderForADay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var told atomic.Bool
		source := &script{answer: func(context.Context, int) (Grant, error) {
			if !told.Load() {
				return Grant{}, &PermanentError{Err: errDown}
			}
			return Grant{AccessToken: "t", ExpiresIn: time.Hour}, nil
		}}
		c, _ := newTestCredential(t, source, func(c *Config) { c.Publish = func(Token) {} })
		c.Warm()
		time.Sleep(24 * time.Hour)
		if n := source.asked(); n < 250 || n > 300 {
			t.Errorf("%d token requests in a day, want one every five minutes", n)
		}
		told.Store(true)
		time.Sleep(maxRefusedWait)
		if !c.Status().Alive {
			t.Error("there is no token once it gives one")
		}
	})
}
