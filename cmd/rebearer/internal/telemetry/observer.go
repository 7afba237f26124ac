package telemetry

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rebearer/rebearer/envoy/rejection"
	"github.com/rebearer/rebearer/tokens"
)

// Observer turns the events of tokens into metrics and log lines. Its methods
// are safe for concurrent use and do not block.
type Observer struct {
	logger *slog.Logger
	next   []tokens.Observer

	issued     *prometheus.CounterVec
	rejections *prometheus.CounterVec
	evictions  *prometheus.CounterVec
	retries    *prometheus.CounterVec
	recovery   prometheus.Histogram

	mu    sync.Mutex // guards lines
	lines map[lineKey]*allowance
}

// recoveryBuckets reach from a provider next door to a caller who gave up.
func recoveryBuckets() []float64 {
	return []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
}

// NewObserver registers the metrics and returns an Observer that logs to
// logger and also tells the given observers, in order.
func NewObserver(registry prometheus.Registerer, logger *slog.Logger, next ...tokens.Observer) (*Observer, error) {
	o := &Observer{
		logger: logger,
		next:   next,
		lines:  map[lineKey]*allowance{},
		issued: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebearer_tokens_issued_total",
			Help: "Backend tokens that came from a provider, by why they were asked for.",
		}, []string{"credential", "reason"}),
		rejections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebearer_rejections_total",
			Help: "Rejections by backends, by the verdict on the token and the rule that gave it.",
		}, []string{"credential", "verdict", "rule"}),
		evictions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebearer_evictions_total",
			Help: "Backend tokens that were replaced or dropped before their end.",
		}, []string{"credential", "reason"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebearer_retries_total",
			Help: "Requests that were sent again with a fresh token, by what the backend made of that.",
		}, []string{"credential", "outcome"}),
		recovery: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "rebearer_recovery_seconds",
			Help:    "Time from the first rejection of a dead token to the first request that passed with a fresh one.",
			Buckets: recoveryBuckets(),
		}),
	}
	for _, c := range []prometheus.Collector{o.issued, o.rejections, o.evictions, o.retries, o.recovery} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// Observe is a [tokens.Observer].
func (o *Observer) Observe(ev tokens.Event) {
	o.count(ev)
	o.log(ev)
	for _, next := range o.next {
		next(ev)
	}
}

func (o *Observer) count(ev tokens.Event) {
	switch ev.Kind {
	case tokens.EventIssued, tokens.EventRenewed:
		o.appear(ev.Credential)
		o.issued.WithLabelValues(ev.Credential, string(ev.Reason)).Inc()
	case tokens.EventRejected:
		o.rejections.WithLabelValues(ev.Credential, ev.Verdict.String(), ev.Rule).Inc()
	case tokens.EventEvicted:
		o.evictions.WithLabelValues(ev.Credential, string(ev.Reason)).Inc()
	case tokens.EventRetried:
		outcome := "accepted"
		if ev.Reason != tokens.ReasonAccepted {
			outcome = "refused"
		}
		o.retries.WithLabelValues(ev.Credential, outcome).Inc()
	case tokens.EventRecovered:
		o.recovery.Observe(ev.Latency.Seconds())
	case tokens.EventRevoked, tokens.EventExpired, tokens.EventFailed, tokens.EventPaused, tokens.EventResumed:
	}
}

// appear has the series of a credential begin with 0: one that begins with its
// first event hides that event from rate(), and from alerts on it.
func (o *Observer) appear(credential string) {
	for _, verdict := range []tokens.Verdict{tokens.Dead, tokens.Unclear} {
		o.rejections.WithLabelValues(credential, verdict.String(), rejection.RuleStatus)
	}
	for _, reason := range []tokens.Reason{tokens.ReasonDead, tokens.ReasonProbe, tokens.ReasonProportion} {
		o.evictions.WithLabelValues(credential, string(reason))
	}
	for _, outcome := range []string{"accepted", "refused"} {
		o.retries.WithLabelValues(credential, outcome)
	}
}

// lineKey is what lines are rationed by.
type lineKey struct {
	credential string
	kind       tokens.Kind
}

// allowance rations the lines of one key.
type allowance struct {
	second  int64 // the second that written is about
	written int
	leftOut int
}

// linesPerSecond is how many lines of one kind a credential may write: events
// that requests cause come by the thousand.
const linesPerSecond = 10

// ration reports whether a line may be written now, and how many were left out
// before it.
func (o *Observer) ration(ev tokens.Event) (leftOut int, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := lineKey{ev.Credential, ev.Kind}
	a := o.lines[key]
	if a == nil {
		a = &allowance{}
		o.lines[key] = a
	}
	if s := ev.Time.Unix(); s != a.second {
		a.second, a.written = s, 0
	}
	if a.written >= linesPerSecond {
		a.leftOut++
		return 0, false
	}
	a.written++
	leftOut, a.leftOut = a.leftOut, 0
	return leftOut, true
}

// log writes the event's line.
func (o *Observer) log(ev tokens.Event) {
	level := slog.LevelInfo
	if ev.Kind == tokens.EventFailed {
		level = slog.LevelWarn
	}
	ctx := context.Background()
	if !o.logger.Enabled(ctx, level) {
		return
	}
	leftOut, ok := o.ration(ev)
	if !ok {
		return
	}
	o.logger.LogAttrs(ctx, level, "token", attributes(ev, leftOut)...)
}

// attributes are the fields of an event's line; those that say nothing are left
// out.
func attributes(ev tokens.Event, leftOut int) []slog.Attr {
	attrs := []slog.Attr{
		slog.String("event", string(ev.Kind)),
		slog.String("credential", ev.Credential),
	}
	add := func(say bool, attr slog.Attr) {
		if say {
			attrs = append(attrs, attr)
		}
	}
	add(ev.Provider != "", slog.String("provider", ev.Provider))
	add(ev.Generation > 0, slog.Uint64("generation", ev.Generation))
	add(ev.Fingerprint != "", slog.String("fingerprint", string(ev.Fingerprint)))
	add(ev.Reason != "", slog.String("reason", string(ev.Reason)))
	if ev.Kind == tokens.EventRejected {
		attrs = append(attrs,
			slog.String("verdict", ev.Verdict.String()),
			slog.String("rule", ev.Rule),
			slog.String("answer", ev.Answer.String()))
	}
	add(ev.Attempt > 0, slog.Int("attempt", ev.Attempt))
	add(ev.Latency > 0, slog.Duration("latency", ev.Latency.Round(10*time.Microsecond)))
	add(!ev.Expires.IsZero(), slog.Time("expires", ev.Expires))
	add(ev.RequestID != "", slog.String("request_id", ev.RequestID))
	add(ev.Err != nil, slog.Any("error", ev.Err))
	add(leftOut > 0, slog.Int("left_out", leftOut))
	return attrs
}
