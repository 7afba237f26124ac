package envoy

// CheckNamespace is the namespace of the metadata that the check leaves (the
// dynamic metadata of ext_authz).
const CheckNamespace = "envoy.filters.http.ext_authz"

// CallerNamespace is the namespace of the metadata in which Envoy's own
// jwt_authn leaves the payload of the caller's token, under
// [CallerPayloadKey]. The hook reads it in push mode, where no check is asked,
// and reads iss and sub of it, only to tell callers apart.
const (
	CallerNamespace  = "envoy.filters.http.jwt_authn"
	CallerPayloadKey = "payload"
)

// The request attributes that the hook is told (Envoy's attributes).
const (
	MethodAttribute    = "request.method"
	RequestIDAttribute = "request.id"
	RouteAttribute     = "xds.route_name"
	ProtocolAttribute  = "request.protocol"
)

// HeaderAttribute returns the attribute of a request header, whose name is in
// lower case.
func HeaderAttribute(name string) string { return "request.headers['" + name + "']" }

// The gRPC metadata of the hook's streams (grpc_service.initial_metadata), by
// which the filters of one Envoy say what they are.
const (
	// RoleMetadata is what the filter is there for: see [RoleObserve].
	RoleMetadata = "x-rebearer-role"
	// ConfigMetadata is the hash of the configuration that was rendered.
	ConfigMetadata = "x-rebearer-config"
	// CredentialMetadata and PolicyMetadata are there in push mode only, where
	// no check leaves any metadata: the names of the credential whose token
	// the cluster is sent, and of the policy that its routes obey.
	CredentialMetadata = "x-rebearer-credential" //nolint:gosec // a name
	PolicyMetadata     = "x-rebearer-policy"
)

// Values of [RoleMetadata]. A stream that has none observes.
const (
	// RoleObserve holds answers until the hook has decided.
	RoleObserve = "observe"
	// RoleWatch reports answers that cannot be held (observability_mode).
	RoleWatch = "watch"
	// RoleInject asks for the token of a retried try, in an upstream chain.
	RoleInject = "inject"
)

// RetryHeader is the response header by which the hook asks Envoy to retry: any
// value does. Envoy removes it where a backend sends it, and where it does not
// retry (the virtual host's response_headers_to_remove).
const RetryHeader = "x-rebearer-retry"

// Values of [RetryHeader].
const (
	// RetryDead says that the token was dead: where Envoy cannot retry the
	// caller is answered 503 with "Retry-After: 0", because the next request
	// will be sent a fresh token. [DeadHeader] stands beside it.
	RetryDead = "dead"
	// RetryUnclear says that the rejection may have been about something
	// else: the caller is given the backend's own answer.
	RetryUnclear = "unclear"
)

// DeadHeader is the response header, with the value [RetryDead], that has Envoy
// put a 503 in the place of an answer that it could not retry. Envoy removes it
// where a backend sends it.
const DeadHeader = "x-rebearer-dead"

// SentHeader is the response header in which Envoy notes what decides whether an
// answer may be held: how long the request took to go to the backend, which is a
// number only where it went whole, the protocol that the caller speaks, the two
// statuses, and the number of the try.
const SentHeader = "x-rebearer-sent"

// AttemptHeader is the request header in which Envoy tells the check the number
// of the try, from "1". Envoy sets it whatever the caller sent.
const AttemptHeader = "x-envoy-attempt-count"

// Metadata that the hook finds beside the check's own (which is under
// "envoy.filters.http.ext_authz"). [AttemptHeader] itself is gone by then: it
// must not reach the backend.
const (
	// MetadataNamespace holds what the rendered configuration notes down.
	MetadataNamespace = "rebearer"
	// AttemptKey is the number of the try, a number from 1. In an upstream
	// chain [AttemptHeader] is there still, and this is not.
	AttemptKey = "attempt"
	// RefusedKey is the fingerprint of the token that the last try was sent,
	// and VerdictKey what its rejection said about it, a value of
	// [RetryHeader], where the hook asked for another: observe leaves them for
	// inject.
	RefusedKey = "refused"
	VerdictKey = "verdict"
)
