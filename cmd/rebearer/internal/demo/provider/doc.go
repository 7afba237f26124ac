// Package provider is an OAuth 2.0 authorization server for the demo and for
// tests: the client credentials grant (RFC 6749 section 4.4), metadata
// (RFC 8414 and OpenID Connect Discovery), JWKS (RFC 7517), introspection
// (RFC 7662) and revocation (RFC 7009), in memory. The protocol is that of
// github.com/go-oauth2/oauth2; this package adds what that library leaves to
// its users: where tokens are kept, how they look, and the endpoints around.
//
// It exists to misbehave on demand. [Provider.Restart] does to its tokens what
// a restart of a real server with nothing on disk does: in one step all of them
// are void and the keys are new. Every request is handled wholly before that
// step or wholly after it, so a token that was answered is void or is not, and
// the counts of a test can be exact.
package provider
