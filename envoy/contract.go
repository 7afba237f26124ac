package envoy

// CheckNamespace is the namespace of the metadata that the check leaves (the
// dynamic metadata of ext_authz).
const CheckNamespace = "envoy.filters.http.ext_authz"

// The request attributes that the hook is told (Envoy's attributes).
const (
	MethodAttribute    = "request.method"
	RequestIDAttribute = "request.id"
	RouteAttribute     = "xds.route_name"
)

// HeaderAttribute returns the attribute of a request header, whose name is in
// lower case.
func HeaderAttribute(name string) string { return "request.headers['" + name + "']" }
