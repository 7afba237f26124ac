// Package load sends a load of HTTP requests as a caller does, and counts what
// comes back. It tells real 403s of the demo's API from all other answers, so
// that what remains can be called a failure: a caller's request that did not
// get what the backend would have answered to a living token.
//
// A run ends when its context does. Requests that are under way then are
// finished, not cut off: none is counted as a failure only because the run
// ended.
package load
