package load

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	var latencies Latencies
	var all []time.Duration
	for range 20_000 {
		// From a microsecond to about three hours, all magnitudes alike.
		latency := time.Duration(1000 * (1 + random.Uint64N(1<<random.Uint64N(33))))
		latencies.Add(latency)
		all = append(all, latency)
	}
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.25, 0.5, 0.9, 0.99, 1} {
		exact := all[max(int(q*float64(len(all)))-1, 0)]
		got := latencies.Quantile(q)
		if limit := exact + exact/64 + time.Microsecond; got < exact || got > limit {
			t.Errorf("quantile %v: got %v, want %v to %v", q, got, exact, limit)
		}
	}
	if latencies.Max() != all[len(all)-1] || latencies.Count() != len(all) {
		t.Errorf("got max %v of %d, want %v of %d", latencies.Max(), latencies.Count(), all[len(all)-1], len(all))
	}
}

func TestLatenciesEdges(t *testing.T) {
	t.Parallel()
	var latencies Latencies
	if latencies.Quantile(0.5) != 0 || latencies.Max() != 0 {
		t.Error("an empty set has latencies")
	}
	latencies.Add(-time.Second)
	latencies.Add(1000 * time.Hour)
	if got := latencies.Quantile(1); got > 1000*time.Hour {
		t.Errorf("got %v, more than the longest", got)
	}
	for bucket := range latencies.buckets {
		upper := upperOf(bucket) - time.Nanosecond
		if got := bucketOf(upper); got != bucket {
			t.Fatalf("bucket %d ends at %v, which is in bucket %d", bucket, upper, got)
		}
	}
}
