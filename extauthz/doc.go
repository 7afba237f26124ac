// Package extauthz is Envoy's external authorization service
// (envoy.service.auth.v3.Authorization): it decides whether a caller may pass,
// and gives the request the backend token of its policy.
//
// # The way of a request
//
// [Server.Check] parses the request, finds its policy, verifies the caller,
// gets the backend token, and responds. Every step that fails ends the way; one
// function turns its error into the answer, and nothing but the last step ever
// answers OK.
//
// # Which policy
//
// The one that the route names in context_extensions under [PolicyExtension]. A
// route that names none gets the policy [DefaultPolicy], where one of that name
// is declared. Any other name is a fault in the configuration of Envoy or of
// rebearer, not of the caller: 503, with the name in the log.
//
// # What callers are told
//
// 401 with a challenge (RFC 6750 section 3) where the caller can help it by
// another token, 400 where the request cannot be read without doubt, and 503
// with Retry-After for everything that is our trouble or a provider's. The body
// is a problem document (RFC 9457); the header x-ext-auth-reason has the same
// reason as a word. Descriptions come from a fixed list: nothing that was sent
// comes back, and what is wrong with a token is told only once its issuer's
// signature on it was found good.
//
// # What is trusted
//
// Only context_extensions, which the route sets, and x-envoy-attempt-count,
// which Envoy's outer router sets, are taken for true. A repeated or joined
// Authorization header is refused: two readers might choose different ones.
//
// # What is never logged or returned
//
// Tokens and claims. The dynamic metadata of an accepted request are those of
// [tokens.Use]: which policy and credential, the token's generation and age,
// and the caller's fingerprint.
package extauthz
