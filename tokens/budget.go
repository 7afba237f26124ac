package tokens

import "time"

// budget is a token bucket that can be given back to: golang.org/x/time/rate
// cannot undo a reservation once its time has come. It is not safe for
// concurrent use.
type budget struct {
	burst float64
	every time.Duration // time in which one is refilled

	level float64
	at    time.Time // when level was true
}

func newBudget(burst int, every time.Duration, now time.Time) budget {
	return budget{burst: float64(burst), every: every, level: float64(burst), at: now}
}

func (b *budget) refill(now time.Time) {
	if d := now.Sub(b.at); d > 0 {
		b.level = min(b.burst, b.level+float64(d)/float64(b.every))
		b.at = now
	}
}

// take spends one if that leaves at least reserve.
func (b *budget) take(now time.Time, reserve int) bool {
	b.refill(now)
	if b.level < float64(1+reserve) {
		return false
	}
	b.level--
	return true
}

// giveBack undoes a take.
func (b *budget) giveBack() { b.level = min(b.burst, b.level+1) }

// wait returns how long until one can be taken.
func (b *budget) wait(now time.Time) time.Duration {
	b.refill(now)
	if b.level >= 1 {
		return 0
	}
	return time.Duration((1 - b.level) * float64(b.every))
}

// silence remembers names for a while: a bounded set. It is not safe for
// concurrent use.
type silence map[string]time.Time

// maxSilent bounds a silence. A name that finds no room is simply not silenced:
// the budget bounds what that may cost.
const maxSilent = 4096

// add silences name until the given time.
func (s silence) add(name string, now, until time.Time) {
	if len(s) >= maxSilent {
		for n, t := range s {
			if !now.Before(t) {
				delete(s, n)
			}
		}
	}
	if _, known := s[name]; known || len(s) < maxSilent {
		s[name] = until
	}
}

// has reports whether name is silenced.
func (s silence) has(name string, now time.Time) bool {
	until, ok := s[name]
	if ok && !now.Before(until) {
		delete(s, name)
		return false
	}
	return ok
}
