package hook

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rebearer/rebearer/envoy/rejection"
	"github.com/rebearer/rebearer/tokens"
)

// bodyWait is how long the body of a rejection is waited for. The caller waits
// as well, and backends send what is so short together with the headers.
const bodyWait = 2 * time.Second

// try is one stream: what Envoy tells about one try of a request.
type try struct {
	server *Server
	from   origin

	answer *answer // of the backend, once its headers came
	// awaited is whether Envoy was asked for the answer's body: nothing has
	// been decided yet.
	awaited bool
}

// target returns the target of the credential whose token was sent, if there is
// one still.
func (t *try) target() (Target, bool) { return t.server.lookup(t.answer.use.Credential) }

// receive waits for the next message. It returns none when the stream is over:
// when Envoy has ended it, or when a body that Envoy was asked for does not come.
// Envoy then lets the answer go on as it is.
func (t *try) receive(stream extprocv3.ExternalProcessor_ProcessServer) (*extprocv3.ProcessingRequest, error) {
	if !t.awaited {
		return finish(stream.Recv())
	}
	request, err := receiveWithin(stream, bodyWait)
	if target, ok := t.target(); request == nil && ok {
		t.report(stream.Context(), target)
	}
	return request, err
}

// receiveWithin gives up after a while. The stream must not be used then, except
// to end it.
func receiveWithin(stream extprocv3.ExternalProcessor_ProcessServer, wait time.Duration) (*extprocv3.ProcessingRequest, error) {
	arrived := make(chan message, 1)
	go func() { // which ends with the stream at the latest
		request, err := stream.Recv()
		arrived <- message{request, err}
	}()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case m := <-arrived:
		return finish(m.request, m.err)
	case <-timer.C:
		return nil, nil //nolint:nilnil // the end, as where Envoy ends the stream
	}
}

// message is what arrived on a stream.
type message struct {
	request *extprocv3.ProcessingRequest
	err     error
}

// finish makes no error of a stream that Envoy ends.
func finish(request *extprocv3.ProcessingRequest, err error) (*extprocv3.ProcessingRequest, error) {
	if errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled {
		return nil, nil //nolint:nilnil // the end
	}
	return request, err
}

// respond answers one message.
func (t *try) respond(ctx context.Context, request *extprocv3.ProcessingRequest) *extprocv3.ProcessingResponse {
	switch m := request.GetRequest().(type) {
	case *extprocv3.ProcessingRequest_RequestHeaders:
		if t.from.injects() {
			return t.inject(ctx, request)
		}
		return onRequestHeaders(nil)
	case *extprocv3.ProcessingRequest_ResponseHeaders:
		t.answer = readAnswer(request, t.from)
		return t.judgeHeaders(ctx, m.ResponseHeaders.GetEndOfStream())
	case *extprocv3.ProcessingRequest_ResponseBody:
		return t.judgeBody(ctx, m.ResponseBody.GetBody())
	case *extprocv3.ProcessingRequest_ResponseTrailers:
		if t.answer == nil {
			t.answer = readAnswer(request, t.from)
		}
		t.judgeTrailers(ctx, m.ResponseTrailers.GetTrailers())
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseTrailers{}}
	case *extprocv3.ProcessingRequest_RequestBody:
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestBody{}}
	case *extprocv3.ProcessingRequest_RequestTrailers:
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestTrailers{}}
	}
	return onHeaders(nil)
}

// judgeHeaders decides on a backend's answer, or asks for its body.
func (t *try) judgeHeaders(ctx context.Context, isWhole bool) *extprocv3.ProcessingResponse {
	a := t.answer
	target, ok := t.target()
	switch {
	case !ok:
		return onHeaders(nil)
	case !a.isRejection(target.Statuses):
		t.accept(target)
		return onHeaders(nil)
	case !isWhole && t.from.holdsBodies() && a.canBeRead() && target.Rules.WantsBody(a.Response):
		t.awaited = true
		return askForBody()
	}
	return t.judge(ctx, target, onHeaders)
}

// judgeBody decides on a rejection whose body Envoy was asked for.
func (t *try) judgeBody(ctx context.Context, body []byte) *extprocv3.ProcessingResponse {
	if !t.awaited {
		return onBody(nil)
	}
	t.awaited = false
	target, ok := t.target()
	if !ok {
		return onBody(nil)
	}
	t.answer.Body = body
	return t.judge(ctx, target, onBody)
}

// judgeTrailers evicts the token of a gRPC call that was refused after it had
// begun to be answered. It is too late for another try.
func (t *try) judgeTrailers(ctx context.Context, trailers *corev3.HeaderMap) {
	a := t.answer
	target, ok := t.target()
	if !ok || a.isRejection(target.Statuses) { // which was told already
		return
	}
	a.readHeaders(trailers.GetHeaders())
	if a.isRejection(target.Statuses) {
		t.report(ctx, target)
	}
}

// accept tells that the backend accepted a retried try.
func (t *try) accept(target Target) {
	a := t.answer
	if a.saysNothing() {
		return
	}
	target.Credential.Accepted(tokens.Acceptance{
		Use: a.use, Fingerprint: tokens.FingerprintOf(a.token(target)), Attempt: a.attempt, RequestID: a.requestID,
	})
}

// judge decides on a rejection, and wraps what is to be changed about it.
func (t *try) judge(ctx context.Context, target Target, wrap func(*extprocv3.CommonResponse) *extprocv3.ProcessingResponse) *extprocv3.ProcessingResponse {
	if t.from.watches() {
		t.judgeUnheld(ctx, target)
		return wrap(nil)
	}
	decision := t.decide(ctx, target)
	rejected := t.rejection(target, decision)
	outcome := target.Credential.Rejected(ctx, rejected)
	switch outcome.Answer {
	case tokens.TryAgain:
		return retry(wrap, decision.Verdict, rejected.Fingerprint)
	case tokens.Unavailable:
		return unavailable(outcome.RetryAfter)
	case tokens.Pass:
	}
	return wrap(nil)
}

// judgeUnheld is judge for a rejection that nobody holds. Where Envoy sends the
// request again unasked, inject waits for what is decided, on a stream of its own:
// this one may end meanwhile.
func (t *try) judgeUnheld(ctx context.Context, target Target) {
	a := t.answer
	isResent := a.isResent(target)
	var said *ruling
	if isResent {
		said = t.server.rulings.begin(newRequestKey(a.requestID, a.use, a.route))
		ctx = context.WithoutCancel(ctx) // the credential's timeout bounds it
	}
	r := t.rejection(target, t.decide(ctx, target))
	r.Unheld, r.Retriable, r.Repeated = true, isResent, a.isRepeated(target)
	outcome := target.Credential.Rejected(ctx, r)
	said.give(r, outcome)
}

// report tells of a rejection whose answer nobody waits for: what follows from it
// is for other requests.
func (t *try) report(ctx context.Context, target Target) {
	gone, leave := context.WithCancel(ctx)
	leave()
	r := t.rejection(target, target.Rules.Decide(t.answer.Response))
	r.Retriable, r.Unheld = false, true
	target.Credential.Rejected(gone, r)
}

// decide finds the verdict on a rejection. Without evidence the provider may be
// asked.
func (t *try) decide(ctx context.Context, target Target) rejection.Decision {
	decision := target.Rules.Decide(t.answer.Response)
	if !decision.ByStatus() || target.Introspect == nil {
		return decision
	}
	return t.server.introspection.decide(ctx, target, t.answer, decision)
}

func (t *try) rejection(target Target, d rejection.Decision) tokens.Rejection {
	a := t.answer
	return tokens.Rejection{
		Use: a.use, Fingerprint: tokens.FingerprintOf(a.token(target)), Attempt: a.attempt,
		Verdict: d.Verdict, Rule: d.Rule, Route: a.route, RequestID: a.requestID,
		Retriable: target.Methods == nil || slices.Contains(target.Methods, a.method),
		Uncounted: t.from.pushes(),
	}
}
