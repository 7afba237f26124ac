// Package render prints Envoy's configuration in the nested shape: [Bootstrap]
// a whole one that `envoy -c` runs as it is, [Static] the pieces to paste into
// one's own. Both are built from Envoy's typed protos and accepted by Envoy
// 1.36.4 and later.
//
// # Shape
//
//	caller -> outer listener -> internal listener -> backend
//	          finish            ext_authz
//	          router (retries)  attempt
//	                            observe
//	                            router (routes)
//
// A retry of Envoy's router does not run the filters before it again, so the
// check could not hand out another token. Therefore two levels: the outer one
// only retries, and every one of its tries passes the whole inner chain, check
// included. The inner listener is not a socket; it lives in the same process.
//
//   - ext_authz asks the check, by one gRPC call for each try. When that call
//     fails the caller gets 503, and the backend nothing.
//   - attempt moves the number of the try from a header, which the backend must
//     not see, into metadata, where observe finds it.
//   - observe is an ext_proc that tells the hook of rejections, and of accepted
//     second tries. For an accepted first try nothing is sent.
//   - finish is two filters that see the answer only where no retry followed.
//     One turns "our token was dead" into a 503 with "Retry-After: 0". The
//     other hides the retry header from the caller.
//
// # Limits of a retry
//
// The outer router keeps what it has sent of a request's body. As long as that
// fits into [Config.BodyBuffer] the request can be sent again, also one that is
// refused before it has ended: an upload, a WebSocket, a gRPC stream. When it does
// not fit any more, the caller is answered as [envoy.RetryDead] and
// [envoy.RetryUnclear] say.
//
// # What the backend sees
//
// The same as from a plain Envoy with the outer listener's settings: address,
// client certificate, scheme, host, path, request id, trace context, trailers
// and upgrades. The outer listener decides on all of them and the inner one
// passes them on untouched. A test compares the two, header by header. What
// remains different:
//
//   - authorization (or the credential's own header) is ours, by design.
//   - A caller's own x-rebearer-retry and x-envoy-attempt-count are removed.
//   - Envoy's x-envoy-retry-... and x-envoy-upstream-rq-...-timeout-ms headers,
//     which it obeys from internal addresses only, are obeyed by the outer
//     router. Such a retry passes the check again; x-envoy-max-retries limits
//     rebearer's retries too; of two timeouts the shorter one counts, while
//     x-envoy-expected-rq-timeout-ms tells the backend the route's.
//
// Settings that one adds to the outer listener and that the inner one has to
// share: internal_address_config, and preserve_case for header names.
//
// # Paths
//
// The policy is chosen by the path, so Envoy and the backend must read it alike.
// The outer listener therefore normalises it (RFC 3986 section 6), merges
// slashes, and refuses escaped ones (%2F, %5C) with 400 unless
// [Config.EscapedSlashes] says otherwise. A header with an underscore, which
// some servers read as a dash, is dropped unless [Config.Underscores] says
// otherwise.
package render
