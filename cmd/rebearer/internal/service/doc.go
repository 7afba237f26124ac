// Package service is rebearer as it runs: it builds what a configuration file
// describes, listens, follows changes of the file, and stops without losing a
// request.
//
// # Reload
//
// A changed file is built beside what runs and takes its place at once; a
// request sees the old or the new, never a mix. What the change does not touch
// is kept: a credential keeps its token unless the change is about which token
// that is, and a provider its keys. A file that cannot be used is refused, said, and the old one stays. Listeners are
// only made at the start.
//
// # Readiness
//
// Ready means that the configuration is loaded and that every provider was tried
// once, with whatever result: a provider's trouble must not take every replica
// out of service, since the tokens that are held still work.
//
// # Stop
//
// On the end of its context the service first says that it is not serving, on
// gRPC health and /readyz, waits for the load balancers to notice, and then
// lets the calls that run come to their end.
package service
