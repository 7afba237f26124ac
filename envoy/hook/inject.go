package hook

import (
	"context"
	"errors"
	"strconv"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/tokens"
)

// inject answers with the token of a try that follows another. One that follows a
// rejection about the token never gets that one; one of the user's own retry policy
// gets the token that lives now, and keeps the one it has where there is none. What
// Envoy sent again unasked waits for what is decided on its rejection, and keeps its
// token where that is not to blame.
func (t *try) inject(ctx context.Context, request *extprocv3.ProcessingRequest) *extprocv3.ProcessingResponse {
	use, noted := readUse(request, t.from)
	target, ok := t.server.lookup(use.Credential)
	if !ok {
		return onRequestHeaders(nil)
	}
	retried := tokens.Retried{
		Use: use, Attempt: readAttempt(request),
		Refused: tokens.Fingerprint(noted[envoy.RefusedKey].GetStringValue()),
	}
	if noted[envoy.VerdictKey].GetStringValue() == envoy.RetryDead {
		retried.Verdict = tokens.Dead
	}
	if retried.Refused == "" && retried.Attempt == 2 && len(target.Unasked) > 0 && isShared(readAttribute(request, envoy.ProtocolAttribute)) {
		if response := t.heed(ctx, request, &retried); response != nil {
			return response
		}
	}
	return give(ctx, target, retried)
}

// heed waits for what is decided on the rejection before, and completes retried by
// that. The answer is nil unless the token does not matter any more.
func (t *try) heed(ctx context.Context, request *extprocv3.ProcessingRequest, retried *tokens.Retried) *extprocv3.ProcessingResponse {
	route := readAttribute(request, envoy.RouteAttribute)
	said := t.server.rulings.await(ctx, newRequestKey(readAttribute(request, envoy.RequestIDAttribute), retried.Use, route))
	switch {
	case said == nil:
		retried.Unasked, retried.Route = true, route
	case said.outcome.Answer == tokens.Pass: // which the same token's will be
		return onRequestHeaders(nil)
	case said.outcome.Answer == tokens.Unavailable:
		return unavailable(said.outcome.RetryAfter)
	default:
		retried.Refused, retried.Verdict = said.refused.Fingerprint, said.refused.Verdict
	}
	return nil
}

// give answers with the token for a retried request.
func give(ctx context.Context, target Target, retried tokens.Retried) *extprocv3.ProcessingResponse {
	token, err := target.Credential.Again(ctx, retried)
	var u *tokens.UnavailableError
	switch {
	case err != nil && retried.Refused == "" && (!retried.Unasked || errors.Is(err, tokens.ErrNoSubject)):
		return onRequestHeaders(nil)
	case errors.As(err, &u):
		return unavailable(u.RetryAfter)
	case err != nil:
		return unavailable(0)
	}
	value := token.Value.Reveal()
	if target.Scheme != "" {
		value = target.Scheme + " " + value
	}
	return onRequestHeaders(setting(set(target.Header, value)))
}

func readAttribute(request *extprocv3.ProcessingRequest, name string) string {
	for _, attributes := range request.GetAttributes() {
		if value := attributes.GetFields()[name].GetStringValue(); value != "" {
			return value
		}
	}
	return ""
}

// readAttempt returns the number of a try that is about to be made. The filter
// is not asked about the first.
func readAttempt(request *extprocv3.ProcessingRequest) int {
	for _, h := range request.GetRequestHeaders().GetHeaders().GetHeaders() {
		if n, err := strconv.Atoi(valueOf(h)); h.GetKey() == envoy.AttemptHeader && err == nil && n > 1 {
			return n
		}
	}
	return 2
}
