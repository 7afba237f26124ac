package oauth

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"golang.org/x/oauth2"

	"github.com/rebearer/rebearer/tokens"
)

var (
	errTokenType   = errors.New("token_type is not Bearer (RFC 6749 section 7.1)")
	errTokenText   = errors.New("access_token is too long or no b64token (RFC 6750 section 2.1)")
	errExpiresIn   = errors.New("expires_in is not a lifetime")
	errNotAnAnswer = errors.New("not a token answer (RFC 6749 section 5.1)")
)

// maxRetryAfter caps what a provider may ask us to wait.
const maxRetryAfter = 5 * time.Minute

// ResponseError is the refusal of a token or introspection endpoint.
type ResponseError struct {
	// Status is the HTTP status.
	Status int
	// Code is the error code, if it is one that is known: those of RFC 6749
	// section 5.2, invalid_target, invalid_token, access_denied and
	// unsupported_token_type.
	Code string

	retryAfter time.Duration
}

// Error implements error.
func (e *ResponseError) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("status %d", e.Status)
	}
	return fmt.Sprintf("status %d, error %s", e.Status, e.Code)
}

// RetryAfter is how long the provider wants to be left alone (RFC 9110 section
// 10.2.3), 5 minutes at most; zero means that it does not say.
func (e *ResponseError) RetryAfter() time.Duration { return e.retryAfter }

// callerError marks a failure that may be about the caller alone on whose behalf
// a token was asked for: others may get theirs.
type callerError struct{ err error }

// Error implements error.
func (e *callerError) Error() string { return e.err.Error() }

// Unwrap returns the failure.
func (e *callerError) Unwrap() error { return e.err }

// tokenError reduces the error of a token request to what may be logged, and
// says whether it is permanent, or about the caller's token, as subjectCodes say,
// or may be about him. The errors of x/oauth2 quote what the provider sent, so none
// is passed on.
func tokenError(err error, subjectCodes []string) error {
	var (
		refused  *oauth2.RetrieveError
		exchange *url.Error
	)
	switch {
	case errors.As(err, &refused):
		response := &ResponseError{
			Status: refused.Response.StatusCode,
			// Some token endpoints have these two of RFC 6750 section 3.1 and RFC
			// 6749 section 4.1.2.1 for a token that they do not take, and for a
			// client that may not do this.
			Code:       knownCode(refused.ErrorCode, "invalid_token", "access_denied"),
			retryAfter: retryAfter(refused.Response.Header, time.Now()),
		}
		if response.understood() && slices.Contains(subjectCodes, response.Code) {
			return &tokens.SubjectError{Err: response}
		}
		if len(subjectCodes) > 0 && response.understood() && !response.aboutClient() {
			return &callerError{refusal(response)}
		}
		return refusal(response)
	case errors.As(err, &exchange):
		return exchangeError(exchange)
	}
	return errNotAnAnswer
}

// refusal says whether an answer that is not a success is permanent: it is when
// the provider understood the request and refused it, and when it sends us
// elsewhere, since credentials are not sent twice.
func refusal(response *ResponseError) error {
	switch status := response.Status; {
	case status >= 300 && status < 400:
		return &tokens.PermanentError{Err: fmt.Errorf("redirects are not followed: %w", response)}
	case response.understood():
		return &tokens.PermanentError{Err: response}
	}
	return response
}

// understood reports whether the provider understood the request and refused it.
func (e *ResponseError) understood() bool {
	return e.Status >= 400 && e.Status < 500 && e.Status != http.StatusTooManyRequests && e.Code != ""
}

// aboutClient reports whether the provider refused our client or its grant, and so
// whoever asks.
func (e *ResponseError) aboutClient() bool {
	return slices.Contains([]string{"invalid_client", "unauthorized_client", "unsupported_grant_type"}, e.Code)
}

// knownCode returns code if it is one of RFC 6749 section 5.2, RFC 8707 section 2
// or more, and nothing otherwise: any other text is the provider's own.
func knownCode(code string, more ...string) string {
	known := []string{
		"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client",
		"unsupported_grant_type", "invalid_scope", "invalid_target",
	}
	if slices.Contains(known, code) || slices.Contains(more, code) {
		return code
	}
	return ""
}

// retryAfter reads the header of that name in both its forms.
func retryAfter(header http.Header, now time.Time) time.Duration {
	text := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(text, 10, 31); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter)
	}
	return 0
}
