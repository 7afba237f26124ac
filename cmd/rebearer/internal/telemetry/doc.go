// Package telemetry shows what happens: metrics for Prometheus, and one
// structured log line for every event in a token's life.
//
// The names of the metrics are a contract with people's dashboards. Neither
// metrics nor lines ever hold a token, a secret or a claim: fingerprints only.
// Nothing here blocks the way of a request: a log that is not read loses lines,
// and says how many.
package telemetry
