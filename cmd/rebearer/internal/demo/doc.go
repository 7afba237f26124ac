// Package demo shows on one machine what rebearer is for: an authorization
// server that restarts every few seconds and voids every token with it, a
// protected API that answers a dead token with a bare 403, Envoy, and rebearer
// between them; and a caller who sends a steady load and must not notice.
//
// [Run] plays all of it, in one process but for Envoy, and shows it live.
// [RunParts] runs only what is not rebearer or Envoy, and [RunCaller] only the
// caller, for a demo whose parts run in containers. The parts themselves are in
// the packages below this one, and are those of the end-to-end tests.
//
// The package knows rebearer only by its configuration file and by the
// functions in [Parts]; the command wires them.
package demo
