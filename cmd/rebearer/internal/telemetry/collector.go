package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rebearer/rebearer/tokens"
)

// CacheStats are a cache's counts at one moment.
type CacheStats struct {
	// Name is the cache's.
	Name string
	// Hits and Misses count look-ups since the start.
	Hits, Misses uint64
	// Entries is how many are held.
	Entries uint64
}

// State is what is read anew at every scrape, so that the way of a request need
// not count it.
type State struct {
	// Credentials are those in use.
	Credentials []tokens.Status
	// Caches are those in use.
	Caches []CacheStats
}

// collector reads a State at every scrape.
type collector struct {
	read     func() State
	uses     *prometheus.Desc
	requests *prometheus.Desc
	entries  *prometheus.Desc
	paused   *prometheus.Desc
	expiry   *prometheus.Desc
}

// NewCollector returns a collector of what read returns. Read must be safe for
// concurrent use.
func NewCollector(read func() State) prometheus.Collector {
	return &collector{
		read: read,
		uses: prometheus.NewDesc("rebearer_token_uses_total",
			"Requests that were given a backend token.", []string{"credential"}, nil),
		requests: prometheus.NewDesc("rebearer_cache_requests_total",
			"Look-ups in caches.", []string{"cache", "result"}, nil),
		entries: prometheus.NewDesc("rebearer_cache_entries",
			"Entries that caches hold.", []string{"cache"}, nil),
		expiry: prometheus.NewDesc("rebearer_token_expiry_timestamp_seconds",
			"When the backend token that is held expires, in seconds since 1970.", []string{"credential"}, nil),
		paused: prometheus.NewDesc("rebearer_credential_paused",
			"1 if an operator paused the credential.", []string{"credential"}, nil),
	}
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.uses
	ch <- c.requests
	ch <- c.entries
	ch <- c.paused
	ch <- c.expiry
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	state := c.read()
	for _, s := range state.Credentials {
		paused := 0.0
		if s.Paused {
			paused = 1
		}
		ch <- prometheus.MustNewConstMetric(c.uses, prometheus.CounterValue, float64(s.Uses), s.Name)
		if s.Alive {
			ch <- prometheus.MustNewConstMetric(c.expiry, prometheus.GaugeValue, float64(s.Token.Expires.UnixMilli())/1e3, s.Name)
		}
		ch <- prometheus.MustNewConstMetric(c.paused, prometheus.GaugeValue, paused, s.Name)
	}
	for _, s := range state.Caches {
		ch <- prometheus.MustNewConstMetric(c.requests, prometheus.CounterValue, float64(s.Hits), s.Name, "hit")
		ch <- prometheus.MustNewConstMetric(c.requests, prometheus.CounterValue, float64(s.Misses), s.Name, "miss")
		ch <- prometheus.MustNewConstMetric(c.entries, prometheus.GaugeValue, float64(s.Entries), s.Name)
	}
}
