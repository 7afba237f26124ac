package hook_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/envoy/hook"
)

// An Envoy with another configuration is noticed: each call counts, and each
// configuration is logged once.
func TestConfigMismatch(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	metrics := prometheus.NewRegistry()
	h, err := hook.New(lookup(target(&credential{})), hook.Config{
		Logger: slog.New(slog.NewTextHandler(&log, nil)), Metrics: metrics,
		KnownConfig: func(hash string) bool { return hash == "h1" },
	})
	if err != nil {
		t.Fatal(err)
	}
	call := func(hash string) {
		stream := &oneMessage{ctx: as(t.Context(), origin{role: envoy.RoleObserve, config: hash}), request: answerOf("200")}
		if err := h.Process(stream); err != nil {
			t.Fatal(err)
		}
	}
	for _, hash := range []string{"h1", "", "h2", "h2", "h1", "h3", "h2"} {
		call(hash)
	}
	families, err := metrics.Gather()
	if err != nil || len(families) != 1 {
		t.Fatal(families, err)
	}
	name, count := families[0].GetName(), families[0].GetMetric()[0].GetCounter().GetValue()
	if name != "rebearer_envoy_config_mismatches_total" || count != 4 {
		t.Errorf("%s is %v, want 4", name, count)
	}
	if got := strings.Count(log.String(), "\n"); got != 2 || !strings.Contains(log.String(), "config=h2") {
		t.Errorf("%d lines, want 2:\n%s", got, log.String())
	}
	for n := range 1000 {
		call(fmt.Sprintf("made up %d", n))
	}
	if got := strings.Count(log.String(), "\n"); got != 100 {
		t.Errorf("%d lines, want 100 at most", got)
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	good := hook.Config{Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()}
	for name, make := range map[string]func() (*hook.Server, error){
		"no lookup": func() (*hook.Server, error) { return hook.New(nil, good) },
		"no logger": func() (*hook.Server, error) {
			return hook.New(lookup(hook.Target{}), hook.Config{Metrics: good.Metrics})
		},
		"no metrics": func() (*hook.Server, error) { return hook.New(lookup(hook.Target{}), hook.Config{Logger: good.Logger}) },
		"metrics twice": func() (*hook.Server, error) {
			if _, err := hook.New(lookup(hook.Target{}), good); err != nil {
				t.Fatal(err)
			}
			return hook.New(lookup(hook.Target{}), good)
		},
	} {
		if server, err := make(); err == nil || server != nil {
			t.Errorf("%s: got %v, %v", name, server, err)
		}
	}
}
