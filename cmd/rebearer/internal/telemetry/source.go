package telemetry

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rebearer/rebearer/tokens"
)

// Requests measures token requests. It is safe for concurrent use.
type Requests struct {
	total   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

// NewRequests registers the metrics of token requests.
func NewRequests(registry prometheus.Registerer) (*Requests, error) {
	r := &Requests{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebearer_token_requests_total",
			Help: "Token requests to providers. The outcome is ok, refused (asking again does not help) or failed.",
		}, []string{"provider", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "rebearer_token_request_seconds",
			Help:    "How long token requests took.",
			Buckets: recoveryBuckets(),
		}, []string{"provider"}),
	}
	return r, errors.Join(registry.Register(r.total), registry.Register(r.seconds))
}

// Measure returns source with its requests measured under the provider's name.
func (r *Requests) Measure(source tokens.Source, provider string) tokens.Source {
	return &measured{source: source, provider: provider, to: r}
}

type measured struct {
	source   tokens.Source
	provider string
	to       *Requests
}

// Grant implements [tokens.Source].
func (m *measured) Grant(ctx context.Context, r tokens.GrantRequest) (tokens.Grant, error) {
	began := time.Now()
	grant, err := m.source.Grant(ctx, r)
	outcome := "ok"
	var permanent *tokens.PermanentError
	switch {
	case errors.As(err, &permanent):
		outcome = "refused"
	case err != nil:
		outcome = "failed"
	}
	m.to.total.WithLabelValues(m.provider, outcome).Inc()
	m.to.seconds.WithLabelValues(m.provider).Observe(time.Since(began).Seconds())
	return grant, err
}

// Revoke implements [tokens.Source].
func (m *measured) Revoke(ctx context.Context, client int, token tokens.Secret) error {
	return m.source.Revoke(ctx, client, token)
}
