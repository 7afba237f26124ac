package kubernetes

// The kinds of Envoy Gateway and of the Gateway API that are printed, as far as
// they are used.

const (
	gatewayGroup = "gateway.networking.k8s.io"
	envoyGroup   = "gateway.envoyproxy.io"

	envoyGateway = envoyGroup + "/v1alpha1"
	// A ReferenceGrant has no later version everywhere.
	gatewayGrants = gatewayGroup + "/v1beta1"
)

// targetRef names the object that a policy is attached to.
type targetRef struct {
	Group string `json:"group"`
	Kind  string `json:"kind"`
	Name  string `json:"name"`
}

// securityPolicy is a SecurityPolicy.
type securityPolicy struct {
	TargetRefs []targetRef `json:"targetRefs"`
	ExtAuth    extAuth     `json:"extAuth"`
}

type extAuth struct {
	GRPC              grpcService        `json:"grpc"`
	FailOpen          bool               `json:"failOpen"`
	StatusOnError     int                `json:"statusOnError"`
	Timeout           string             `json:"timeout"`
	HeadersToExtAuth  []string           `json:"headersToExtAuth"`
	ContextExtensions []contextExtension `json:"contextExtensions"`
}

type grpcService struct {
	BackendRefs []backendRef `json:"backendRefs"`
}

type backendRef struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	Port      uint16 `json:"port"`
}

type contextExtension struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Value string `json:"value"`
}

// backendTrafficPolicy is a BackendTrafficPolicy.
type backendTrafficPolicy struct {
	TargetRefs     []targetRef    `json:"targetRefs"`
	CircuitBreaker circuitBreaker `json:"circuitBreaker"`
	Retry          retry          `json:"retry"`
	Timeout        routeTimeout   `json:"timeout"`
}

type circuitBreaker struct {
	MaxParallelRetries uint32 `json:"maxParallelRetries"`
}

type retry struct {
	NumRetries uint32   `json:"numRetries"`
	RetryOn    retryOn  `json:"retryOn"`
	PerRetry   perRetry `json:"perRetry"`
}

type retryOn struct {
	Triggers []string `json:"triggers"`
}

type perRetry struct {
	BackOff backOff `json:"backOff"`
	Timeout string  `json:"timeout,omitempty"`
}

type backOff struct {
	BaseInterval string `json:"baseInterval"`
	MaxInterval  string `json:"maxInterval"`
}

type routeTimeout struct {
	HTTP httpTimeout `json:"http"`
}

type httpTimeout struct {
	RequestTimeout string `json:"requestTimeout,omitempty"`
}

// referenceGrant is a ReferenceGrant.
type referenceGrant struct {
	From []grantFrom `json:"from"`
	To   []targetRef `json:"to"`
}

type grantFrom struct {
	Group     string `json:"group"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
}

// envoyPatchPolicy is an EnvoyPatchPolicy.
type envoyPatchPolicy struct {
	TargetRef   targetRef   `json:"targetRef"`
	Type        string      `json:"type"`
	JSONPatches []jsonPatch `json:"jsonPatches"`
}

type jsonPatch struct {
	Type      string             `json:"type"`
	Name      string             `json:"name"`
	Operation jsonPatchOperation `json:"operation"`
}

// jsonPatchOperation applies Path at every place that JSONPath finds (RFC 6902,
// RFC 9535).
type jsonPatchOperation struct {
	Op       string `json:"op"`
	JSONPath string `json:"jsonPath,omitempty"`
	Path     string `json:"path"`
	Value    any    `json:"value"`
}
