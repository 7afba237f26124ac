package extauthz

import (
	"errors"
	"strconv"
	"strings"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

var (
	errIncomplete = errors.New("the check request has no HTTP attributes")
	errMethod     = errors.New("CONNECT cannot carry a bearer token to a backend")
	errPath       = errors.New("the request has no path")
	errRepeated   = errors.New("authorization sent more than once")
	errNoToken    = errors.New("no bearer token")
)

const (
	bearer        = "Bearer"
	attemptHeader = "x-envoy-attempt-count"
	// maxAttempt is beyond what any retry policy does.
	maxAttempt = 1000
	// maxLogged bounds what is logged of a text that others wrote.
	maxLogged = 64
)

// request is what a check needs to know of a request.
type request struct {
	http   *authv3.AttributeContext_HttpRequest
	policy string // as named; empty if none is
}

// parseRequest reads a check request. Nothing in it may be there.
func parseRequest(check *authv3.CheckRequest) (request, error) {
	attributes := check.GetAttributes()
	r := request{http: attributes.GetRequest().GetHttp(), policy: attributes.GetContextExtensions()[PolicyExtension]}
	switch {
	case r.http == nil:
		return r, errIncomplete
	case r.http.GetMethod() == "CONNECT":
		return r, errMethod
	case r.http.GetPath() == "":
		return r, errPath
	}
	return r, nil
}

// header returns a header's value and how often it was sent. Envoy fills
// headers, where it has joined repeated ones with commas, or header_map if
// encode_raw_headers is set. Names are in lower case in both.
func (r request) header(name string) (value string, count int) {
	if joined, ok := r.http.GetHeaders()[name]; ok {
		value, count = joined, 1
	}
	for _, entry := range r.http.GetHeaderMap().GetHeaders() {
		if !strings.EqualFold(entry.GetKey(), name) {
			continue
		}
		count++
		value = entry.GetValue()
		if raw := entry.GetRawValue(); len(raw) > 0 {
			value = string(raw)
		}
	}
	return value, count
}

// token returns the caller's bearer token (RFC 6750 section 2.1). Another
// scheme, or the scheme alone, is no token. A comma is in no token: it means
// that several values were joined, of which none is taken.
func (r request) token() (string, error) {
	value, count := r.header(authorization)
	if count > 1 {
		return "", errRepeated
	}
	scheme, rest, _ := strings.Cut(value, " ")
	token := strings.Trim(rest, " ")
	switch {
	case !strings.EqualFold(scheme, bearer), token == "":
		return "", errNoToken
	case strings.Contains(token, ","):
		return "", errRepeated
	}
	return token, nil
}

// attempt returns which try of the request this is, from 1.
func (r request) attempt() int {
	value, count := r.header(attemptHeader)
	n, err := strconv.Atoi(value)
	if count != 1 || err != nil {
		return 1
	}
	return min(max(n, 1), maxAttempt)
}

// id returns Envoy's request id, for logs.
func (r request) id() string {
	id, _ := r.header("x-request-id")
	return clip(id)
}

// clip shortens a text that others wrote to what is worth a log line.
func clip(text string) string {
	if len(text) > maxLogged {
		return text[:maxLogged] + "…"
	}
	return text
}
