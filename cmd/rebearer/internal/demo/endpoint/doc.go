// Package endpoint serves an HTTP handler on one address, so that the address
// is known before the handler exists: an authorization server has to know its
// own URL. A served endpoint can be taken down, which closes its port and
// every connection, and brought up again on the same address.
//
// It speaks HTTP/1.1 and HTTP/2 without TLS, for the demo and for tests only.
package endpoint
