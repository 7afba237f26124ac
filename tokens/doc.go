// Package tokens holds the backend tokens: one per key, fetched once, renewed
// before it expires, and evicted exactly when the very token that a backend
// refused is the one that is held. A key is a credential, and the caller's token
// where the backend token is on behalf of the caller.
//
// It knows nothing of Envoy, of HTTP servers or of callers. A [Source] (see
// package tokens/oauth) gets tokens from a provider; a [Credential] hands them
// out and is told what backends made of them.
//
// # The way of a token
//
// [Credential.Token] returns the living token for a request, or waits for the
// one fetch in flight. [Credential.Rejected] is told of a backend's rejection and
// answers what to do with the request: pass the backend's answer on, try again
// with the fresh token that is now in hand, or say that none can be had.
// [Credential.Again] returns the token for a request that is sent again without
// passing the check again. [Credential.Accepted] is told when a retried request
// passed. [Config.Publish] is for those who hold a copy of our own token.
//
// # What is true
//
// One entry per key, a small state machine behind its own mutex, is the only
// truth. What the entries of a credential have in common is in its holder. When
// a changed credential takes another's place ([Credential.Adopt]), it takes the
// holder, so that a change of settings costs no token and no count.
//
// Ristretto maps keys to entries and bounds them in bytes and time. The holder
// also has the entry of our own token, so that no pressure on the cache ever
// costs a fetch of that. Nothing is ever written to be read back, since
// ristretto's Set is asynchronous: what it does not have yet, or no more, is found
// among the entries with a fetch in flight. A miss is normal.
//
// Locks are taken in this order: an entry's, then a credential's, a holder's or
// the cache's.
//
// # On behalf of callers
//
// Where [Config.OnBehalf] is set there is one entry for every caller's token. It
// keeps that token for as long as both live, to ask for another backend token
// with, and its cost counts all that. Two callers never share an entry. Such a
// token is renewed when the caller next asks for it, for he may never come back;
// one that he no longer asks for is pushed out, or ends.
//
// A bypass ([Config.Bypass], [Request.Bypass]) has an entry for each fetch, which
// nobody finds afterwards. Requests of the same instant on the same behalf share
// it.
//
// # Fetch
//
// There is at most one fetch in flight per key. It runs on a context of its own
// with a deadline of its own; whoever waits for it leaves when they like, and a
// late answer still counts. A failed fetch never shortens the life of the token
// that is held, and never lengthens it.
//
// A refresh token that comes with a token is used for the next one. One that is
// dropped is revoked at its provider, so that none piles up there: when it is not
// needed, or belongs to an entry that ended or was pushed out. It is left alone
// for a moment before that, since a provider revokes the access token with it,
// and when the process stops.
//
// # Evict
//
// Evicting is compare-and-evict on the token that was refused. A late rejection
// of an old token never evicts the new one, and a token that was requested
// before its predecessor's rejection was seen does not count as fresh. The old
// token stays until a fresh one is in hand. A provider that answers with the very
// token that was said to be dead is asked to revoke it, once, and then for another.
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
//     then come back refused too, of those that are not refused as a rule, the
//     token is what is wrong: that may spend the reserve. It is known before the
//     moment is over after four in a row, and one more for each percent that is
//     usual. Where every caller has a token of his own it takes three quarters,
//     and twelve in a row.
//   - A trial after which a retried request passed is given back, within bounds,
//     and so is one that the provider did not answer: a pause bounds those. One
//     that several rejections in a row caused, and after which nothing passed,
//     makes the second rule fall silent, longer each time, until most requests
//     pass again.
//
// So a caller with a standing 403 cannot switch the recovery off for others, and
// a backend that refuses everything cannot make us hammer the provider.
//
// The requests on behalf of all callers are counted together, but for those of a
// caller whose trial did not help: what he is refused says nothing of the others'
// tokens. Where nobody counts the requests ([Rejection.Uncounted]), a surge of
// rejections, many more than usual, stands for most of them.
//
// # Suspicion
//
// A provider that voided one token has as a rule voided all, for it restarted.
// Once a retried request showed that for a token of our own, or those of two
// callers did, the provider's other tokens from before are suspect. Our own are
// renewed at once, one after the other and as far as the budgets of their
// credentials allow; a caller's is renewed before it is handed out again.
//
// # Replicas
//
// Check and hook of one request may land on different replicas with different
// tokens. A fingerprint that this replica never issued makes its own token
// suspect, unless that was issued a moment ago; a retried request is never given
// a token that is older than a moment if the bucket allows a fresh one.
package tokens
