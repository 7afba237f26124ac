// Package envoy names what the parts of rebearer that speak Envoy's protocols
// agree on: the configuration that [github.com/rebearer/rebearer/envoy/render]
// prints, and the hook that Envoy then calls about a rejection. The names are a
// contract with configurations that run in other people's Envoys; changing one
// breaks those that were printed before.
//
// The way of a rejection, in the nested shape:
//
//  1. The backend answers a try with a rejection. Envoy's observe filter holds
//     that answer and tells the hook: the answer's headers, the token that was
//     sent (a request attribute), and the metadata that the check left.
//  2. The hook decides. Where the token was dead and a fresh one is in hand it
//     sets [RetryHeader] on the answer.
//  3. The outer listener retries exactly the answers that carry that header.
//     The new try passes the check again and is given the fresh token.
//  4. Where the outer listener cannot retry (the body was larger than its
//     buffer, the request is a stream, or the tries are used up), the header's
//     value decides what the caller sees: see [RetryDead] and [RetryUnclear].
package envoy

// RetryHeader is the response header by which the hook asks Envoy to retry.
// Envoy removes it where a backend sends it, and before a caller sees it.
const RetryHeader = "x-rebearer-retry"

// Values of [RetryHeader]. Any value asks for a retry. They differ only where
// Envoy cannot retry.
const (
	// RetryDead says that the token was dead: the caller is answered 503 with
	// "Retry-After: 0", because the next request will be sent a fresh token.
	RetryDead = "dead"
	// RetryUnclear says that the rejection may have been about something
	// else: the caller is given the backend's own answer.
	RetryUnclear = "unclear"
)

// AttemptHeader is the request header in which Envoy tells the check the number
// of the try, from "1". Envoy sets it whatever the caller sent.
const AttemptHeader = "x-envoy-attempt-count"

// Metadata that the hook finds beside the check's own (which is under
// "envoy.filters.http.ext_authz"). [AttemptHeader] itself is gone by then: it
// must not reach the backend.
const (
	// MetadataNamespace holds what the rendered configuration notes down.
	MetadataNamespace = "rebearer"
	// AttemptKey is the number of the try, a number from 1.
	AttemptKey = "attempt"
)
