package hook

import (
	"context"
	"errors"
	"io"
	"slices"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rebearer/rebearer/envoy/rejection"
	"github.com/rebearer/rebearer/tokens"
)

// Credential is told what backends made of its tokens. [tokens.Credential] is
// one.
type Credential interface {
	// Rejected may block: it holds a rejection while a fresh token is fetched.
	Rejected(ctx context.Context, r tokens.Rejection) tokens.Outcome
	// Accepted does not block.
	Accepted(a tokens.Acceptance)
}

// Target is a credential with what the hook must know of its backends.
type Target struct {
	// Credential judges. Required.
	Credential Credential
	// Header is the request header that carries its token, in lower case.
	Header string
	// Scheme goes before the token in that header; empty if nothing does.
	Scheme string
	// Statuses are the HTTP statuses that are rejections.
	Statuses []int
	// Methods are those that may be sent again. Nil means all.
	Methods []string
}

// Lookup returns the target of the credential of the given name, if there is
// one. It is called for every message and must not block.
type Lookup func(credential string) (Target, bool)

// Server is the external processor. It is safe for concurrent use.
type Server struct {
	extprocv3.UnimplementedExternalProcessorServer

	lookup Lookup
}

// New makes a Server.
func New(lookup Lookup) *Server { return &Server{lookup: lookup} }

// Process implements the external processor for one request: it answers each
// message, until Envoy ends the stream.
func (s *Server) Process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	for {
		request, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled:
			return nil
		case err != nil:
			return err
		}
		if err := stream.Send(s.respond(stream.Context(), request)); err != nil {
			return err
		}
	}
}

// respond answers one message. Envoy is configured to send the headers of
// answers only; anything else passes as it is.
func (s *Server) respond(ctx context.Context, request *extprocv3.ProcessingRequest) *extprocv3.ProcessingResponse {
	switch request.GetRequest().(type) {
	case *extprocv3.ProcessingRequest_ResponseHeaders:
		return s.judge(ctx, readAnswer(request))
	case *extprocv3.ProcessingRequest_RequestHeaders:
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{}}
	case *extprocv3.ProcessingRequest_RequestBody:
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestBody{}}
	case *extprocv3.ProcessingRequest_RequestTrailers:
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestTrailers{}}
	case *extprocv3.ProcessingRequest_ResponseBody:
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseBody{}}
	case *extprocv3.ProcessingRequest_ResponseTrailers:
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseTrailers{}}
	}
	return pass()
}

// judge decides on a backend's answer.
func (s *Server) judge(ctx context.Context, a answer) *extprocv3.ProcessingResponse {
	target, ok := s.lookup(a.use.Credential)
	if !ok {
		return pass()
	}
	fingerprint := a.sent(target.Header, target.Scheme)
	if !a.isRejection(target.Statuses) {
		if a.saysNothing() {
			return pass()
		}
		target.Credential.Accepted(tokens.Acceptance{
			Use: a.use, Fingerprint: fingerprint, Attempt: a.attempt, RequestID: a.requestID,
		})
		return pass()
	}
	verdict, rule := rejection.Decide(a.Response)
	outcome := target.Credential.Rejected(ctx, tokens.Rejection{
		Use: a.use, Fingerprint: fingerprint, Attempt: a.attempt,
		Verdict: verdict, Rule: rule, Route: a.route, RequestID: a.requestID,
		Retriable: target.Methods == nil || slices.Contains(target.Methods, a.method),
	})
	switch outcome.Answer {
	case tokens.TryAgain:
		return retry(verdict)
	case tokens.Unavailable:
		return unavailable(outcome.RetryAfter)
	case tokens.Pass:
	}
	return pass()
}
