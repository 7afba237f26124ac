package load

import (
	"math"
	"time"
)

// The buckets of Latencies are microseconds: one for each value below 128, and 64
// for each doubling above, so that a quantile is at most 1.6 % too high.
const (
	subBuckets = 64
	// doublings above 128 µs: the last bucket begins beyond two hours.
	doublings = 26
)

// Latencies counts durations in bounded memory, to a microsecond below 128 µs
// and to 1.6 % above. It is a value: a copy is independent. The zero value is
// empty. It is not safe for concurrent use.
type Latencies struct {
	buckets [(doublings + 2) * subBuckets]uint32
	count   int
	highest time.Duration
}

// Add counts one duration.
func (l *Latencies) Add(latency time.Duration) {
	l.buckets[bucketOf(latency)]++
	l.count++
	l.highest = max(l.highest, latency)
}

// Count returns how many durations were added.
func (l *Latencies) Count() int { return l.count }

// Max returns the longest duration, exactly; zero if there is none.
func (l *Latencies) Max() time.Duration { return l.highest }

// Quantile returns a duration that the share q, from 0 to 1, of all durations
// does not exceed; zero if there is none.
func (l *Latencies) Quantile(q float64) time.Duration {
	rank := int(math.Ceil(q * float64(l.count)))
	seen := 0
	for i, count := range l.buckets {
		seen += int(count)
		if count > 0 && seen >= rank {
			return min(upperOf(i), l.highest)
		}
	}
	return l.highest
}

// bucketOf and upperOf are each other's reverse: upperOf is where a bucket
// ends.
func bucketOf(latency time.Duration) int {
	micros, shift := max(latency.Microseconds(), 0), 0
	for micros >= 2*subBuckets && shift < doublings {
		micros, shift = micros/2, shift+1
	}
	return shift*subBuckets + int(min(micros, 2*subBuckets-1))
}

func upperOf(bucket int) time.Duration {
	shift := max(bucket/subBuckets-1, 0)
	return time.Duration(bucket-shift*subBuckets+1) << shift * time.Microsecond
}
