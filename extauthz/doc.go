// Package extauthz is Envoy's external authorization service
// (envoy.service.auth.v3.Authorization): it decides whether a caller may pass,
// and gives the request the backend token of its policy.
//
// # The way of a request
//
// [Server.Check] parses the request, finds its policy, compares the host, lets a
// CORS preflight pass where the policy says so, verifies the caller, compares
// what the policy requires, gets the backend token, and responds. Every step that
// fails ends the way; one function turns its error into the answer, and nothing
// but the last step ever answers OK.
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
// another token, 403 where his token is good but not for this (with the scopes
// that it lacks, if that is what it lacks), 400 where the request cannot be read
// without doubt, and 503 with Retry-After for everything that is our trouble or a
// provider's. The body is a problem document (RFC 9457), a page for a browser
// that navigates (its Accept has text/html), or a line of text for a gRPC call:
// Envoy makes the message of the gRPC status of it, and the code of the HTTP
// status. The header x-ext-auth-reason has the reason as a word. Descriptions
// come from a fixed list: nothing that was sent comes back, and what is wrong
// with a token is told only once its issuer's signature on it was found good.
//
// # What is trusted
//
// Only context_extensions, which the route sets, the method and the authority as
// Envoy states them, and x-envoy-attempt-count, which Envoy's outer router sets,
// are taken for true. A repeated or joined header with a token is refused: two
// readers might choose different ones. The path decides nothing.
//
// # What backends see
//
// The backend token, and of the caller what [Forward] names. Every header in which
// any policy tells who calls is removed from the callers' own requests to all
// policies, also where nothing is told in its place; so are authorization, and
// the header or cookie that the caller's token came in. Only on a detour (see
// [DetourExtension]) the caller's authorization stays, for Envoy's own filters;
// the last of them puts the backend token in its place.
//
// # What is never logged or returned
//
// Tokens and claims. The dynamic metadata, which access logs can show as
// %DYNAMIC_METADATA(envoy.filters.http.ext_authz:NAME)%, are those of
// [tokens.Use]: policy, credential, caller, generation, age_ms. The caller is a
// fingerprint. His subject stands beside it only where the policy tells it to the
// backend anyway. A denial has policy, verdict (deny or unavailable; allow for a
// preflight) and reason, and the caller if his token was good; it names no
// credential, so that nothing that comes later takes it for a request that was
// given one of our tokens.
package extauthz
