package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

// CacheStats are a cache's counts at one moment.
type CacheStats struct {
	// Name is the cache's.
	Name string
	tokens.CacheStats
}

// ClientState is the health of one of a credential's clients.
type ClientState struct {
	// Credential is the name of the credential.
	Credential string
	oauth.MemberHealth
}

// ProviderState is what is known of a provider.
type ProviderState struct {
	// Name is the provider's.
	Name string
	// Skew is its clock minus ours, unless SkewKnown is false.
	Skew      time.Duration
	SkewKnown bool
	// KeysAge is how long ago its signing keys were loaded, unless KeysKnown is
	// false.
	KeysAge   time.Duration
	KeysKnown bool
}

// State is what is read anew at every scrape, so that the way of a request need
// not count it.
type State struct {
	// Credentials are those in use.
	Credentials []tokens.Status
	// Clients are those of all credentials.
	Clients []ClientState
	// Unsaved has the credentials that keep a refresh token, and whether it could
	// not be written.
	Unsaved map[string]bool
	// Providers are those in use.
	Providers []ProviderState
	// Caches are those in use.
	Caches []CacheStats
}

// collector reads a State at every scrape.
type collector struct {
	read func() State

	uses, requests, entries, bytes, paused, expiry, subjects, unsaved *prometheus.Desc

	breaker, refused, failures *prometheus.Desc

	skew, keysAge *prometheus.Desc
}

// NewCollector returns a collector of what read returns. Read must be safe for
// concurrent use.
func NewCollector(read func() State) prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &collector{
		read:     read,
		uses:     desc("rebearer_token_uses_total", "Requests that were given a backend token.", "credential"),
		requests: desc("rebearer_cache_requests_total", "Look-ups in caches: hit, miss, or bypass for requests that got a token of their own.", "cache", "result"),
		entries:  desc("rebearer_cache_entries", "Entries that caches hold.", "cache"),
		bytes:    desc("rebearer_cache_bytes", "What the entries of caches take, in bytes.", "cache"),
		paused:   desc("rebearer_credential_paused", "1 if an operator paused the credential.", "credential"),
		subjects: desc("rebearer_credential_subjects", "Backend tokens that are held on behalf of callers.", "credential"),
		unsaved: desc("rebearer_refresh_token_unsaved",
			"1 if the credential's refresh token could not be written, and is lost when rebearer ends.", "credential"),
		expiry: desc("rebearer_token_expiry_timestamp_seconds",
			"When the backend token that is held expires, in seconds since 1970.", "credential"),
		breaker: desc("rebearer_client_breaker", "1 for the state in which the circuit breaker of a credential's client is: closed, open or half-open.",
			"credential", "provider", "client", "state"),
		refused: desc("rebearer_client_refused", "1 if the provider refused our client at the last try: somebody has to look into it.",
			"credential", "provider", "client"),
		failures: desc("rebearer_client_failures", "Token requests of a credential's client that failed since its last token.",
			"credential", "provider", "client"),
		skew:    desc("rebearer_provider_clock_skew_seconds", "The provider's clock minus ours, as its Date header shows it.", "provider"),
		keysAge: desc("rebearer_provider_keys_age_seconds", "How long ago the provider's signing keys were loaded.", "provider"),
	}
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		c.uses, c.requests, c.entries, c.bytes, c.paused, c.expiry, c.subjects, c.unsaved, c.breaker, c.refused, c.failures, c.skew, c.keysAge,
	} {
		ch <- desc
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	state := c.read()
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	counter := func(desc *prometheus.Desc, value uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), labels...)
	}
	for _, s := range state.Credentials {
		counter(c.uses, s.Uses, s.Name)
		if s.Alive {
			gauge(c.expiry, float64(s.Token.Expires.UnixMilli())/1e3, s.Name)
		}
		gauge(c.paused, truth(s.Paused), s.Name)
		gauge(c.subjects, float64(s.Subjects), s.Name)
	}
	for name, unsaved := range state.Unsaved {
		gauge(c.unsaved, truth(unsaved), name)
	}
	for _, s := range state.Caches {
		counter(c.requests, s.Hits, s.Name, "hit")
		counter(c.requests, s.Misses, s.Name, "miss")
		counter(c.requests, s.Bypasses, s.Name, "bypass")
		gauge(c.entries, float64(s.Entries), s.Name)
		gauge(c.bytes, float64(s.Bytes), s.Name)
	}
	for _, s := range state.Clients {
		for _, b := range []oauth.BreakerState{oauth.BreakerClosed, oauth.BreakerOpen, oauth.BreakerHalfOpen} {
			gauge(c.breaker, truth(s.State == b), s.Credential, s.Provider, s.Client, string(b))
		}
		gauge(c.refused, truth(s.Alarm), s.Credential, s.Provider, s.Client)
		gauge(c.failures, float64(s.Failures), s.Credential, s.Provider, s.Client)
	}
	for _, p := range state.Providers {
		if p.SkewKnown {
			gauge(c.skew, p.Skew.Seconds(), p.Name)
		}
		if p.KeysKnown {
			gauge(c.keysAge, p.KeysAge.Seconds(), p.Name)
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
