// Package wiring tells from the configuration that an Envoy runs whether the
// whole way of a rejection is wired: observed, decided, retried with another
// token. A chain that is not is silent until the day it is needed.
//
// It reads what the admin interface of any Envoy says on /config_dump, whoever
// wrote that Envoy's configuration. What it cannot see is what is not there: a
// route that leads round the check is none of its business.
//
// # How it looks
//
// The dump is decoded into Envoy's own types; extensions that this program does
// not know are skipped over. Calls to rebearer are told by what they say of
// themselves in initial_metadata, and the check by the cluster that those calls
// go to: there may be others'. From the filters of each listener, and their order,
// it is then known in which shape that listener is, and what each of its routes
// and clusters must have. What is disabled, and turned on by no route, counts as
// if it were not there.
package wiring
