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
	usualOver = 10 * time.Second
)

// surge tells a voided token from callers who are not allowed where nobody knows
// how many requests are accepted: by rejections that come much faster than
// usual.
type surge struct {
	recent []surgeMark // the last rejections, oldest first
	weight float64     // of the rejections so far; older ones count less
	since  time.Time   // the first rejection
	at     time.Time   // when weight was true
}

type surgeMark struct {
	at    time.Time
	usual float64 // rejections a second before it; not a number for the first of all
}

// add counts a rejection.
func (s *surge) add(now time.Time) {
	if s.since.IsZero() {
		s.since, s.at = now, now
	}
	s.weight *= math.Exp(-now.Sub(s.at).Seconds() / usualOver.Seconds())
	s.at = now
	s.recent = append(s.recent, surgeMark{now, s.usual(now)})
	if len(s.recent) > surgeOf {
		s.recent = s.recent[1:]
	}
	s.weight++
}

// usual returns the rate of rejections: their weight over that of the time since
// the first.
func (s *surge) usual(now time.Time) float64 {
	return s.weight / (usualOver.Seconds() * -math.Expm1(-now.Sub(s.since).Seconds()/usualOver.Seconds()))
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
