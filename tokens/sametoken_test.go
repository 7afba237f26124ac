package tokens

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// A provider that gives the same token until it ends is not asked again and again
// shortly before.
func TestSameTokenUntilItsEnd(t *testing.T) {
	t.Parallel()
	for _, behalf := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			const life = time.Hour
			began := time.Now()
			source := &script{answer: func(context.Context, int) (Grant, error) {
				age := time.Since(began)
				return Grant{AccessToken: Secret("token of hour " + (age / life).String()), ExpiresIn: life - age%life}, nil
			}}
			c, _ := newTestCredential(t, source, func(c *Config) {
				c.OnBehalf, c.Expiry = behalf, Expiry{Margin: 30 * time.Second, Least: 5 * time.Second}
			})
			for time.Since(began) < life {
				if _, err := c.Token(t.Context(), behalfOf(caller(behalf))); err != nil {
					t.Fatal(err)
				}
				time.Sleep(100 * time.Millisecond)
			}
			if n := source.asked(); n > 4 {
				t.Errorf("on behalf %v: %d token requests in the life of a token, want few", behalf, n)
			}
		})
	}
}

// A token that comes again with a later end is renewed as any other is, and who
// holds copies is never without it.
func TestSameTokenLivesLonger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &copies{}
		source := &script{answer: func(context.Context, int) (Grant, error) {
			return Grant{AccessToken: "api key", ExpiresIn: 5 * time.Minute}, nil
		}}
		c, d := newTestCredential(t, source, func(c *Config) {
			c.Publish, c.Expiry = p.publish, Expiry{Margin: 30 * time.Second, Least: 5 * time.Second}
		})
		mustToken(t, c)
		time.Sleep(time.Hour)
		if n := len(d.of(EventExpired)); n > 0 {
			t.Errorf("it expired %d times", n)
		}
		for _, value := range p.values() {
			if value != "api key" {
				t.Fatalf("published %q", value)
			}
		}
		if token := mustToken(t, c); token.Generation != 1 {
			t.Errorf("it is generation %d, want 1", token.Generation)
		}
	})
}
