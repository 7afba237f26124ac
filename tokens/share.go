package tokens

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// share is what is known of the requests that come back refused, among all that
// the tokens of a credential were given to: one caller's own rejections are not
// to look like most. It is safe for concurrent use.
type share struct {
	ofCallers bool          // each caller has a token of his own
	given     atomic.Uint64 // times a token was handed out at once on a first try

	mu     sync.Mutex // guards what follows
	back   uint64     // rejections of a token that was current
	recent []mark     // at the last rejections, oldest first
	usual  usual      // share of rejections
	surge  surge      // of rejections that are not in these counts

	quietUntil time.Time // after trials that did not help
	quietSteps int
	quietAt    mark
}

// mark is a point in the counts of a recovery.
type mark struct {
	given, back uint64
	at          time.Time
}

// newToken forgets what was said about the token before.
func (s *share) newToken() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recent, s.surge.recent = nil, nil
}

// mark returns the point in the counts that is now.
func (s *share) mark(now time.Time) mark {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.markLocked(now)
}

func (s *share) markLocked(now time.Time) mark { return mark{s.given.Load(), s.back, now} }

// count counts a rejection and returns the point right after it.
func (s *share) count(now time.Time, uncounted bool) mark {
	s.mu.Lock()
	defer s.mu.Unlock()
	if uncounted {
		s.surge.add(now)
		return s.markLocked(now)
	}
	s.back++
	m := s.markLocked(now)
	s.usual.add(m)
	s.recent = append(s.recent, m)
	if len(s.recent) > maxEnough {
		s.recent = s.recent[1:]
	}
	return m
}

// enough is how many rejections are several. Where many requests are refused as a
// rule it takes more, one for each percent, for a run of them to be no chance.
func (s *share) enough() int {
	if s.ofCallers {
		return enoughOfCallers
	}
	return min(enoughRefused+int(100*s.usual.share()), maxEnough)
}

// usual is the share of requests that came back refused lately: older ones count
// less.
type usual struct {
	given, back float64
	last        mark
}

// add counts a rejection, and the requests since the last one as if they had come
// evenly.
func (u *usual) add(m mark) {
	spans := m.at.Sub(u.last.at).Seconds() / usualOver.Seconds()
	fade, since := math.Exp(-spans), 1.0
	if spans > 0 {
		since = -math.Expm1(-spans) / spans
	}
	u.given = u.given*fade + since*float64(m.given-u.last.given)
	u.back = u.back*fade + 1
	u.last = m
}

// share is 0 for the first few, which may be the beginning of a restart.
func (u *usual) share() float64 { return max(u.back-fewRefused, 0) / max(u.given, 1) }

// most reports whether the requests since m, the rejection at m among them, came
// back refused much more often than usual.
func (s *share) most(m mark, uncounted bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if uncounted {
		return s.surge.rises()
	}
	return s.mostSince(m)
}

// mostSince asks for half of the requests that are not refused as a rule, or for
// three quarters of all where each caller has a token of his own.
func (s *share) mostSince(m mark) bool {
	most := 0.75
	if !s.ofCallers {
		most = (1 + min(s.usual.share(), maxUsual)) / 2
	}
	return float64(s.back-m.back+1) >= most*float64(s.given.Load()-m.given)
}

// several reports whether the last rejections came in a row.
func (s *share) several(uncounted bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if uncounted {
		return s.surge.rises()
	}
	enough := s.enough()
	return len(s.recent) >= enough && s.mostSince(s.recent[len(s.recent)-enough])
}

// firstHeld returns when the oldest of the rejections came that are held now.
func (s *share) firstHeld(now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.recent {
		if now.Sub(m.at) <= holdFor {
			return m.at
		}
	}
	return now
}

// quiet returns until when the rule of proportion is silent. It speaks again as
// soon as most requests have passed since.
func (s *share) quiet(now time.Time) (until time.Time, silent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !now.Before(s.quietUntil) {
		return time.Time{}, false
	}
	given, back := s.given.Load()-s.quietAt.given, s.back-s.quietAt.back
	if given >= calmAfter && 2*back < given {
		s.quietUntil, s.quietSteps = time.Time{}, 0
		return time.Time{}, false
	}
	return s.quietUntil, true
}

// hush silences the rule of proportion, longer each time.
func (s *share) hush(now time.Time, coolDown time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quietUntil = now.Add(min(coolDown<<min(s.quietSteps, 10), maxQuiet))
	s.quietSteps++
	s.quietAt = s.markLocked(now)
}

// speak ends the silence: a trial helped.
func (s *share) speak() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quietUntil, s.quietSteps = time.Time{}, 0
}
