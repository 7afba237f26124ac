// Package extauthztest is a test kit for servers of Envoy's external
// authorization: an [Issuer] of callers' tokens, requests as Envoy makes them,
// and a client that reaches a server through real gRPC, in memory.
package extauthztest
