package tokens

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A change of settings that is not about which token it is costs none.
func TestAdopt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Hour, time.Millisecond)
		old, _ := newTestCredential(t, source)
		first := mustToken(t, old)
		old.Pause()

		same, _ := newTestCredential(t, source, func(c *Config) { c.Action = Observe })
		same.Adopt(old)
		old.Close()
		if got := mustToken(t, same); got != first || source.asked() != 1 {
			t.Errorf("got %v after %d requests, want the token of the first", got, source.asked())
		}
		if s := same.Status(); !s.Paused || s.Uses != 2 {
			t.Errorf("got %+v, want it paused, with the uses counted on", s)
		}
		other, _ := newTestCredential(t, source, func(c *Config) { c.Key = "other" })
		other.Adopt(same)
		if got := mustToken(t, other); got.Value == first.Value {
			t.Error("the token of another key was taken over")
		}
	})
}

// The renewal of a token that was adopted goes on.
func TestAdoptedTokenIsRenewed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Minute, time.Millisecond)
		old, _ := newTestCredential(t, source)
		mustToken(t, old)
		c, events := newTestCredential(t, source, func(c *Config) { c.Expiry.Margin = 10 * time.Second })
		c.Adopt(old)
		old.Close()
		time.Sleep(59 * time.Second)
		if got := len(events.of(EventRenewed)); got == 0 {
			t.Error("the token was not renewed before its end")
		}
	})
}

// A rejection long ago, of a caller who is not allowed, does not make a renewal
// that is in flight at a restart count as fresh.
func TestOldRejectionDoesNotFreshenARenewal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := numbered(time.Minute, 2*time.Second)
		c, _ := newTestCredential(t, source, func(c *Config) { c.Expiry.Margin = 20 * time.Second })
		token := mustToken(t, c)
		r := refusalOf(token, 1, Unclear)
		for range 5 { // a storm: the trials do not help, and it falls silent
			if o := c.Rejected(t.Context(), r); o.Answer == TryAgain {
				token = mustToken(t, c)
				c.Rejected(t.Context(), refusalOf(token, 2, Unclear))
			}
			r = refusalOf(token, 1, Unclear)
		}
		time.Sleep(time.Until(c.Status().Renewal) + time.Second) // the renewal is in flight
		before := source.asked()
		if o := c.Rejected(t.Context(), refusalOf(token, 1, Dead)); o.Answer != TryAgain {
			t.Fatalf("got %+v", o)
		}
		if got := source.asked() - before; got != 1 {
			t.Errorf("%d token requests after the rejection, want 1: the renewal's token is no newer than it", got)
		}
	})
}

// waiting is a failure with Retry-After.
type waiting struct{ error }

func (waiting) RetryAfter() time.Duration { return time.Minute }

// A provider that says when to come back is left alone until then.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := &script{answer: func(_ context.Context, n int) (Grant, error) {
			if n == 1 {
				return Grant{}, waiting{errors.New("429")}
			}
			return Grant{AccessToken: "token"}, nil
		}}
		c, _ := newTestCredential(t, source)
		for range 100 {
			_, err := c.Token(t.Context(), Request{})
			var u *UnavailableError
			if !errors.As(err, &u) || u.RetryAfter <= 0 {
				t.Fatalf("got %v, want when to come back", err)
			}
		}
		if source.asked() != 1 {
			t.Errorf("%d token requests, want 1", source.asked())
		}
		time.Sleep(time.Minute)
		mustToken(t, c)
	})
}

// A provider that gives the same token again, and no longer says when it ends,
// has not given it more time.
func TestSameTokenKeepsItsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := &script{answer: func(_ context.Context, n int) (Grant, error) {
			g := Grant{AccessToken: "token"}
			if n == 1 {
				g.ExpiresIn = time.Minute
			}
			return g, nil
		}}
		c, _ := newTestCredential(t, source, func(c *Config) { c.Expiry.Margin = 10 * time.Second })
		end := mustToken(t, c).Expires
		time.Sleep(55 * time.Second)
		if got := mustToken(t, c).Expires; !got.Equal(end) || source.asked() != 2 {
			t.Errorf("it ends %v later after %d requests", got.Sub(end), source.asked())
		}
	})
}
