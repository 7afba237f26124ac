package hook

import (
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// maxHashes bounds how many hashes are remembered, and so the lines about them.
const maxHashes = 100

// configs notices Envoys that run another configuration than was printed for
// ours.
type configs struct {
	log        *slog.Logger
	known      func(hash string) bool
	mismatches prometheus.Counter

	mu   sync.Mutex
	said map[string]struct{} // the hashes that were logged
}

func newConfigs(cfg Config) (*configs, error) {
	c := &configs{
		log: cfg.Logger, known: cfg.KnownConfig, said: map[string]struct{}{},
		mismatches: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rebearer_envoy_config_mismatches_total",
			Help: "Calls of the hook by an Envoy whose configuration does not fit ours: print it again with rebearer envoy.",
		}),
	}
	return c, cfg.Metrics.Register(c.mismatches)
}

// check is told of the hash in a call. Configurations that were not printed by
// us have none.
func (c *configs) check(hash string) {
	if c.known == nil || hash == "" || c.known(hash) {
		return
	}
	c.mismatches.Inc()
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.said[hash]; ok || len(c.said) >= maxHashes {
		return
	}
	c.said[hash] = struct{}{}
	c.log.Warn("an Envoy runs a configuration that does not fit ours: print it again with rebearer envoy",
		slog.String("config", hash))
}
