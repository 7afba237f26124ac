package hook_test

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	grpcmetadata "google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/envoy/hook"
	"github.com/rebearer/rebearer/envoy/rejection"
	"github.com/rebearer/rebearer/tokens"
)

// origin is what a filter says about itself.
type origin struct{ role, config, credential, policy string }

func (o origin) pairs() []string {
	var pairs []string
	for _, pair := range [][2]string{
		{envoy.RoleMetadata, o.role},
		{envoy.ConfigMetadata, o.config},
		{envoy.CredentialMetadata, o.credential},
		{envoy.PolicyMetadata, o.policy},
	} {
		if pair[1] != "" {
			pairs = append(pairs, pair[0], pair[1])
		}
	}
	return pairs
}

// as is the context of a stream at the server.
func as(ctx context.Context, o origin) context.Context {
	return grpcmetadata.NewIncomingContext(ctx, grpcmetadata.Pairs(o.pairs()...))
}

// from is the context of a stream at the client.
func from(ctx context.Context, o origin) context.Context {
	return grpcmetadata.AppendToOutgoingContext(ctx, o.pairs()...)
}

func observes() origin { return origin{role: envoy.RoleObserve, config: "h1"} }

// readsEverything are rules that read every body of JSON: {"dead":true} is dead,
// any other not allowed.
func readsEverything(t testing.TB) *rejection.Rules {
	t.Helper()
	rules, err := rejection.NewRules(
		rejection.Rule{Name: "rule:dead", Conditions: []rejection.Condition{{Pointer: "/dead", Pattern: "^true$"}}, Verdict: tokens.Dead},
		rejection.Rule{Name: "rule:other", Conditions: []rejection.Condition{{Pattern: "^"}}, Verdict: tokens.NotAllowed},
	)
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// body declares one of JSON.
func body(length int) option {
	return func(r *extprocv3.ProcessingRequest) {
		r.GetResponseHeaders().EndOfStream = false
		header("content-type", "application/json")(r)
		header("content-length", strconv.Itoa(length))(r)
	}
}

func bodyOf(text string) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseBody{
		ResponseBody: &extprocv3.HttpBody{Body: []byte(text), EndOfStream: true},
	}}
}

func trailersOf(name, value string) *extprocv3.ProcessingRequest {
	return &extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseTrailers{
		ResponseTrailers: &extprocv3.HttpTrailers{Trailers: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
			{Key: name, RawValue: []byte(value)},
		}}},
	}}
}

// tryOf is the message about a try that is about to be made.
func tryOf(attempt int, refused string, options ...option) *extprocv3.ProcessingRequest {
	r := answerOf("200")
	r.Request = &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{
		Headers: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{
			{Key: envoy.AttemptHeader, RawValue: []byte(strconv.Itoa(attempt))},
		}},
	}}
	noted := map[string]any{}
	if refused != "" {
		noted[envoy.RefusedKey] = refused
	}
	metadata(envoy.MetadataNamespace, noted)(r)
	for _, option := range options {
		option(r)
	}
	return r
}

func asksForBody() *extprocv3.ProcessingResponse {
	r := passes()
	r.ModeOverride = &extprocfilterv3.ProcessingMode{ResponseBodyMode: extprocfilterv3.ProcessingMode_BUFFERED}
	return r
}

// onBody has an answer to headers be one to a body.
func onBody(r *extprocv3.ProcessingResponse) *extprocv3.ProcessingResponse {
	r.Response = &extprocv3.ProcessingResponse_ResponseBody{
		ResponseBody: &extprocv3.BodyResponse{Response: r.GetResponseHeaders().GetResponse()},
	}
	return r
}

func wantAnswer(t *testing.T, got, want *extprocv3.ProcessingResponse) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreEmptyMessages()); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

// A body is asked for only where it can change the decision, and then decides.
func TestBody(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		origin  origin
		headers *extprocv3.ProcessingRequest
		body    string // empty where none is asked for
		want    tokens.Verdict
		rule    string
	}{
		"dead":                {observes(), answerOf("403", body(13)), `{"dead":true}`, tokens.Dead, "rule:dead"},
		"not allowed":         {observes(), answerOf("401", body(14)), `{"dead":false}`, tokens.NotAllowed, "rule:other"},
		"as long as possible": {observes(), answerOf("403", body(rejection.MaxBody)), `{"dead":true}`, tokens.Dead, "rule:dead"},
		"not compressed":      {observes(), answerOf("403", body(13), header("content-encoding", "identity")), `{"dead":true}`, tokens.Dead, "rule:dead"},
		"too long":            {observes(), answerOf("403", body(rejection.MaxBody+1)), "", tokens.Unclear, rejection.RuleStatus},
		"empty":               {observes(), answerOf("403", body(0)), "", tokens.Unclear, rejection.RuleStatus},
		"no length": {observes(), answerOf("403", func(r *extprocv3.ProcessingRequest) {
			r.GetResponseHeaders().EndOfStream = false
			header("content-type", "application/json")(r)
		}), "", tokens.Unclear, rejection.RuleStatus},
		"an odd length": {observes(), answerOf("403", body(1), header("content-length", "-1")), "", tokens.Unclear, rejection.RuleStatus},
		"no body, as for HEAD": {observes(), answerOf("403", body(13), func(r *extprocv3.ProcessingRequest) {
			r.GetResponseHeaders().EndOfStream = true
		}), "", tokens.Unclear, rejection.RuleStatus},
		"compressed":              {observes(), answerOf("403", body(13), header("content-encoding", "gzip")), "", tokens.Unclear, rejection.RuleStatus},
		"of another type":         {observes(), answerOf("403", body(13), header("content-type", "text/html")), "", tokens.Unclear, rejection.RuleStatus},
		"a challenge has decided": {observes(), answerOf("403", body(13), header("www-authenticate", `Bearer error="insufficient_scope"`)), "", tokens.NotAllowed, rejection.RuleChallenge},
		"an old configuration":    {origin{}, answerOf("403", body(13)), "", tokens.Unclear, rejection.RuleStatus},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &credential{outcome: tokens.Outcome{Answer: tokens.TryAgain}}
			to := target(c)
			to.Rules = readsEverything(t)
			stream, err := dial(t, newHook(t, to)).Process(from(t.Context(), tt.origin))
			if err != nil {
				t.Fatal(err)
			}
			value := map[tokens.Verdict]string{tokens.Dead: "dead"}[tt.want]
			if value == "" {
				value = "unclear"
			}
			got := exchange(t, stream, tt.headers)
			if tt.body == "" {
				wantAnswer(t, got, retries(value))
			} else {
				wantAnswer(t, got, asksForBody())
				if rejected, _ := c.told(); len(rejected) > 0 {
					t.Errorf("it was judged without its body: %+v", rejected)
				}
				wantAnswer(t, exchange(t, stream, bodyOf(tt.body)), onBody(retries(value)))
			}
			rejected, _ := c.told()
			if len(rejected) != 1 || rejected[0].Verdict != tt.want || rejected[0].Rule != tt.rule {
				t.Errorf("rejected: got %+v, want %v by %s", rejected, tt.want, tt.rule)
			}
		})
	}
}

// What is decided by a body may be a 503, and a credential that is gone by then
// decides nothing.
func TestBodyIsAnswered(t *testing.T) {
	t.Parallel()
	for _, isGone := range []bool{false, true} {
		c := &credential{outcome: tokens.Outcome{Answer: tokens.Unavailable}}
		to := target(c)
		to.Rules = readsEverything(t)
		var gone atomic.Bool
		h, err := hook.New(func(string) (hook.Target, bool) { return to, !gone.Load() },
			hook.Config{Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		stream, err := dial(t, h).Process(from(t.Context(), observes()))
		if err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, exchange(t, stream, answerOf("403", body(13))), asksForBody())
		gone.Store(isGone)
		got := exchange(t, stream, bodyOf(`{"dead":true}`))
		if isGone {
			wantAnswer(t, got, onBody(passes()))
		} else if got.GetImmediateResponse() == nil {
			t.Errorf("got %v", got)
		}
	}
}

// A filter that watches is answered nothing, and its requests are not retried.
func TestWatch(t *testing.T) {
	t.Parallel()
	told := make(chan struct{}, 2)
	c := &credential{outcome: tokens.Outcome{Answer: tokens.TryAgain}, hold: func(context.Context) { told <- struct{}{} }}
	to := target(c)
	to.Rules = readsEverything(t)
	stream, err := dial(t, newHook(t, to)).Process(from(t.Context(), origin{role: envoy.RoleWatch}))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(stream.Send(answerOf("401", body(13))), stream.CloseSend()); err != nil {
		t.Fatal(err)
	}
	<-told
	if response, err := stream.Recv(); err == nil {
		t.Errorf("got %v", response)
	}
	if rejected, _ := c.told(); len(rejected) != 1 || rejected[0].Retriable || rejected[0].Verdict != tokens.Dead {
		t.Errorf("rejected %+v", rejected)
	}
}

// A gRPC status in the trailers evicts at most: the caller has the answer already.
func TestTrailers(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		messages []*extprocv3.ProcessingRequest
		want     int
	}{
		"refused at the end":   {[]*extprocv3.ProcessingRequest{answerOf("200"), trailersOf("grpc-status", "16")}, 1},
		"passed":               {[]*extprocv3.ProcessingRequest{answerOf("200"), trailersOf("grpc-status", "0")}, 0},
		"refused at the start": {[]*extprocv3.ProcessingRequest{answerOf("401"), trailersOf("grpc-status", "16")}, 1},
		"nothing of ours":      {[]*extprocv3.ProcessingRequest{trailersOf("grpc-status", "16")}, 0},
		"trailers only are ours": {[]*extprocv3.ProcessingRequest{func() *extprocv3.ProcessingRequest {
			r := answerOf("200")
			r.Request = trailersOf("grpc-status", "16").GetRequest()
			return r
		}()}, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &credential{outcome: tokens.Outcome{Answer: tokens.TryAgain}}
			stream := open(t, t.Context(), target(c))
			for _, m := range tt.messages {
				got := exchange(t, stream, m)
				if m.GetResponseTrailers() != nil && got.GetResponseTrailers() == nil {
					t.Errorf("trailers are answered with %v", got)
				}
			}
			rejected, _ := c.told()
			if len(rejected) != tt.want {
				t.Fatalf("%d rejections were told, want %d", len(rejected), tt.want)
			}
			if last := len(rejected) - 1; tt.want > 0 && rejected[last].Rule == rejection.RuleGRPCStatus && rejected[last].Retriable {
				t.Errorf("got %+v", rejected[last])
			}
		})
	}
}

// A try that follows a refused one is given a token that was not refused, and any
// other the one that lives.
func TestInject(t *testing.T) {
	t.Parallel()
	refused := string(tokens.FingerprintOf(sentToken))
	nobody := use()
	nobody.Credential = "gone"
	tests := map[string]struct {
		request *extprocv3.ProcessingRequest
		origin  origin
		mend    func(*hook.Target)
		again   error
		name    string
		value   string // empty where nothing is set
		use     tokens.Use
		attempt int
		own     bool // no token was refused
		verdict tokens.Verdict
		wait    string // empty for no 503
	}{
		"a retry": {request: tryOf(2, refused), name: "authorization", value: "Bearer fresh", use: use(), attempt: 2},
		"another": {request: tryOf(3, refused), name: "authorization", value: "Bearer fresh", use: use(), attempt: 3},
		"a dead token": {
			request: tryOf(2, refused, metadata(envoy.MetadataNamespace, map[string]any{envoy.RefusedKey: refused, envoy.VerdictKey: envoy.RetryDead})),
			name:    "authorization", value: "Bearer fresh", use: use(), attempt: 2, verdict: tokens.Dead,
		},
		"an attempt of none": {request: tryOf(0, refused), name: "authorization", value: "Bearer fresh", use: use(), attempt: 2},
		"another header": {
			request: tryOf(2, refused), mend: func(to *hook.Target) { to.Header, to.Scheme = "x-api-token", "" },
			name: "x-api-token", value: "fresh", use: use(), attempt: 2,
		},
		"push mode": {
			request: tryOf(2, refused, metadata(envoy.CheckNamespace, nil)), origin: origin{credential: "orders", policy: "pushed"},
			name: "authorization", value: "Bearer fresh", attempt: 2, use: tokens.Use{Policy: "pushed", Credential: "orders"},
		},
		"a retry of the user's own": {request: tryOf(2, ""), own: true, name: "authorization", value: "Bearer fresh", use: use(), attempt: 2},
		"and no token to be had": {
			request: tryOf(2, ""), own: true, again: &tokens.UnavailableError{Err: errors.New("down")}, use: use(), attempt: 2,
		},
		"not ours":  {request: tryOf(2, refused, metadata(envoy.CheckNamespace, nil))},
		"of nobody": {request: tryOf(2, refused, metadata(envoy.CheckNamespace, written(nobody)))},
		"no token to be had": {
			request: tryOf(2, refused), again: &tokens.UnavailableError{Err: errors.New("down"), RetryAfter: 1500 * time.Millisecond},
			wait: "2", use: use(), attempt: 2,
		},
		"another error": {request: tryOf(2, refused), again: errors.New("odd"), wait: "0", use: use(), attempt: 2},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &credential{again: func(tokens.Retried) (tokens.Token, error) { return tokens.Token{Value: "fresh"}, tt.again }}
			to := target(c)
			if tt.mend != nil {
				tt.mend(&to)
			}
			tt.origin.role = envoy.RoleInject
			stream, err := dial(t, newHook(t, to)).Process(from(t.Context(), tt.origin))
			if err != nil {
				t.Fatal(err)
			}
			got := exchange(t, stream, tt.request)
			if tt.wait != "" {
				headers := got.GetImmediateResponse().GetHeaders().GetSetHeaders()
				if len(headers) == 0 || string(headers[0].GetHeader().GetRawValue()) != tt.wait {
					t.Errorf("got %v, want 503 for %s s", got, tt.wait)
				}
			} else {
				want := &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{}}}
				if tt.value != "" {
					want.GetRequestHeaders().Response = setting(tt.name, tt.value)
				}
				wantAnswer(t, got, want)
			}
			var asked []tokens.Retried
			if tt.attempt > 0 {
				asked = []tokens.Retried{{Use: tt.use, Refused: tokens.Fingerprint(refused), Verdict: tt.verdict, Attempt: tt.attempt}}
				if tt.own {
					asked[0].Refused = ""
				}
			}
			if diff := cmp.Diff(asked, c.retried); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
		})
	}
}

// Only a filter that injects is given tokens.
func TestNobodyElseInjects(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"", envoy.RoleObserve, "INJECT"} {
		c := &credential{again: func(tokens.Retried) (tokens.Token, error) { return tokens.Token{Value: "fresh"}, nil }}
		stream, err := dial(t, newHook(t, target(c))).Process(from(t.Context(), origin{role: role}))
		if err != nil {
			t.Fatal(err)
		}
		if got := exchange(t, stream, tryOf(2, "0123456789abcdef")); got.GetRequestHeaders().GetResponse() != nil || len(c.retried) > 0 {
			t.Errorf("role %q: got %v, asked %+v", role, got, c.retried)
		}
	}
}

// In push mode no check says what the request was given: the filter does.
func TestPush(t *testing.T) {
	t.Parallel()
	payload := func(claims map[string]any) option {
		return metadata(envoy.CallerNamespace, map[string]any{envoy.CallerPayloadKey: claims})
	}
	alone := func(r *extprocv3.ProcessingRequest) {
		metadata(envoy.MetadataNamespace, nil)(r)
		metadata(envoy.CheckNamespace, nil)(r)
		attribute(envoy.HeaderAttribute(envoy.AttemptHeader), "2")(r)
	}
	tests := map[string]struct {
		request *extprocv3.ProcessingRequest
		caller  tokens.Fingerprint
	}{
		"nobody knows who calls": {answerOf("401", alone), ""},
		"a caller":               {answerOf("401", alone, payload(map[string]any{"iss": "https://i", "sub": "alice"})), tokens.FingerprintOf("https://i\x00alice")},
		"an odd caller":          {answerOf("401", alone, payload(map[string]any{"iss": 7.0, "sub": []any{"x"}})), ""},
		"a check as well":        {answerOf("401", alone, metadata(envoy.CheckNamespace, written(use()))), ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &credential{outcome: tokens.Outcome{Answer: tokens.TryAgain}}
			stream, err := dial(t, newHook(t, target(c))).Process(from(t.Context(), origin{role: envoy.RoleObserve, credential: "orders", policy: "pushed"}))
			if err != nil {
				t.Fatal(err)
			}
			wantAnswer(t, exchange(t, stream, tt.request), retries("dead"))
			want := []tokens.Rejection{{
				Use:         tokens.Use{Policy: "pushed", Credential: "orders", Caller: tt.caller},
				Fingerprint: tokens.FingerprintOf(sentToken), Attempt: 2, Verdict: tokens.Dead, Rule: rejection.RuleStatus,
				Route: "orders", RequestID: requestID, Retriable: true, Uncounted: true,
			}}
			if rejected, _ := c.told(); !cmp.Equal(want, rejected) {
				t.Errorf("rejected (-want +got):\n%s", cmp.Diff(want, rejected))
			}
		})
	}
}
