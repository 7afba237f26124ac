// Package hook is the external processor (envoy.service.ext_proc.v3) that Envoy
// asks about a backend's answer: a rejection that it holds, or the acceptance of
// a retried try. It has the rejection judged and answers what to do with it.
//
// # Who asks
//
// A filter says in its stream's metadata what it is ([envoy.RoleMetadata]):
//
//   - observe holds an answer until the hook has decided.
//   - watch cannot hold it: it is answered nothing. What it tells may evict a token,
//     and where Envoy sends the request again unasked it decides what inject is
//     answered.
//   - inject is about to send a request again, and asks for the token, because
//     such a request does not pass the check again in an upstream chain.
//
// # What it is told
//
// The answer's headers; which credential's token the request was given, from the
// metadata that the check left (see [tokens.Use]) or, in push mode, from the
// stream's own; the very token that was sent, from a request attribute; and the
// number of the try. Without that metadata it changes nothing: that request was
// not ours.
//
// The body of a rejection is asked for only where a rule looks into bodies of
// that status and type, no challenge has decided, and it is declared to be no
// longer than [rejection.MaxBody]. One that does not come is not waited for.
//
// # What it answers
//
//   - Nothing: the answer goes on to the caller as it is.
//   - The retry header ([envoy.RetryHeader]): Envoy sends the request again. A
//     fresh token is in hand by then.
//   - An immediate 503 with Retry-After: the rejection is about our token, which
//     is none of the caller's business, and no fresh one can be had.
//   - To inject, the header with a token that was not refused, or an immediate 503
//     where there is none; nothing where the rejection was not about the token.
//
// A gRPC call that is refused in its trailers, after it had begun to be answered,
// is not sent again: the token is evicted at most, where a filter sends trailers.
//
// Envoy is told to go on without the hook when that fails: it only ever improves
// the answer to a request that was allowed already.
package hook
