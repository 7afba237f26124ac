// Package rejection decides what a backend's rejection says about the backend
// token that was sent: dead, not allowed, or unclear.
//
// The order of evidence; the first that applies decides, and its name is the
// rule that logs and metrics show:
//
//  1. challenge: the error of a challenge in WWW-Authenticate (RFC 6750
//     section 3). invalid_token is dead; insufficient_scope, and any other
//     error that a fresh token cannot mend, is not allowed. Challenges that
//     contradict each other prove nothing.
//  2. challenge_scheme: the backend asks for schemes of which none takes a
//     token: it did not look at ours.
//  3. grpc_status: 16, UNAUTHENTICATED, is dead.
//  4. status: 401 is dead, and everything else is unclear.
//
// Nothing is ever looked for in the text of a whole header: descriptions are
// written for people.
package rejection
