package tokens

import (
	"math"
	"time"
)

const (
	// surgeOf is how many rejections make a surge.
	surgeOf = 8
	// surgeWithin is the longest time in which they may come.
	surgeWithin = 5 * time.Second
	// usualOver is the time over which the usual rate of rejections is taken.
	usualOver = time.Minute
)

// surge tells a voided token from callers who are not allowed where nobody knows
// how many requests are accepted: by rejections that come much faster than
// usual.
type surge struct {
	recent []surgeMark // the last rejections, oldest first
	rate   float64     // rejections a second, usually
	at     time.Time   // when rate was true
}

type surgeMark struct {
	at    time.Time
	usual float64 // the rate before it
}

// add counts a rejection.
func (s *surge) add(now time.Time) {
	if !s.at.IsZero() {
		s.rate *= math.Exp(-now.Sub(s.at).Seconds() / usualOver.Seconds())
	}
	s.recent = append(s.recent, surgeMark{now, s.rate})
	if len(s.recent) > surgeOf {
		s.recent = s.recent[1:]
	}
	s.rate += 1 / usualOver.Seconds()
	s.at = now
}

// rises reports whether the last rejections came in a time in which usually one
// comes at most.
func (s *surge) rises() bool {
	if len(s.recent) < surgeOf {
		return false
	}
	first, last := s.recent[0], s.recent[surgeOf-1]
	took := last.at.Sub(first.at)
	return took <= surgeWithin && first.usual*took.Seconds() <= 1
}
