// Package tokens holds the backend tokens: one per key, fetched once, renewed
// before it expires, and evicted exactly when the very token that a backend
// refused is the one that is held.
//
// It knows nothing of Envoy, of HTTP servers or of callers. A [Source] (see
// package tokens/oauth) gets tokens from a provider; a [Credential] hands them
// out and is told what backends made of them.
//
// # The way of a token
//
// [Credential.Token] returns the living token of the credential, or waits for
// the one fetch in flight. [Credential.Rejected] is told of a backend's
// rejection and answers what to do with the request: pass the backend's answer
// on, try again with the fresh token that is now in hand, or say that none can
// be had. [Credential.Accepted] is told when a retried request passed.
//
// # What is true
//
// One entry per key, a small state machine behind its own mutex, is the only
// truth. Ristretto maps keys to entries and bounds them; a credential of our own
// also holds its entry, so that no pressure on the cache ever costs a fetch. A
// miss is normal, and nothing is ever written to be read back: ristretto's Set
// is asynchronous.
//
// # Fetch
//
// There is at most one fetch in flight per key. It runs on a context of its own
// with a deadline of its own; whoever waits for it leaves when they like, and a
// late answer still counts. A failed fetch never shortens the life of the token
// that is held, and never lengthens it.
//
// # Evict
//
// Evicting is compare-and-evict on the token that was refused. A late rejection
// of an old token never evicts the new one, and a token that was requested
// before its predecessor's rejection was seen does not count as fresh. The old
// token stays until a fresh one is in hand.
//
// # When a rejection costs a token request
//
// A caller who is simply not allowed looks just like a dead token when the
// backend answers a bare 403, so every token request that a rejection causes is
// a trial, and trials are bounded by a token bucket per credential:
//
//   - A rejection tries at once while the bucket is above its reserve, unless
//     the same caller on the same route was refused again after an earlier
//     trial, within the cool-down.
//   - Otherwise it is held for a moment. If at least half of the requests since
//     then come back refused too, the token is what is wrong: that may spend the
//     reserve.
//   - A trial after which a retried request passed is given back, within bounds,
//     and so is one that the provider did not answer: a pause bounds those. One
//     that several rejections in a row caused, and after which nothing passed,
//     makes the second rule fall silent, longer each time, until most requests
//     pass again.
//
// So a caller with a standing 403 cannot switch the recovery off for others, and
// a backend that refuses everything cannot make us hammer the provider.
//
// # Replicas
//
// Check and hook of one request may land on different replicas with different
// tokens. A fingerprint that this replica never issued makes its own token
// suspect, unless that was issued a moment ago; a retried request is never given
// a token that is older than a moment if the bucket allows a fresh one.
package tokens
