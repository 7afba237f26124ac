// Package rejection decides what a backend's rejection says about the backend
// token that was sent: dead, not allowed, or unclear.
//
// The order of evidence; the first that applies decides, and its name is the
// rule that logs and metrics show:
//
//  1. challenge: the error of a challenge in WWW-Authenticate (RFC 6750
//     section 3). invalid_token is dead; insufficient_scope, and any other
//     registered error that a fresh token cannot mend, is not allowed. Other
//     errors, and challenges that contradict each other, prove nothing.
//  2. rule:NAME and preset:NAME: a value in the body, where a rule is configured
//     that looks for it. [Presets] are rules for well-known systems.
//  3. challenge_scheme: the backend asks for schemes of which none takes a
//     token: it did not look at ours.
//  4. introspection: what the token's provider says. Whoever can ask it does,
//     before going on.
//  5. grpc_status: 16, UNAUTHENTICATED, is dead.
//  6. status: 401 is dead, 400 is about the request, and everything else is
//     unclear.
//
// Nothing is ever looked for in the text of a whole header: descriptions are
// written for people. Of bodies only that is compared which a system says in
// the same words each time.
package rejection
