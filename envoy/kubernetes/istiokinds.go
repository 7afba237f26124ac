package kubernetes

// The kinds of Istio that are printed, as far as they are used
// (istio.io/docs/reference/config).

const (
	istioSecurity   = "security.istio.io/v1"
	istioNetworking = "networking.istio.io/v1"
	// An EnvoyFilter has no other version.
	istioFilters = "networking.istio.io/v1alpha3"
)

// authorizationPolicy is an AuthorizationPolicy with the action CUSTOM.
type authorizationPolicy struct {
	Selector labelSelector       `json:"selector"`
	Action   string              `json:"action"`
	Provider namedProvider       `json:"provider"`
	Rules    []authorizationRule `json:"rules"`
}

type labelSelector struct {
	MatchLabels map[string]string `json:"matchLabels"`
}

type namedProvider struct {
	Name string `json:"name"`
}

// authorizationRule without To holds for every request.
type authorizationRule struct {
	To []ruleTo `json:"to,omitempty"`
}

type ruleTo struct {
	Operation operation `json:"operation"`
}

type operation struct {
	Hosts []string `json:"hosts"`
}

// destinationRule is a DestinationRule.
type destinationRule struct {
	Host          string        `json:"host"`
	TrafficPolicy trafficPolicy `json:"trafficPolicy"`
}

type trafficPolicy struct {
	TLS clientTLS `json:"tls"`
}

type clientTLS struct {
	Mode              string   `json:"mode"`
	CACertificates    string   `json:"caCertificates"`
	ClientCertificate string   `json:"clientCertificate,omitempty"`
	PrivateKey        string   `json:"privateKey,omitempty"`
	SNI               string   `json:"sni"`
	SubjectAltNames   []string `json:"subjectAltNames"`
}

// envoyFilter is an EnvoyFilter.
type envoyFilter struct {
	WorkloadSelector workloadSelector `json:"workloadSelector"`
	ConfigPatches    []configPatch    `json:"configPatches"`
}

type workloadSelector struct {
	Labels map[string]string `json:"labels"`
}

type configPatch struct {
	ApplyTo string     `json:"applyTo"`
	Match   patchMatch `json:"match"`
	Patch   patch      `json:"patch"`
}

type patchMatch struct {
	Context            string         `json:"context"`
	Proxy              proxyMatch     `json:"proxy"`
	Listener           *listenerMatch `json:"listener,omitempty"`
	RouteConfiguration *routesMatch   `json:"routeConfiguration,omitempty"`
	Cluster            *clusterMatch  `json:"cluster,omitempty"`
}

type proxyMatch struct {
	ProxyVersion string `json:"proxyVersion"`
}

type listenerMatch struct {
	FilterChain filterChainMatch `json:"filterChain"`
}

type filterChainMatch struct {
	Filter filterMatch `json:"filter"`
}

type filterMatch struct {
	Name      string     `json:"name"`
	SubFilter *nameMatch `json:"subFilter,omitempty"`
}

type nameMatch struct {
	Name string `json:"name"`
}

type routesMatch struct {
	VHost vhostMatch `json:"vhost"`
}

type vhostMatch struct {
	Route nameMatch `json:"route"`
}

type clusterMatch struct {
	Service    string `json:"service"`
	PortNumber uint32 `json:"portNumber"`
}

type patch struct {
	Operation string  `json:"operation"`
	Value     message `json:"value"`
}
