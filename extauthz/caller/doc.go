// Package caller decides who calls: it verifies callers' tokens and knows
// nothing of backend tokens.
//
// A [JWT] accepts the tokens of one issuer, whose keys a [KeySet] holds. A
// [Group] is what a policy uses: one or more of them, chosen by the token's
// issuer.
//
// # The way of a token
//
// Size and shape come first, then the header, the key, the signature, and the
// claims last, so that nothing is said about the claims of a token that its
// issuer never signed. A verified token is remembered by its SHA-256 until it
// expires; what is remembered still ends with its expiry, and with the removal
// of the key that signed it.
//
// # What is refused, beyond what the specifications ask
//
// Tokens over 16 KiB, base64 that is not canonical, JSON with a member twice at
// any depth, headers with crit or of another kind of JWT, algorithms that are
// not asymmetric, tokens that are bound to a key (the cnf claim: whoever sends
// one has not shown that key here), tokens that name neither a subject nor a
// client. The header members jku, x5u, jwk and x5c are never used.
//
// # When keys cannot be had
//
// Keys are loaded when they are first needed. The last good set goes on being
// used while its endpoint is down, for a day at most. A token whose key is not
// known causes a fetch, at most one per cool-down; where none is allowed and
// nobody has looked for that key yet, the answer is "unavailable" rather than
// "invalid", because it may be a new key's first token.
package caller
