// Package service is rebearer as it runs: it builds what a configuration file
// describes, listens, follows changes of the file, and stops without losing a
// request.
//
// # Reload
//
// A changed file is built beside what runs and takes its place at once; a
// request sees the old or the new, never a mix. What the change does not touch
// is kept: a credential keeps its token unless the change is about which token
// that is, and its refresh token as long as that is in the same files; a provider
// keeps its keys. A file that cannot be used is refused, said, and the old one
// stays. Listeners are only made at the start.
//
// Secrets, keys and certificates of clients are read where they are used, so that
// a renewed one costs neither a restart nor a token. A token_file that changes is
// another token, which is used at once.
//
// # Several clients
//
// Every client of a credential is a source of its own, measured under its own
// name; a failover over them is the source of the credential, also where there is
// one only. All of them share the time that one provider may take: a caller, and
// Envoy, wait no longer because there are more.
//
// # Readiness
//
// Ready means that the configuration is loaded and that every provider was tried
// once, with whatever result: a provider's trouble must not take every replica
// out of service, since the tokens that are held still work. Tokens that are
// fetched for requests only have to wait for those, and nothing waits for them.
//
// # Stop
//
// On the end of its context the service first says that it is not serving, on
// gRPC health and /readyz, waits for the load balancers to notice, and then
// lets the calls that run come to their end. Nothing is revoked then: Envoy may
// use the backend tokens on.
package service
