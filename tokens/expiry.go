package tokens

import "time"

// Expiry says how long tokens live.
type Expiry struct {
	// Default is the lifetime of a token whose provider states none. Zero
	// means 5 minutes: never for ever.
	Default time.Duration
	// Max caps what the provider states. Zero means no cap.
	Max time.Duration
	// Margin is how long before its end a token is renewed. It is never more
	// than half of the lifetime. Zero renews it at its end.
	Margin time.Duration
	// Least is the least remaining life that a request is given, unless no
	// longer one can be had. It is never more than half of the lifetime. Zero
	// asks for none.
	Least time.Duration
	// Refresh is the lifetime of a refresh token whose provider states none,
	// counted from its last use. Zero means 12 hours: never for ever.
	Refresh time.Duration
}

const (
	defaultLifetime        = 5 * time.Minute
	defaultRefreshLifetime = 12 * time.Hour
	// jitterShare is the share of the margin by which renewals are spread, so
	// that replicas that were started together do not renew together.
	jitterShare = 0.2
)

// lifetime returns how long a token may be used whose provider states stated.
// The result is positive.
func (x Expiry) lifetime(stated time.Duration) time.Duration {
	life := stated
	if life <= 0 {
		life = x.Default
	}
	if life <= 0 {
		life = defaultLifetime
	}
	if x.Max > 0 {
		life = min(life, x.Max)
	}
	return life
}

// renewal returns when a token that was issued and expires at the given times
// is to be renewed. It is a pure function: spread is a random number in [0,1)
// that moves the moment earlier by up to jitterShare of the margin.
func (x Expiry) renewal(issued, expires time.Time, spread float64) time.Time {
	life := expires.Sub(issued)
	margin := min(max(x.Margin, 0), life/2)
	early := time.Duration(spread * jitterShare * float64(margin))
	if at := expires.Add(-margin - early); at.After(issued) {
		return at
	}
	return issued
}

// least returns the remaining life below which a token is not given to a request
// if another may be had.
func (x Expiry) least(t Token) time.Duration {
	return min(x.Least, t.Expires.Sub(t.Requested)/2)
}

// refreshLifetime returns how long a refresh token is kept whose provider states
// stated.
func (x Expiry) refreshLifetime(stated time.Duration) time.Duration {
	switch {
	case stated > 0:
		return stated
	case x.Refresh > 0:
		return x.Refresh
	}
	return defaultRefreshLifetime
}
