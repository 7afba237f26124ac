package extauthz

import (
	"errors"
	"iter"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

var (
	errIncomplete = errors.New("the check request has no HTTP attributes")
	errMethod     = errors.New("CONNECT cannot carry a bearer token to a backend")
	errPath       = errors.New("the request has no path")
	errRepeated   = errors.New("a token sent more than once")
	errNoToken    = errors.New("no bearer token")
)

const (
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
	detour bool   // see DetourExtension
}

// parseRequest reads a check request. Nothing in it may be there.
func parseRequest(check *authv3.CheckRequest) (request, error) {
	attributes := check.GetAttributes()
	extensions := attributes.GetContextExtensions()
	detour := extensions[DetourExtension]
	r := request{http: attributes.GetRequest().GetHttp(), policy: extensions[PolicyExtension], detour: detour == DetourHeader}
	switch {
	case detour != "" && !r.detour:
		return r, errDetour
	case r.http == nil:
		return r, errIncomplete
	case r.http.GetMethod() == "CONNECT":
		return r, errMethod
	case r.http.GetPath() == "":
		return r, errPath
	}
	return r, nil
}

// headers yields every value of a header. Envoy fills headers, where it has
// joined repeated ones with commas, or header_map if encode_raw_headers is set.
// Names are in lower case in both.
func (r request) headers(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if joined, ok := r.http.GetHeaders()[name]; ok && !yield(joined) {
			return
		}
		for _, entry := range r.http.GetHeaderMap().GetHeaders() {
			if strings.EqualFold(entry.GetKey(), name) && !yield(textOf(entry)) {
				return
			}
		}
	}
}

// header returns a header's last value and how often it was sent.
func (r request) header(name string) (value string, count int) {
	for v := range r.headers(name) {
		value = v
		count++
	}
	return value, count
}

// textOf returns the value of a header that Envoy sent in either form.
func textOf(entry *corev3.HeaderValue) string {
	if raw := entry.GetRawValue(); len(raw) > 0 {
		return string(raw)
	}
	return entry.GetValue()
}

// isPreflight reports a CORS preflight (Fetch standard, section 4.8).
func (r request) isPreflight() bool {
	if r.http.GetMethod() != "OPTIONS" {
		return false
	}
	origin, origins := r.header("origin")
	method, methods := r.header("access-control-request-method")
	return origins == 1 && origin != "" && methods == 1 && method != ""
}

// form returns what the caller can read: a gRPC message is text, and a person in
// front of a browser wants no JSON.
func (r request) form() form {
	if r.http == nil {
		return problemForm
	}
	kind, _ := r.header("content-type")
	if rest, ok := strings.CutPrefix(strings.ToLower(kind), "application/grpc"); ok && (rest == "" || rest[0] == '+' || rest[0] == ';') {
		return textForm
	}
	if accepted, _ := r.header("accept"); strings.Contains(strings.ToLower(accepted), "text/html") {
		return pageForm
	}
	return problemForm
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
