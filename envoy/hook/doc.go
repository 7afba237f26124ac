// Package hook is the external processor (envoy.service.ext_proc.v3) that Envoy
// asks about a backend's answer: a rejection that it holds, or the acceptance of
// a retried try. It has the rejection judged and answers what to do with it.
//
// # What it is told
//
// The answer's headers; which credential's token the request was given, from the
// metadata that the check left (see [tokens.Use]); the very token that was sent,
// from a request attribute; and the number of the try. Without the check's
// metadata it changes nothing: that request was not ours.
//
// # What it answers
//
//   - Nothing: the answer goes on to the caller as it is.
//   - The retry header ([envoy.RetryHeader]): Envoy sends the request again. A
//     fresh token is in hand by then.
//   - An immediate 503 with Retry-After: the rejection is about our token, which
//     is none of the caller's business, and no fresh one can be had.
//
// Envoy is told to go on without it when it fails: it only ever improves the
// answer to a request that was allowed already.
package hook
