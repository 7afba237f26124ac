package envoy

// Where filters behind the check read the caller's own authorization header, a
// backend token for authorization takes a detour: the check puts it into
// [DetourHeader], and a filter of the upstream chain moves it to its place.
const (
	// DetourExtension is the key of context_extensions by which a route asks
	// for that. Its value is [DetourHeader].
	DetourExtension = "detour"
	// DetourHeader is the header that the token travels in. It is taken out of
	// what callers send.
	DetourHeader = "x-rebearer-authorization"
)
