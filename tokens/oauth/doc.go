// Package oauth gets backend tokens from providers (authorization servers), and
// asks them about tokens.
//
// A [Provider] is an authorization server as configured: where its endpoints
// are, how its certificate is verified and how long an answer may take. A
// [Client] is who we are there, and how we show it; it asks about tokens
// ([Client.Introspect]) and voids them ([Client.Revoke]). A [TokenSource] gets
// tokens as one client by one grant, and implements
// [github.com/rebearer/rebearer/tokens.Source]. Nothing here caches a token, or
// what is said about one: that is the job of packages tokens and caller.
//
// # Secrets and keys
//
// They are read for every request that shows them or signs with them, so that a
// rotated one is used at once. One that cannot be read fails that request, as a
// provider that is down would, and the token in hand goes on being used.
//
// # Clocks
//
// An assertion that we sign carries the provider's time, as far as the Date
// headers of its answers show it; see [Provider.Skew]. The life of a token is
// counted from when it was requested, so it needs no common clock.
//
// # What a provider may not do
//
// Every exchange has a deadline and a cap on the size of the answer, measured
// after decompression. Redirects are never followed, so a client secret goes to
// the configured endpoint and nowhere else. Certificates are always verified.
// Plain http is accepted for loopback addresses, and beyond them only where the
// configuration says so.
//
// # What is never in an error
//
// Secrets, tokens, error_description and the bodies of answers. An error names
// the endpoint's address, the status, and the error code when it is one of RFC
// 6749 section 5.2 or another that is known.
//
// # Providers that are down
//
// Nothing is asked of a provider before it is needed, so one that is down when
// rebearer starts is found as soon as it is up. Discovered metadata outlives
// the provider that gave it.
package oauth
