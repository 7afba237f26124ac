// Package render prints Envoy's configuration: [Bootstrap] a whole one that
// `envoy -c` runs as it is, [Static] the pieces to paste into one's own, and
// [NewParts] those for other control planes. All are built from Envoy's typed
// protos. A retry of Envoy's router does not run the filters before it again, so
// the check could not hand out another token; there are three ways round that.
//
// # Nested
//
//	caller -> outer listener -> internal listener -> backend
//	          finish            ext_authz
//	          router (retries)  attempt
//	                            observe
//	                            router (routes)
//
// The outer level only retries, and every one of its tries passes the whole inner
// chain, check included. The inner listener is not a socket; it lives in the same
// process. It runs on Envoy 1.36 and later.
//
//   - ext_authz asks the check, by one gRPC call for each try. When that call
//     fails the caller gets 503, and the backend nothing.
//   - attempt moves the number of the try from a header, which the backend must
//     not see, into metadata, where observe finds it.
//   - observe is an ext_proc that tells the hook of rejections, and of accepted
//     second tries. For an accepted first try nothing is sent.
//   - finish sees the answer only where no retry followed. It turns "our token
//     was dead" into a 503 with "Retry-After: 0".
//
// # Lean
//
//	caller -> listener -> for each try: -> backend
//	          finish      inject
//	          ext_authz   observe or watch
//	          router      guard
//
// The router runs filters of its own for every try (upstream_http_filters).
// finish, ext_authz and observe are those of the nested shape. It costs less, and
// needs Envoy 1.37: older ones crash on every retry after an ext_proc there. A
// field that only newer ones know makes them refuse the configuration.
//
//   - inject is an ext_proc that overwrites the token of every try but the first.
//   - guard notes on the answer whether the request went out whole, and removes
//     what a backend says in our name. Without it Envoy would crash where observe
//     holds the refusal of a request that has not ended.
//   - watch is told of such refusals in place of observe. It holds nothing, so
//     they are not retried; the token is evicted.
//   - So are those to callers over HTTP/2 and HTTP/3. If an answer were held while
//     their shared connection is over its write buffer, Envoy would crash (1.37.0 to
//     1.40.0). The router sends the request again unasked ([Config.RetryUnasked]), and
//     inject waits for what the hook makes of the rejection: where it is none of the
//     token, the backend refuses the same token again, and that is the answer.
//
// The filters that call the hook are created only for a try that needs them
// (the composite filter): an accepted first try costs two matchers. A cluster
// with http_filters of its own does not run the router's; it needs
// [Parts.Upstream] among them.
//
// # Push
//
// A route with [Route.Push] asks rebearer nothing while its requests are
// accepted. jwt_authn and RBAC check the caller, and the cluster has the lean
// chain with a credential_injector before it, whose token rebearer sends ahead of
// time (SDS). While Envoy has none the caller gets 503. Such routes are possible
// beside both shapes, and need Envoy 1.37. Envoy looks up the keys of callers
// every minute, and answers 403 where rebearer says 401 to a token for another
// audience, and to one that is no access token. It reads JSON less strictly, and
// does not mind a token that was issued in the future (iat).
//
// # Limits of a retry
//
// The router keeps what it has sent of a request's body. As long as that fits into
// [Config.BodyBuffer] the request can be sent again, in the nested shape also one
// that is refused before it has ended: an upload, a WebSocket, a gRPC stream. When
// it does not fit any more, the caller is answered as [envoy.RetryDead] and
// [envoy.RetryUnclear] say.
//
// The hook bounds the token requests that rejections cause, and asks for a retry
// only with a fresh token in hand; [Config.MaxRetries] bounds the retries under
// way. The user's own retries ([Config.Retries]) go on working: in the nested
// shape between the inner router and the backend, with the token of the check, in
// the others together with the hook's, and every try is given a token.
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
//   - A caller's own x-rebearer-retry and x-envoy-attempt-count are removed. In
//     the lean shape and in push mode the latter tells the number of the try.
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
