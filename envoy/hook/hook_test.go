package hook_test

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/envoy/hook"
	"github.com/rebearer/rebearer/envoy/rejection"
	"github.com/rebearer/rebearer/tokens"
)

// credential is scripted, and remembers what it was told.
type credential struct {
	outcome tokens.Outcome
	hold    func(context.Context) // called while a rejection is held
	again   func(tokens.Retried) (tokens.Token, error)

	mu       sync.Mutex
	rejected []tokens.Rejection
	accepted []tokens.Acceptance
	retried  []tokens.Retried
}

func (c *credential) Rejected(ctx context.Context, r tokens.Rejection) tokens.Outcome {
	c.mu.Lock()
	c.rejected = append(c.rejected, r)
	c.mu.Unlock()
	if c.hold != nil {
		c.hold(ctx)
	}
	return c.outcome
}

func (c *credential) Accepted(a tokens.Acceptance) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.accepted = append(c.accepted, a)
}

func (c *credential) Again(_ context.Context, r tokens.Retried) (tokens.Token, error) {
	c.mu.Lock()
	c.retried = append(c.retried, r)
	c.mu.Unlock()
	return c.again(r)
}

func (c *credential) told() ([]tokens.Rejection, []tokens.Acceptance) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rejected, c.accepted
}

// target is that of the credential "orders".
func target(c hook.Credential) hook.Target {
	return hook.Target{Credential: c, Header: "authorization", Scheme: "Bearer", Statuses: []int{401, 403}}
}

// lookup knows "orders" only.
func lookup(to hook.Target) hook.Lookup {
	return func(name string) (hook.Target, bool) { return to, name == "orders" }
}

// newHook makes a hook that knows "orders" only.
func newHook(t testing.TB, to hook.Target) *hook.Server {
	t.Helper()
	server, err := hook.New(lookup(to), hook.Config{Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// open starts the server and opens a stream to it, as Envoy does for a request.
func open(t *testing.T, ctx context.Context, to hook.Target) extprocv3.ExternalProcessor_ProcessClient { //nolint:revive // t goes first
	t.Helper()
	stream, err := dial(t, newHook(t, to)).Process(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// dial serves a hook and returns a client of it.
func dial(t *testing.T, h *hook.Server) extprocv3.ExternalProcessorClient {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	extprocv3.RegisterExternalProcessorServer(server, h)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	connection, err := grpc.NewClient("passthrough:///bufconn",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = connection.Close()
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("gRPC server: %v", err)
		}
	})
	return extprocv3.NewExternalProcessorClient(connection)
}

// exchange sends one message and returns the answer.
func exchange(t *testing.T, stream extprocv3.ExternalProcessor_ProcessClient, request *extprocv3.ProcessingRequest) *extprocv3.ProcessingResponse {
	t.Helper()
	if err := stream.Send(request); err != nil {
		t.Fatal(err)
	}
	response, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// ask opens a stream for one message.
func ask(t *testing.T, to hook.Target, request *extprocv3.ProcessingRequest) *extprocv3.ProcessingResponse {
	t.Helper()
	stream := open(t, t.Context(), to)
	response := exchange(t, stream, request)
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
	if extra, err := stream.Recv(); err == nil {
		t.Errorf("a second answer: %v", extra)
	}
	return response
}

const (
	requestID = "5c0b7e5c-6d5b-4f3c-9d59-6d3c31c5dd54"
	sentToken = "backend-token-1"
)

func use() tokens.Use {
	return tokens.Use{Policy: "default", Credential: "orders", Caller: "0123456789abcdef", Generation: 7, Age: 90 * time.Second}
}

// written is a Use in the form in which the check writes it.
func written(u tokens.Use) map[string]any {
	return map[string]any{
		tokens.PolicyField: u.Policy, tokens.CredentialField: u.Credential, tokens.CallerField: string(u.Caller),
		tokens.SubjectField: u.Subject, tokens.BypassField: u.Bypass,
		tokens.GenerationField: float64(u.Generation), tokens.AgeField: float64(u.Age.Milliseconds()),
	}
}

// option changes a message.
type option func(*extprocv3.ProcessingRequest)

// answerOf is the message that Envoy 1.40 sends about a backend's answer.
func answerOf(status string, options ...option) *extprocv3.ProcessingRequest {
	r := &extprocv3.ProcessingRequest{
		Request: &extprocv3.ProcessingRequest_ResponseHeaders{ResponseHeaders: &extprocv3.HttpHeaders{
			Headers: &corev3.HeaderMap{}, EndOfStream: true,
		}},
		MetadataContext: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
			envoy.CheckNamespace:    fields(written(use())),
			envoy.MetadataNamespace: fields(map[string]any{envoy.AttemptKey: 1.0}),
		}},
		Attributes: map[string]*structpb.Struct{"envoy.filters.http.ext_proc": fields(map[string]any{
			envoy.RequestIDAttribute:               requestID,
			envoy.MethodAttribute:                  "GET",
			envoy.RouteAttribute:                   "orders",
			envoy.HeaderAttribute("authorization"): "Bearer " + sentToken,
		})},
	}
	header(":status", status)(r)
	header("date", "Sat, 21 Nov 2026 20:14:54 GMT")(r)
	header("x-envoy-upstream-service-time", "3")(r)
	for _, o := range options {
		o(r)
	}
	return r
}

func fields(values map[string]any) *structpb.Struct {
	s, err := structpb.NewStruct(values)
	if err != nil {
		return nil // a Struct takes every value that these tests use
	}
	return s
}

func header(name, value string) option {
	return func(r *extprocv3.ProcessingRequest) {
		headers := r.GetResponseHeaders().GetHeaders()
		headers.Headers = append(headers.Headers, &corev3.HeaderValue{Key: name, RawValue: []byte(value)})
	}
}

func attribute(name string, value any) option {
	return func(r *extprocv3.ProcessingRequest) {
		all := r.Attributes["envoy.filters.http.ext_proc"].AsMap()
		all[name] = value
		r.Attributes["envoy.filters.http.ext_proc"] = fields(all)
	}
}

func attempt(n any) option {
	return func(r *extprocv3.ProcessingRequest) {
		r.MetadataContext.FilterMetadata[envoy.MetadataNamespace] = fields(map[string]any{envoy.AttemptKey: n})
	}
}

func metadata(namespace string, values map[string]any) option {
	return func(r *extprocv3.ProcessingRequest) {
		if values == nil {
			delete(r.MetadataContext.FilterMetadata, namespace)
			return
		}
		r.MetadataContext.FilterMetadata[namespace] = fields(values)
	}
}

func passes() *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseHeaders{
		ResponseHeaders: &extprocv3.HeadersResponse{},
	}}
}

// retries asks for a retry, and tells inject what was refused.
func retries(value string) *extprocv3.ProcessingResponse {
	change := setting("x-rebearer-retry", value)
	if value == "dead" {
		change.HeaderMutation.SetHeaders = append(change.HeaderMutation.SetHeaders, setting("x-rebearer-dead", value).HeaderMutation.SetHeaders...)
	}
	return &extprocv3.ProcessingResponse{
		DynamicMetadata: fields(map[string]any{"rebearer": map[string]any{
			"refused": string(tokens.FingerprintOf(sentToken)), "verdict": value,
		}}),
		Response: &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{
			Response: change,
		}},
	}
}

func setting(name, value string) *extprocv3.CommonResponse {
	return &extprocv3.CommonResponse{
		HeaderMutation: &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{{
			Header:       &corev3.HeaderValue{Key: name, RawValue: []byte(value)},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		}}},
	}
}

// What is told of a rejection, and what the outcome becomes.
func TestRejection(t *testing.T) {
	t.Parallel()
	fingerprint := tokens.FingerprintOf(sentToken)
	told := tokens.Rejection{
		Use: use(), Fingerprint: fingerprint, Attempt: 1, Route: "orders", Retriable: true, RequestID: requestID,
		Verdict: tokens.Unclear, Rule: rejection.RuleStatus,
	}
	tests := map[string]struct {
		outcome tokens.Outcome
		request *extprocv3.ProcessingRequest
		mend    func(*hook.Target)
		told    func(*tokens.Rejection)
		want    *extprocv3.ProcessingResponse
	}{
		"unclear, passes": {
			request: answerOf("403"), want: passes(),
		},
		"unclear, retried": {
			outcome: tokens.Outcome{Answer: tokens.TryAgain}, request: answerOf("403"), want: retries("unclear"),
		},
		"dead, retried": {
			outcome: tokens.Outcome{Answer: tokens.TryAgain}, request: answerOf("401"),
			told: func(r *tokens.Rejection) { r.Verdict = tokens.Dead }, want: retries("dead"),
		},
		"dead, passes": {
			request: answerOf("401"),
			told:    func(r *tokens.Rejection) { r.Verdict = tokens.Dead }, want: passes(),
		},
		"a challenge that names the error": {
			outcome: tokens.Outcome{Answer: tokens.TryAgain},
			request: answerOf("403", header("www-authenticate", `Bearer error="invalid_token"`)),
			told:    func(r *tokens.Rejection) { r.Verdict, r.Rule = tokens.Dead, rejection.RuleChallenge }, want: retries("dead"),
		},
		"several challenges, the second names the error": {
			request: answerOf("403", header("www-authenticate", `Basic realm="x"`),
				header("www-authenticate", `Bearer realm="orders", error="insufficient_scope", scope="orders.write"`)),
			told: func(r *tokens.Rejection) { r.Verdict, r.Rule = tokens.NotAllowed, rejection.RuleChallenge }, want: passes(),
		},
		"a backend that asks for no token": {
			request: answerOf("401", header("www-authenticate", `Basic realm="x"`), header("www-authenticate", "Negotiate")),
			told:    func(r *tokens.Rejection) { r.Verdict, r.Rule = tokens.NotAllowed, rejection.RuleChallengeScheme }, want: passes(),
		},
		"gRPC, trailers only": {
			outcome: tokens.Outcome{Answer: tokens.TryAgain},
			request: answerOf("200", header("content-type", "application/grpc"), header("grpc-status", "16")),
			told:    func(r *tokens.Rejection) { r.Verdict, r.Rule = tokens.Dead, rejection.RuleGRPCStatus }, want: retries("dead"),
		},
		"refused again": {
			request: answerOf("403", attempt(2.0)),
			told:    func(r *tokens.Rejection) { r.Attempt = 2 }, want: passes(),
		},
		"an attempt that makes no sense": {
			request: answerOf("403", attempt("two")), want: passes(),
		},
		"no attempt": {
			request: answerOf("403", metadata(envoy.MetadataNamespace, nil)), want: passes(),
		},
		"a header without scheme": {
			request: answerOf("403", attribute(envoy.HeaderAttribute("x-api-token"), sentToken)),
			mend:    func(to *hook.Target) { to.Header, to.Scheme = "x-api-token", "" }, want: passes(),
		},
		"a scheme in another case": {
			request: answerOf("403", attribute(envoy.HeaderAttribute("authorization"), "bearer "+sentToken)), want: passes(),
		},
		"a header without the scheme it should have": {
			request: answerOf("403", attribute(envoy.HeaderAttribute("authorization"), sentToken)),
			told:    func(r *tokens.Rejection) { r.Fingerprint = "" }, want: passes(),
		},
		"no attributes": {
			request: answerOf("403", func(r *extprocv3.ProcessingRequest) { r.Attributes = nil }),
			told:    func(r *tokens.Rejection) { r.Fingerprint, r.Route, r.RequestID = "", "", "" }, want: passes(),
		},
		"attributes of other types": {
			request: answerOf("403", attribute(envoy.MethodAttribute, 7.0), attribute(envoy.RequestIDAttribute, nil)),
			told:    func(r *tokens.Rejection) { r.RequestID = "" }, want: passes(),
		},
		"a method that may be sent again": {
			request: answerOf("403"), mend: func(to *hook.Target) { to.Methods = []string{"HEAD", "GET"} }, want: passes(),
		},
		"a method that may not": {
			request: answerOf("403", attribute(envoy.MethodAttribute, "POST")),
			mend:    func(to *hook.Target) { to.Methods = []string{"HEAD", "GET"} },
			told:    func(r *tokens.Rejection) { r.Retriable = false }, want: passes(),
		},
		"a header in the old field": {
			request: answerOf("200", func(r *extprocv3.ProcessingRequest) {
				r.GetResponseHeaders().GetHeaders().Headers = []*corev3.HeaderValue{{Key: ":status", Value: "401"}}
			}),
			told: func(r *tokens.Rejection) { r.Verdict = tokens.Dead }, want: passes(),
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &credential{outcome: tt.outcome}
			to := target(c)
			if tt.mend != nil {
				tt.mend(&to)
			}
			got := ask(t, to, tt.request)
			if diff := cmp.Diff(tt.want, got, protocmp.Transform(), protocmp.IgnoreEmptyMessages()); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			want := told
			if tt.told != nil {
				tt.told(&want)
			}
			rejected, accepted := c.told()
			if diff := cmp.Diff([]tokens.Rejection{want}, rejected); diff != "" {
				t.Errorf("rejected (-want +got):\n%s", diff)
			}
			if len(accepted) > 0 {
				t.Errorf("accepted: %+v", accepted)
			}
		})
	}
}

// Where no fresh token can be had the caller gets a clean 503.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	for after, want := range map[time.Duration]string{
		0: "0", 1: "1", time.Millisecond: "1", time.Second: "1", time.Second + 1: "2", 9500 * time.Millisecond: "10",
		10 * time.Second: "10", time.Hour: "3600",
	} {
		t.Run(after.String(), func(t *testing.T) {
			t.Parallel()
			c := &credential{outcome: tokens.Outcome{Answer: tokens.Unavailable, RetryAfter: after}}
			got := ask(t, target(c), answerOf("401", header("www-authenticate", `Bearer error="invalid_token"`))).GetImmediateResponse()
			if got.GetStatus().GetCode() != typev3.StatusCode_ServiceUnavailable {
				t.Fatalf("got %v", got)
			}
			if status := got.GetGrpcStatus().GetStatus(); codes.Code(status) != codes.Unavailable {
				t.Errorf("gRPC status %d", status)
			}
			headers := map[string]string{}
			for _, h := range got.GetHeaders().GetSetHeaders() {
				headers[h.GetHeader().GetKey()] = string(h.GetHeader().GetRawValue())
			}
			if headers["retry-after"] != want {
				t.Errorf("retry-after: got %q, want %q", headers["retry-after"], want)
			}
			if headers["content-type"] != "application/problem+json" || len(got.GetBody()) == 0 || got.GetDetails() == "" {
				t.Errorf("got %v", got)
			}
			if _, ok := headers["www-authenticate"]; ok {
				t.Error("the backend's challenge is shown")
			}
		})
	}
}

// An answer of a gateway between us and the backend proves nothing.
func TestGatewayErrorsAreNoAcceptance(t *testing.T) {
	t.Parallel()
	for _, status := range []string{"502", "503", "504"} {
		c := &credential{}
		ask(t, target(c), answerOf(status, attempt(2.0)))
		if rejected, accepted := c.told(); len(rejected)+len(accepted) > 0 {
			t.Errorf("%s: rejected %+v, accepted %+v", status, rejected, accepted)
		}
	}
}

// A retried try that is accepted is told, and changes nothing.
func TestAccepted(t *testing.T) {
	t.Parallel()
	want := tokens.Acceptance{
		Use: use(), Fingerprint: tokens.FingerprintOf(sentToken), Attempt: 2, RequestID: requestID,
	}
	for _, request := range []*extprocv3.ProcessingRequest{
		answerOf("200", attempt(2.0)),
		answerOf("404", attempt(2.0)),
		answerOf("500", attempt(2.0)),
		answerOf("200", attempt(2.0), header("grpc-status", "0")),
		answerOf("200", attempt(2.0), header("grpc-status", "7")),
	} {
		c := &credential{}
		if diff := cmp.Diff(passes(), ask(t, target(c), request), protocmp.Transform(), protocmp.IgnoreEmptyMessages()); diff != "" {
			t.Errorf("answer (-want +got):\n%s", diff)
		}
		rejected, accepted := c.told()
		if diff := cmp.Diff([]tokens.Acceptance{want}, accepted); diff != "" || len(rejected) > 0 {
			t.Errorf("rejected %+v, accepted (-want +got):\n%s", rejected, diff)
		}
	}
}

// A status that the credential does not count as a rejection is none.
func TestOnlyItsStatuses(t *testing.T) {
	t.Parallel()
	c := &credential{outcome: tokens.Outcome{Answer: tokens.TryAgain}}
	to := target(c)
	to.Statuses = []int{401}
	got := ask(t, to, answerOf("403"))
	if diff := cmp.Diff(passes(), got, protocmp.Transform(), protocmp.IgnoreEmptyMessages()); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
	if rejected, _ := c.told(); len(rejected) > 0 {
		t.Errorf("rejected %+v", rejected)
	}
}

// What is not about a request of ours is let go as it is, and nobody is told.
func TestNotOurs(t *testing.T) {
	t.Parallel()
	unknown := use()
	unknown.Credential = "gone"
	nameless := use()
	nameless.Credential = ""
	for name, request := range map[string]*extprocv3.ProcessingRequest{
		"no metadata":          answerOf("401", func(r *extprocv3.ProcessingRequest) { r.MetadataContext = nil }),
		"none of the check":    answerOf("401", metadata(envoy.CheckNamespace, nil)),
		"another's":            answerOf("401", metadata(envoy.CheckNamespace, map[string]any{"x": "y"})),
		"an odd credential":    answerOf("401", metadata(envoy.CheckNamespace, map[string]any{"credential": []any{"orders"}})),
		"an unknown one":       answerOf("401", metadata(envoy.CheckNamespace, written(unknown))),
		"one without a name":   answerOf("401", metadata(envoy.CheckNamespace, written(nameless))),
		"in another namespace": answerOf("401", metadata(envoy.CheckNamespace, nil), metadata("x", written(use()))),
		"nothing at all":       {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &credential{outcome: tokens.Outcome{Answer: tokens.TryAgain}}
			if diff := cmp.Diff(passes(), ask(t, target(c), request), protocmp.Transform(), protocmp.IgnoreEmptyMessages()); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			rejected, accepted := c.told()
			if len(rejected)+len(accepted) > 0 {
				t.Errorf("told %+v %+v", rejected, accepted)
			}
		})
	}
}

// Messages that Envoy is not configured to send are answered in kind: an answer
// of another kind would end the request.
func TestOtherMessages(t *testing.T) {
	t.Parallel()
	c := &credential{outcome: tokens.Outcome{Answer: tokens.TryAgain}}
	stream := open(t, t.Context(), target(c))
	for _, pair := range []struct {
		request *extprocv3.ProcessingRequest
		kind    func(*extprocv3.ProcessingResponse) bool
	}{
		{
			&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestHeaders{RequestHeaders: &extprocv3.HttpHeaders{}}},
			func(r *extprocv3.ProcessingResponse) bool { return r.GetRequestHeaders() != nil },
		},
		{
			&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestBody{RequestBody: &extprocv3.HttpBody{Body: []byte("x")}}},
			func(r *extprocv3.ProcessingResponse) bool { return r.GetRequestBody() != nil },
		},
		{
			&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_RequestTrailers{RequestTrailers: &extprocv3.HttpTrailers{}}},
			func(r *extprocv3.ProcessingResponse) bool { return r.GetRequestTrailers() != nil },
		},
		{
			&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseBody{ResponseBody: &extprocv3.HttpBody{}}},
			func(r *extprocv3.ProcessingResponse) bool { return r.GetResponseBody() != nil },
		},
		{
			&extprocv3.ProcessingRequest{Request: &extprocv3.ProcessingRequest_ResponseTrailers{ResponseTrailers: &extprocv3.HttpTrailers{}}},
			func(r *extprocv3.ProcessingResponse) bool { return r.GetResponseTrailers() != nil },
		},
		{answerOf("401"), func(r *extprocv3.ProcessingResponse) bool { return r.GetResponseHeaders() != nil }},
	} {
		if got := exchange(t, stream, pair.request); !pair.kind(got) {
			t.Errorf("%T is answered with %T", pair.request.GetRequest(), got.GetResponse())
		}
	}
	if rejected, _ := c.told(); len(rejected) != 1 {
		t.Errorf("%d rejections were told, want 1", len(rejected))
	}
}

// A caller who leaves while a rejection is held is not waited for.
func TestCancelWhileHeld(t *testing.T) {
	t.Parallel()
	held, released := make(chan struct{}), make(chan error, 1)
	c := &credential{hold: func(ctx context.Context) {
		close(held)
		<-ctx.Done()
		released <- ctx.Err()
	}}
	ctx, leave := context.WithCancel(t.Context())
	stream := open(t, ctx, target(c))
	if err := stream.Send(answerOf("401")); err != nil {
		t.Fatal(err)
	}
	<-held
	leave()
	if err := <-released; err == nil {
		t.Error("the rejection is held without the caller")
	}
	if response, err := stream.Recv(); err == nil {
		t.Errorf("got %v", response)
	}
}
