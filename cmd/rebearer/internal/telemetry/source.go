package telemetry

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

// Client is one of a credential's clients, in the words of the configuration.
type Client struct {
	// Credential and Provider are the names of both.
	Credential, Provider string
	// ID is the client's identifier at the provider.
	ID string
}

// Requests measures what providers are asked. It is safe for concurrent use. A nil
// Requests measures nothing.
type Requests struct {
	total          *prometheus.CounterVec
	byClient       *prometheus.CounterVec
	seconds        *prometheus.HistogramVec
	introspections *prometheus.CounterVec
}

// NewRequests registers its metrics.
func NewRequests(registry prometheus.Registerer) (*Requests, error) {
	r := &Requests{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebearer_token_requests_total",
			Help: "Token requests to providers. The outcome is ok, refused (asking again does not help), " +
				"subject_refused (the caller's own token was) or failed.",
		}, []string{"provider", "outcome"}),
		byClient: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebearer_client_requests_total",
			Help: "Token requests by each client of a credential, with the outcomes of rebearer_token_requests_total.",
		}, []string{"credential", "provider", "client", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "rebearer_token_request_seconds",
			Help:    "How long token requests took.",
			Buckets: recoveryBuckets(),
		}, []string{"provider"}),
		introspections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebearer_introspections_total",
			Help: "Questions to providers about a token, callers' or our own. The outcome is active, inactive or failed.",
		}, []string{"provider", "outcome"}),
	}
	return r, errors.Join(
		registry.Register(r.total), registry.Register(r.byClient), registry.Register(r.seconds), registry.Register(r.introspections))
}

// Measure returns source with its requests measured under a client's names.
func (r *Requests) Measure(source tokens.Source, of Client) tokens.Source {
	if r == nil {
		return source
	}
	return &measured{source: source, of: of, to: r}
}

type measured struct {
	source tokens.Source
	of     Client
	to     *Requests
}

// Grant implements [tokens.Source].
func (m *measured) Grant(ctx context.Context, r tokens.GrantRequest) (tokens.Grant, error) {
	began := time.Now()
	grant, err := m.source.Grant(ctx, r)
	outcome := outcomeOf(err)
	m.to.total.WithLabelValues(m.of.Provider, outcome).Inc()
	m.to.byClient.WithLabelValues(m.of.Credential, m.of.Provider, m.of.ID, outcome).Inc()
	m.to.seconds.WithLabelValues(m.of.Provider).Observe(time.Since(began).Seconds())
	return grant, err
}

// outcomeOf puts what came of a request into a word.
func outcomeOf(err error) string {
	var (
		permanent *tokens.PermanentError
		subject   *tokens.SubjectError
	)
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &subject):
		return "subject_refused"
	case errors.As(err, &permanent):
		return "refused"
	}
	return "failed"
}

// Revoke implements [tokens.Source].
func (m *measured) Revoke(ctx context.Context, client int, token tokens.Secret) error {
	return m.source.Revoke(ctx, client, token)
}

// Introspector asks a provider about a token.
type Introspector interface {
	// Introspect blocks until ctx ends or the provider's timeout at most.
	Introspect(ctx context.Context, token string) (oauth.Introspection, error)
}

// MeasureIntrospection returns asks with its questions measured under a
// provider's name.
func (r *Requests) MeasureIntrospection(asks Introspector, provider string) Introspector {
	if r == nil {
		return asks
	}
	return &measuredIntrospector{asks: asks, provider: provider, to: r}
}

type measuredIntrospector struct {
	asks     Introspector
	provider string
	to       *Requests
}

// Introspect implements [Introspector].
func (m *measuredIntrospector) Introspect(ctx context.Context, token string) (oauth.Introspection, error) {
	said, err := m.asks.Introspect(ctx, token)
	outcome := "inactive"
	switch {
	case err != nil:
		outcome = "failed"
	case said.Active:
		outcome = "active"
	}
	m.to.introspections.WithLabelValues(m.provider, outcome).Inc()
	return said, err
}
