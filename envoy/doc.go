// Package envoy names what the parts of rebearer that speak Envoy's protocols
// agree on: the configuration that [github.com/rebearer/rebearer/envoy/render]
// prints, and the hook that Envoy then calls about a rejection. The names are a
// contract with configurations that run in other people's Envoys; changing one
// breaks those that were printed before.
//
// The way of a rejection where Envoy sends every try through the check (the
// nested shape):
//
//  1. The backend answers a try with a rejection. Envoy's observe filter holds
//     that answer and tells the hook: the answer's headers, the token that was
//     sent (a request attribute), and the metadata that the check left.
//  2. The hook decides. Where the token was dead and a fresh one is in hand it
//     sets [RetryHeader] on the answer.
//  3. The outer listener retries exactly the answers that carry that header.
//     The new try passes the check again and is given the fresh token.
//  4. Where the outer listener cannot retry (the body was larger than its
//     buffer, the request is a stream, or the tries are used up), the caller
//     gets the backend's own answer, or a 503 where [DeadHeader] stands beside
//     that header.
//
// Where Envoy sends a request again behind the check (the lean shape), or asks no
// check at all (push mode), observe is a filter of the router's own, which runs
// for every try. The hook notes down the token that was refused ([RefusedKey]),
// and inject, another such filter, asks the hook for the token of the next try.
// Answers that cannot be held are told to the hook by a third, watch; where Envoy
// sends the request again all the same, inject waits for what follows from that.
package envoy
