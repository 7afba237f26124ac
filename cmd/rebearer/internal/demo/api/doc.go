// Package api is the protected API of the demo and of the tests: a backend that
// accepts requests with exactly one living bearer token and refuses all others,
// by default as the backends do for which rebearer exists: with a bare 403 that
// says nothing about why.
//
// It answers before it reads a request's body, as real backends do, so an
// upload with a dead token is refused early.
package api
