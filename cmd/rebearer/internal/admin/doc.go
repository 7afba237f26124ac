// Package admin is the operators' API: what the credentials are doing, and the
// switches for three in the morning.
//
//	GET  /v1/credentials                 every credential's state
//	POST /v1/flush                       {"credential": "orders"} or {"all": true}
//	POST /v1/credentials/NAME/pause      no token requests until resumed
//	POST /v1/credentials/NAME/resume
//	POST /v1/credentials/NAME/void       simulate a dead token; off by default
//	GET  /v1/envoys                      who is given tokens (delivery: push)
//	GET  /v1/log-level
//	PUT  /v1/log-level                   {"level": "debug"}
//
// No answer ever holds a token: fingerprints only. Changes need the bearer token
// of server.admin.token_file where one is configured; off loopback everything
// does. A request whose Host is neither an address nor localhost is refused
// (DNS rebinding), and so is a change that is not sent as JSON (which a foreign
// page cannot send without being allowed to).
package admin
