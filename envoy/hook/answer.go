package hook

import (
	"net/http"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/envoy/rejection"
	"github.com/rebearer/rebearer/tokens"
)

// answer is a backend's answer with what is known of its request.
type answer struct {
	rejection.Response
	use        tokens.Use
	attempt    int
	attributes map[string]string
	method     string
	route      string
	requestID  string
}

// readAnswer reads a response_headers message.
func readAnswer(request *extprocv3.ProcessingRequest) answer {
	a := answer{attempt: 1, attributes: map[string]string{}}
	a.readHeaders(request.GetResponseHeaders().GetHeaders().GetHeaders())
	metadata := request.GetMetadataContext().GetFilterMetadata()
	a.use = tokens.UseFromFields(metadata[envoy.CheckNamespace].AsMap())
	if n := metadata[envoy.MetadataNamespace].GetFields()[envoy.AttemptKey].GetNumberValue(); n > 1 {
		a.attempt = int(n)
	}
	for _, attributes := range request.GetAttributes() {
		for name, value := range attributes.GetFields() {
			a.attributes[name] = value.GetStringValue()
		}
	}
	a.method = a.attributes[envoy.MethodAttribute]
	a.route = a.attributes[envoy.RouteAttribute]
	a.requestID = a.attributes[envoy.RequestIDAttribute]
	return a
}

func (a *answer) readHeaders(headers []*corev3.HeaderValue) {
	for _, h := range headers {
		value := string(h.GetRawValue())
		if value == "" {
			value = h.GetValue()
		}
		switch h.GetKey() {
		case ":status":
			a.Status, _ = strconv.Atoi(value)
		case "grpc-status":
			a.GRPCStatus = value
		case "www-authenticate":
			a.WWWAuthenticate = append(a.WWWAuthenticate, value)
		}
	}
}

// isRejection reports whether the answer may be about our token.
func (a *answer) isRejection(statuses []int) bool {
	for _, s := range statuses {
		if s == a.Status {
			return true
		}
	}
	return a.GRPCStatus == rejection.GRPCUnauthenticated
}

// saysNothing reports an answer that may well come from something in front of
// the backend, Envoy included, which never looked at the token.
func (a *answer) saysNothing() bool {
	switch a.Status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// sent returns the fingerprint of the token that the backend was sent.
func (a *answer) sent(header, scheme string) tokens.Fingerprint {
	value := a.attributes[envoy.HeaderAttribute(header)]
	if scheme != "" {
		_, value, _ = strings.Cut(value, " ")
	}
	return tokens.FingerprintOf(value)
}
