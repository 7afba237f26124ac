// Package caller decides who calls: it verifies callers' tokens and knows
// nothing of backend tokens.
//
// A [JWT] accepts the tokens of one issuer, whose keys a [KeySet] holds. An
// [Opaque] asks their provider about them (RFC 7662), and a [JWTThenIntrospect]
// does both. A [Group] is what a policy uses: one or more of them, chosen by the
// issuer that the token names.
//
// # The way of a token
//
// Caches come first, by the SHA-256 of the whole token. A JWT that they do not
// know is checked for size and shape, then its header, key, signature, and
// claims last, so that nothing is said about the claims of a token that its
// issuer never signed. Any other token is asked about, at most so many times a
// second. Whatever the way, [Revocations] have the last word; nothing feeds them
// yet but whoever calls Add.
//
// What is remembered of a JWT ends with its expiry, and with the removal of the
// key that signed it; what is remembered of a provider's answer ends with the
// token's expiry, and after a configured time. Both are judged by the clock
// again on every request.
//
// # What is refused, beyond what the specifications ask
//
// Tokens over 16 KiB, base64 that is not canonical, JSON with a member twice at
// any depth, headers with crit or of another kind of JWT, algorithms that are
// not asymmetric, tokens that are bound to a key (the cnf claim: whoever sends
// one has not shown that key here), tokens that say they are ID or refresh
// tokens, tokens that name neither a subject nor a client. The header members
// jku, x5u, jwk and x5c are never used.
//
// # When a provider cannot be asked
//
// A failed call, and an answer that is not what RFC 7662 says, mean
// "unavailable" and are not remembered: they say nothing about the token. So do
// calls beyond the allowed rate; tokens that were active before have a rate of
// their own, which made-up ones cannot use up. A token that was called active is
// accepted until the configured time has passed, and not longer.
//
// # When keys cannot be had
//
// Keys are loaded when they are first needed. The last good set goes on being
// used while its endpoint is down, for a day at most. A token whose key is not
// known causes a fetch, at most one per cool-down, and one more for tokens that
// name a caller who was let in lately; where none is allowed and nobody has
// looked for that key yet, the answer is "unavailable" rather than
// "invalid", because it may be a new key's first token.
package caller
