package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/telemetry"
	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

// samples are the values of a registry's metrics by name and labels; of a
// histogram, the count.
func samples(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			value := m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			found[fmt.Sprintf("%s{%s}", family.GetName(), strings.Join(labels, ","))] = value
		}
	}
	return found
}

func newObserver(t *testing.T, next ...tokens.Observer) (*telemetry.Observer, *prometheus.Registry, *bytes.Buffer) {
	t.Helper()
	registry, out := prometheus.NewRegistry(), &bytes.Buffer{}
	o, err := telemetry.NewObserver(registry, slog.New(slog.NewJSONHandler(out, nil)), next...)
	if err != nil {
		t.Fatal(err)
	}
	return o, registry, out
}

func decode(t *testing.T, out *bytes.Buffer) []map[string]any {
	t.Helper()
	var lines []map[string]any
	for decoder := json.NewDecoder(out); decoder.More(); {
		var line map[string]any
		if err := decoder.Decode(&line); err != nil {
			t.Fatal(err)
		}
		delete(line, "time")
		lines = append(lines, line)
	}
	return lines
}

func TestMetricsOfEvents(t *testing.T) {
	t.Parallel()
	o, registry, _ := newObserver(t)
	expires := time.UnixMilli(1_800_000_000_250)
	for _, ev := range []tokens.Event{
		{Kind: tokens.EventIssued, Reason: tokens.ReasonFirst, Expires: expires.Add(-time.Hour)},
		{Kind: tokens.EventRenewed, Reason: tokens.ReasonRenewal, Expires: expires},
		{Kind: tokens.EventRejected, Verdict: tokens.Dead, Rule: "status"},
		{Kind: tokens.EventRejected, Verdict: tokens.Dead, Rule: "status", Answer: tokens.TryAgain},
		{Kind: tokens.EventRejected, Verdict: tokens.NotAllowed, Rule: "challenge"},
		{Kind: tokens.EventEvicted, Reason: tokens.ReasonDead},
		{Kind: tokens.EventRetried, Reason: tokens.ReasonAccepted},
		{Kind: tokens.EventRetried, Reason: tokens.ReasonAgain},
		{Kind: tokens.EventRecovered, Latency: 30 * time.Millisecond},
		{Kind: tokens.EventExpired, Reason: tokens.ReasonExpired},
		{Kind: tokens.EventFailed, Reason: tokens.ReasonExpired, Err: errors.New("down")},
		{Kind: tokens.EventPaused},
		{Kind: tokens.EventResumed},
		{Kind: tokens.EventRevoked},
	} {
		ev.Credential, ev.Provider = "orders", "shop"
		o.Observe(ev)
	}
	want := map[string]float64{
		"rebearer_tokens_issued_total{credential=orders,reason=first}":                    1,
		"rebearer_tokens_issued_total{credential=orders,reason=renewal}":                  1,
		"rebearer_rejections_total{credential=orders,rule=status,verdict=dead}":           2,
		"rebearer_rejections_total{credential=orders,rule=status,verdict=unclear}":        0,
		"rebearer_evictions_total{credential=orders,reason=probe}":                        0,
		"rebearer_evictions_total{credential=orders,reason=proportion}":                   0,
		"rebearer_rejections_total{credential=orders,rule=challenge,verdict=not_allowed}": 1,
		"rebearer_evictions_total{credential=orders,reason=dead}":                         1,
		"rebearer_retries_total{credential=orders,outcome=accepted}":                      1,
		"rebearer_retries_total{credential=orders,outcome=refused}":                       1,
		"rebearer_recovery_seconds{}":                                                     1,
	}
	if diff := cmp.Diff(want, samples(t, registry)); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

func TestLineOfAnEvent(t *testing.T) {
	t.Parallel()
	var told []tokens.Kind
	o, _, out := newObserver(t, func(ev tokens.Event) { told = append(told, ev.Kind) })
	o.Observe(tokens.Event{
		Time: time.Unix(1, 0), Kind: tokens.EventRejected, Credential: "orders", Provider: "shop", Generation: 7,
		Fingerprint: "ba7816bf8f01cfea", Reason: tokens.ReasonProbe, Verdict: tokens.Unclear, Rule: "status",
		Answer: tokens.TryAgain, Attempt: 1, Latency: 20*time.Millisecond + 3*time.Microsecond, RequestID: "request-1",
	})
	o.Observe(tokens.Event{
		Time: time.Unix(1, 0), Kind: tokens.EventFailed, Credential: "orders", Provider: "shop",
		Reason: tokens.ReasonFirst, Err: errors.New("connection refused"),
	})
	o.Observe(tokens.Event{Time: time.Unix(1, 0), Kind: tokens.EventPaused, Credential: "orders", Provider: "shop"})
	want := []map[string]any{
		{
			"level": "INFO", "msg": "token", "event": "rejected", "credential": "orders", "provider": "shop", "generation": 7.0,
			"fingerprint": "ba7816bf8f01cfea", "reason": "probe", "verdict": "unclear", "rule": "status", "answer": "retry",
			"attempt": 1.0, "latency": float64(20 * time.Millisecond), "request_id": "request-1",
		},
		{
			"level": "WARN", "msg": "token", "event": "failed", "credential": "orders", "provider": "shop",
			"reason": "first", "error": "connection refused",
		},
		{"level": "INFO", "msg": "token", "event": "paused", "credential": "orders", "provider": "shop"},
	}
	if diff := cmp.Diff(want, decode(t, out)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]tokens.Kind{tokens.EventRejected, tokens.EventFailed, tokens.EventPaused}, told); diff != "" {
		t.Errorf("the next observer was told (-want +got):\n%s", diff)
	}
}

// Lines are rationed by credential and kind, each second, and those left out are
// counted. Metrics and other observers get everything.
func TestLinesAreRationed(t *testing.T) {
	t.Parallel()
	told := 0
	o, registry, out := newObserver(t, func(tokens.Event) { told++ })
	send := func(n int, at time.Time, credential string, kind tokens.Kind) {
		for range n {
			o.Observe(tokens.Event{Time: at, Kind: kind, Credential: credential, Rule: "status"})
		}
	}
	start := time.Unix(1_800_000_000, 0)
	send(1000, start, "orders", tokens.EventRejected)
	send(1, start, "orders", tokens.EventEvicted)
	send(1, start, "stock", tokens.EventRejected)
	send(2, start.Add(time.Second), "orders", tokens.EventRejected)

	lines := decode(t, out)
	if len(lines) != 10+1+1+2 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, line := range lines {
		got, ok := line["left_out"]
		if want := i == 12; ok != want || want && got != 990.0 {
			t.Errorf("line %d: left_out %v", i, got)
		}
	}
	if told != 1004 {
		t.Errorf("the next observer was told %d times", told)
	}
	if got := samples(t, registry)["rebearer_rejections_total{credential=orders,rule=status,verdict=unclear}"]; got != 1002 {
		t.Errorf("%v rejections are counted", got)
	}
}

// A level at which nothing is logged uses up no ration.
func TestNothingBelowTheLevel(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	var level slog.LevelVar
	level.Set(slog.LevelError)
	o, err := telemetry.NewObserver(prometheus.NewRegistry(), slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: &level})))
	if err != nil {
		t.Fatal(err)
	}
	ev := tokens.Event{Time: time.Unix(1, 0), Kind: tokens.EventRejected, Credential: "orders"}
	for range 100 {
		o.Observe(ev)
	}
	level.Set(slog.LevelInfo)
	o.Observe(ev)
	if lines := decode(t, &out); len(lines) != 1 || lines[0]["left_out"] != nil {
		t.Errorf("got %v", lines)
	}
}

// source answers what it is told to.
type source struct {
	grant tokens.Grant
	err   error
	after time.Duration
	down  atomic.Bool
}

func (s *source) Grant(ctx context.Context, _ tokens.GrantRequest) (tokens.Grant, error) {
	select {
	case <-time.After(s.after):
	case <-ctx.Done():
	}
	if s.down.Load() {
		return tokens.Grant{}, errors.New("down")
	}
	return s.grant, s.err
}

func TestRequestsAreMeasured(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		requests, err := telemetry.NewRequests(registry)
		if err != nil {
			t.Fatal(err)
		}
		down := errors.New("connection refused")
		for _, s := range []*source{
			{grant: tokens.Grant{AccessToken: "t", ExpiresIn: time.Hour}, after: 2 * time.Second},
			{err: down},
			{err: down},
			{err: fmt.Errorf("token endpoint: %w", &tokens.PermanentError{Err: down})},
			{err: fmt.Errorf("token endpoint: %w", &tokens.SubjectError{Err: down})},
		} {
			got, err := requests.Measure(s, telemetry.Client{Credential: "orders", Provider: "shop", ID: "gateway"}).Grant(t.Context(), tokens.GrantRequest{})
			if got != s.grant || !errors.Is(err, s.err) {
				t.Errorf("got %v, %v", got, err)
			}
		}
		want := map[string]float64{
			"rebearer_token_requests_total{outcome=ok,provider=shop}":              1,
			"rebearer_token_requests_total{outcome=failed,provider=shop}":          2,
			"rebearer_token_requests_total{outcome=refused,provider=shop}":         1,
			"rebearer_token_requests_total{outcome=subject_refused,provider=shop}": 1,
			"rebearer_token_request_seconds{provider=shop}":                        5,

			"rebearer_client_requests_total{client=gateway,credential=orders,outcome=ok,provider=shop}":              1,
			"rebearer_client_requests_total{client=gateway,credential=orders,outcome=failed,provider=shop}":          2,
			"rebearer_client_requests_total{client=gateway,credential=orders,outcome=refused,provider=shop}":         1,
			"rebearer_client_requests_total{client=gateway,credential=orders,outcome=subject_refused,provider=shop}": 1,
		}
		if diff := cmp.Diff(want, samples(t, registry)); diff != "" {
			t.Errorf("metrics (-want +got):\n%s", diff)
		}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			if family.GetName() == "rebearer_token_request_seconds" && family.GetMetric()[0].GetHistogram().GetSampleSum() != 2 {
				t.Errorf("got %v seconds", family.GetMetric()[0].GetHistogram().GetSampleSum())
			}
		}
	})
}

func TestCollector(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	state := telemetry.State{
		Credentials: []tokens.Status{
			{Name: "orders", Uses: 7, Subjects: 4, Paused: true, Alive: true, Token: tokens.Token{Expires: time.UnixMilli(1_800_000_000_250)}},
			{Name: "stock", Token: tokens.Token{Expires: time.UnixMilli(1_000_000_000_000)}}, // over
		},
		Unsaved: map[string]bool{"orders": true, "stock": false},
		Clients: []telemetry.ClientState{
			{Credential: "orders", MemberHealth: oauth.MemberHealth{Provider: "shop", Client: "a", State: oauth.BreakerClosed}},
			{Credential: "orders", MemberHealth: oauth.MemberHealth{
				Provider: "lab", Client: "b", State: oauth.BreakerOpen, Failures: 3, Alarm: true, Err: errors.New("invalid_client"),
			}},
		},
		Providers: []telemetry.ProviderState{
			{Name: "shop", Skew: -1500 * time.Millisecond, SkewKnown: true, KeysAge: time.Minute, KeysKnown: true}, {Name: "lab"},
		},
		Caches: []telemetry.CacheStats{{Name: "backend_tokens", CacheStats: tokens.CacheStats{Hits: 5, Misses: 2, Bypasses: 6, Entries: 3, Bytes: 4096}}},
	}
	if err := registry.Register(telemetry.NewCollector(func() telemetry.State { return state })); err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{
		"rebearer_token_uses_total{credential=orders}":                      7,
		"rebearer_token_uses_total{credential=stock}":                       0,
		"rebearer_token_expiry_timestamp_seconds{credential=orders}":        1_800_000_000.25,
		"rebearer_credential_paused{credential=orders}":                     1,
		"rebearer_credential_paused{credential=stock}":                      0,
		"rebearer_cache_requests_total{cache=backend_tokens,result=hit}":    5,
		"rebearer_cache_requests_total{cache=backend_tokens,result=miss}":   2,
		"rebearer_cache_requests_total{cache=backend_tokens,result=bypass}": 6,
		"rebearer_cache_entries{cache=backend_tokens}":                      3,
		"rebearer_cache_bytes{cache=backend_tokens}":                        4096,
		"rebearer_refresh_token_unsaved{credential=orders}":                 1,
		"rebearer_refresh_token_unsaved{credential=stock}":                  0,
		"rebearer_credential_subjects{credential=orders}":                   4,
		"rebearer_credential_subjects{credential=stock}":                    0,
		"rebearer_provider_clock_skew_seconds{provider=shop}":               -1.5,
		"rebearer_provider_keys_age_seconds{provider=shop}":                 60,

		"rebearer_client_breaker{client=a,credential=orders,provider=shop,state=closed}":    1,
		"rebearer_client_breaker{client=a,credential=orders,provider=shop,state=open}":      0,
		"rebearer_client_breaker{client=a,credential=orders,provider=shop,state=half-open}": 0,
		"rebearer_client_refused{client=a,credential=orders,provider=shop}":                 0,
		"rebearer_client_failures{client=a,credential=orders,provider=shop}":                0,
		"rebearer_client_breaker{client=b,credential=orders,provider=lab,state=closed}":     0,
		"rebearer_client_breaker{client=b,credential=orders,provider=lab,state=open}":       1,
		"rebearer_client_breaker{client=b,credential=orders,provider=lab,state=half-open}":  0,
		"rebearer_client_refused{client=b,credential=orders,provider=lab}":                  1,
		"rebearer_client_failures{client=b,credential=orders,provider=lab}":                 3,
	}
	if diff := cmp.Diff(want, samples(t, registry)); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

// introspector answers what it is.
type introspector struct {
	active bool
	err    error
}

func (i introspector) Introspect(context.Context, string) (oauth.Introspection, error) {
	return oauth.Introspection{Active: i.active}, i.err
}

func TestMeasureIntrospection(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	requests, err := telemetry.NewRequests(registry)
	if err != nil {
		t.Fatal(err)
	}
	down := errors.New("connection refused")
	for _, asks := range []introspector{{active: true}, {}, {}, {err: down}} {
		if got, err := requests.MeasureIntrospection(asks, "shop").Introspect(t.Context(), "t"); got.Active != asks.active || !errors.Is(err, asks.err) {
			t.Errorf("got %v, %v", got, err)
		}
	}
	want := map[string]float64{
		"rebearer_introspections_total{outcome=active,provider=shop}":   1,
		"rebearer_introspections_total{outcome=inactive,provider=shop}": 2,
		"rebearer_introspections_total{outcome=failed,provider=shop}":   1,
	}
	if diff := cmp.Diff(want, samples(t, registry)); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

// A second set of the same metrics is refused, not a panic.
func TestRegisteringTwice(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	for i := range 2 {
		_, observer := telemetry.NewObserver(registry, slog.New(slog.DiscardHandler))
		_, requests := telemetry.NewRequests(registry)
		if failed := observer != nil && requests != nil; failed != (i == 1) {
			t.Errorf("time %d: %v, %v", i, observer, requests)
		}
	}
}

// The whole life of real tokens, and no token in any line or label.
func TestNoTokenIsShown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cache, err := tokens.NewCache(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		defer cache.Close()
		o, registry, out := newObserver(t)
		const secret = "very-secret-token"
		s := &source{grant: tokens.Grant{AccessToken: secret, ExpiresIn: time.Minute}}
		c, err := tokens.NewCredential(cache, tokens.Config{
			Name: "orders", Provider: "shop", Key: "k", Source: s, Observer: o.Observe,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		token, err := c.Token(t.Context(), tokens.Request{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		c.Rejected(t.Context(), tokens.Rejection{Fingerprint: token.Fingerprint, Attempt: 1, Verdict: tokens.Dead, Retriable: true})
		_, _ = c.Flush()
		synctest.Wait()
		s.down.Store(true)
		time.Sleep(2 * time.Minute)
		_, _ = c.Token(t.Context(), tokens.Request{})
		c.Pause()
		lines := out.String()
		if !strings.Contains(lines, string(tokens.FingerprintOf(secret))) || !strings.Contains(lines, `"event":"failed"`) {
			t.Errorf("lines:\n%s", lines)
		}
		if shown := lines + fmt.Sprint(samples(t, registry)); strings.Contains(shown, secret) {
			t.Errorf("a token is shown:\n%s", shown)
		}
	})
}

func (s *source) Revoke(context.Context, int, tokens.Secret) error { return errors.ErrUnsupported }
