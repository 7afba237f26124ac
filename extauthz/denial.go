package extauthz

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"

	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/tokens"
)

// The values of the decision label.
const (
	decisionAllow       = "allow"
	decisionDeny        = "deny"        // the caller can help it
	decisionUnavailable = "unavailable" // it is our trouble, or a provider's
)

// Reasons that do not come from package caller.
const (
	reasonAllowed       = "ok"
	reasonAnonymous     = "anonymous"
	reasonPreflight     = "preflight"
	reasonHost          = "host_not_served"
	reasonClient        = "client_not_allowed"
	reasonClaim         = "claim_missing"
	reasonScope         = "insufficient_scope"
	reasonUnforwardable = "claim_unforwardable"
	reasonNoToken       = "token_missing"
	reasonRepeated      = "authorization_repeated"
	reasonRequest       = "request_unusable"
	reasonIncomplete    = "request_incomplete"
	reasonUnknownPolicy = "policy_unknown"
	reasonJudging       = "caller_unavailable"
	reasonToken         = "backend_token_unavailable"
	reasonSubject       = "subject_refused"
	reasonDeadline      = "deadline"
	reasonInternal      = "internal"

	// publicInvalid is told to callers instead of the reason where that is not
	// theirs to know.
	publicInvalid = "token_invalid"
)

// maxRetryAfter caps the Retry-After header: a browser may take it at its word.
const maxRetryAfter = 5 * time.Minute

// panicError is a panic that was recovered. It has where, and not what: the
// value of a panic may quote what was being read.
type panicError struct{ stack []byte }

func (e panicError) Error() string { return "panic while checking: " + string(e.stack) }

// unknownPolicyError is a route's policy that is not declared.
type unknownPolicyError struct{ name string }

func (e unknownPolicyError) Error() string {
	return fmt.Sprintf("policy %q is not declared", clip(e.name))
}

// denial is an answer that is not OK.
type denial struct {
	status   int
	code     codes.Code
	decision string
	reason   string // for logs and metrics
	public   string // for the caller
	detail   string // for the caller, in words

	challenge  string // WWW-Authenticate; empty for none
	retryAfter time.Duration
}

// denialOf is the one place that turns an error into an answer.
func denialOf(err error) denial {
	var (
		invalid *caller.InvalidError
		judging *caller.UnavailableError
		token   *tokens.UnavailableError
		subject *tokens.SubjectError
		unknown unknownPolicyError
		scope   scopeError
	)
	switch {
	case errors.As(err, &invalid):
		return refusedToken(invalid)
	case errors.Is(err, errNoToken):
		// Without an error code (RFC 6750 section 3.1): the caller may not have
		// known that it needs a token.
		return denial{
			status: http.StatusUnauthorized, code: codes.Unauthenticated, decision: decisionDeny,
			reason: reasonNoToken, public: reasonNoToken, detail: "bearer token missing", challenge: `Bearer realm="rebearer"`,
		}
	case errors.Is(err, errRepeated):
		return badRequest(reasonRepeated, "token sent more than once")
	case errors.Is(err, errMethod), errors.Is(err, errPath):
		return badRequest(reasonRequest, "request cannot be authorized")
	case errors.As(err, &scope):
		d := forbidden(reasonScope, "token lacks a scope")
		d.challenge = challenge(reasonScope, d.detail) + fmt.Sprintf(`, scope=%q`, scope.needed)
		return d
	case errors.Is(err, errClient):
		return forbidden(reasonClient, "client is not allowed here")
	case errors.Is(err, errClaim):
		return forbidden(reasonClaim, "token is not allowed here")
	case errors.Is(err, errUnforwardable):
		return forbidden(reasonUnforwardable, "token is not allowed here")
	case errors.Is(err, errHost):
		return forbidden(reasonHost, "host is not served here")
	case errors.Is(err, errIncomplete):
		return unavailable(reasonIncomplete, time.Second)
	case errors.As(err, &unknown):
		return unavailable(reasonUnknownPolicy, time.Second)
	case errors.As(err, &judging):
		return unavailable(cmp.Or(string(judging.Reason), reasonJudging), max(judging.RetryAfter, time.Second))
	case errors.As(err, &subject):
		return refusedSubject()
	case errors.As(err, &token):
		return unavailable(reasonToken, token.RetryAfter)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return unavailable(reasonDeadline, time.Second)
	}
	return unavailable(reasonInternal, time.Second)
}

// refusedToken is the answer to a token that is not accepted.
func refusedToken(invalid *caller.InvalidError) denial {
	public := string(invalid.Reason)
	if invalid.Description == caller.Undisclosed {
		public = publicInvalid
	}
	return denial{
		status: http.StatusUnauthorized, code: codes.Unauthenticated, decision: decisionDeny,
		reason: string(invalid.Reason), public: public, detail: invalid.Description,
		challenge: challenge("invalid_token", invalid.Description),
	}
}

// refusedSubject is the answer to a token that is good for us, but that its
// provider does not take in exchange for the backend's: one that it has revoked
// since, or that was never meant to be exchanged.
func refusedSubject() denial {
	const detail = "token refused by its provider when it was to be exchanged for the backend's"
	return denial{
		status: http.StatusUnauthorized, code: codes.Unauthenticated, decision: decisionDeny,
		reason: reasonSubject, public: reasonSubject, detail: detail, challenge: challenge("invalid_token", detail),
	}
}

// forbidden is the answer to a caller whose token is good, but not for this. It
// has no challenge unless another token of the same caller may help.
func forbidden(reason, detail string) denial {
	return denial{
		status: http.StatusForbidden, code: codes.PermissionDenied, decision: decisionDeny,
		reason: reason, public: reason, detail: detail,
	}
}

// badRequest is the answer to a request that cannot be read without doubt.
func badRequest(reason, detail string) denial {
	return denial{
		status: http.StatusBadRequest, code: codes.InvalidArgument, decision: decisionDeny,
		reason: reason, public: reason, detail: detail, challenge: challenge("invalid_request", detail),
	}
}

// unavailable is the answer to everything that is not the caller's fault.
func unavailable(reason string, retryAfter time.Duration) denial {
	return denial{
		status: http.StatusServiceUnavailable, code: codes.Unavailable, decision: decisionUnavailable,
		reason: reason, public: reason, detail: "authorization is unavailable, try again later",
		retryAfter: min(retryAfter, maxRetryAfter),
	}
}

// challenge is the WWW-Authenticate header (RFC 6750 section 3). Both texts are
// ours and need no quoting.
func challenge(code, description string) string {
	return fmt.Sprintf(`Bearer realm="rebearer", error=%q, error_description=%q`, code, description)
}

// problem is a problem document (RFC 9457). Its type is about:blank, which is
// what leaving it out means.
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Reason string `json:"reason"`
}

// form is the form of a denial's body.
type form int

const (
	problemForm form = iota // RFC 9457, for programs
	textForm                // the message of a gRPC status, which Envoy makes of the body
	pageForm                // for a browser that wants to show something
)

// body returns the body and its type. All texts in it are ours.
func (d denial) body(f form) (body, kind string) {
	title := http.StatusText(d.status)
	switch f {
	case textForm:
		return d.detail, "text/plain; charset=utf-8"
	case pageForm:
		return fmt.Sprintf("<!doctype html>\n<html lang=\"en\"><title>%d %s</title><h1>%s</h1><p>%s (%s)</p></html>\n",
			d.status, title, title, d.detail, d.public), "text/html; charset=utf-8"
	case problemForm:
	}
	text, err := json.Marshal(problem{title, d.status, d.detail, d.public})
	if err != nil {
		text = nil // a struct of texts and a number: does not happen
	}
	return string(text), "application/problem+json"
}

// response returns the answer for Envoy. Its headers replace those of Envoy's
// own local reply.
func (d denial) response(f form) *authv3.CheckResponse {
	body, kind := d.body(f)
	denied := &authv3.DeniedHttpResponse{
		Status: &typev3.HttpStatus{Code: typev3.StatusCode(d.status)}, //nolint:gosec // one of our four statuses
		Body:   body,
		Headers: []*corev3.HeaderValueOption{
			overwrite("content-type", kind),
			overwrite("cache-control", "no-store"),
			overwrite("x-ext-auth-reason", d.public),
		},
	}
	if d.challenge != "" {
		denied.Headers = append(denied.Headers, overwrite("www-authenticate", d.challenge))
	}
	if d.decision == decisionUnavailable {
		seconds := int(math.Ceil(max(d.retryAfter, 0).Seconds()))
		denied.Headers = append(denied.Headers, overwrite("retry-after", strconv.Itoa(seconds)))
	}
	return &authv3.CheckResponse{
		Status:       &rpcstatus.Status{Code: int32(d.code), Message: d.public}, //nolint:gosec // a gRPC code
		HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: denied},
	}
}
