package hook

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/envoy/rejection"
	"github.com/rebearer/rebearer/tokens"
)

// answer is a backend's answer with what is known of its request.
type answer struct {
	rejection.Response
	length     int    // of the body, as declared; -1 if it is not
	encoding   string // of the body
	use        tokens.Use
	ageKnown   bool // of the token: use.Age
	attempt    int
	attributes map[string]string
	method     string
	route      string
	requestID  string
	sent       string // what [envoy.SentHeader] says
}

// readAnswer reads the first message about an answer: Envoy sends attributes
// with no other.
func readAnswer(request *extprocv3.ProcessingRequest, from origin) *answer {
	a := &answer{length: -1, attempt: 1, attributes: map[string]string{}, ageKnown: !from.pushes()}
	a.readHeaders(request.GetResponseHeaders().GetHeaders().GetHeaders())
	for _, attributes := range request.GetAttributes() {
		for name, value := range attributes.GetFields() {
			a.attributes[name] = value.GetStringValue()
		}
	}
	use, noted := readUse(request, from)
	a.use = use
	if n := noted[envoy.AttemptKey].GetNumberValue(); n > 1 {
		a.attempt = int(n)
	} else if n, err := strconv.Atoi(a.attributes[envoy.HeaderAttribute(envoy.AttemptHeader)]); err == nil && n > 1 {
		a.attempt = n
	}
	a.method = a.attributes[envoy.MethodAttribute]
	a.route = a.attributes[envoy.RouteAttribute]
	a.requestID = a.attributes[envoy.RequestIDAttribute]
	return a
}

// readUse returns what the request was given, and what is noted down about it.
func readUse(request *extprocv3.ProcessingRequest, from origin) (tokens.Use, map[string]*structpb.Value) {
	metadata := request.GetMetadataContext().GetFilterMetadata()
	noted := metadata[envoy.MetadataNamespace].GetFields()
	if !from.pushes() {
		return tokens.UseFromFields(metadata[envoy.CheckNamespace].AsMap()), noted
	}
	payload := metadata[envoy.CallerNamespace].GetFields()[envoy.CallerPayloadKey].GetStructValue().GetFields()
	return tokens.Use{
		Policy: from.policy, Credential: from.credential,
		Caller: caller(payload["iss"].GetStringValue(), payload["sub"].GetStringValue()),
	}, noted
}

// caller tells callers apart.
func caller(issuer, subject string) tokens.Fingerprint {
	if issuer == "" && subject == "" {
		return ""
	}
	return tokens.FingerprintOf(issuer + "\x00" + subject)
}

// valueOf returns the value of a header, which Envoy sends in either field.
func valueOf(h *corev3.HeaderValue) string {
	if raw := h.GetRawValue(); len(raw) > 0 {
		return string(raw)
	}
	return h.GetValue()
}

func (a *answer) readHeaders(headers []*corev3.HeaderValue) {
	for _, h := range headers {
		value := valueOf(h)
		switch h.GetKey() {
		case ":status":
			a.Status, _ = strconv.Atoi(value)
		case "grpc-status":
			a.GRPCStatus = value
		case "www-authenticate":
			a.WWWAuthenticate = append(a.WWWAuthenticate, value)
		case "content-type":
			a.ContentType = value
		case envoy.SentHeader:
			a.sent = value
		case "content-encoding":
			a.encoding = value
		case "content-length":
			if n, err := strconv.Atoi(value); err == nil {
				a.length = n
			}
		}
	}
}

// isRejection reports whether the answer may be about our token.
func (a *answer) isRejection(statuses []int) bool {
	return slices.Contains(statuses, a.Status) || a.GRPCStatus == rejection.GRPCUnauthenticated
}

// isResent reports whether Envoy sends the request again unasked: on its first try,
// if the connection is shared and the request went out whole.
func (a *answer) isResent(target Target) bool {
	went, _, _ := strings.Cut(a.sent, " ")
	_, err := strconv.Atoi(went)
	said := slices.Contains(target.Unasked, a.Status) ||
		a.GRPCStatus == rejection.GRPCUnauthenticated && slices.Contains(target.Unasked, http.StatusUnauthorized)
	return err == nil && a.attempt == 1 && said && isShared(a.attributes[envoy.ProtocolAttribute])
}

// isRepeated reports whether the request may have been sent again so.
func (a *answer) isRepeated(target Target) bool {
	return a.attempt == 2 && len(target.Unasked) > 0 && isShared(a.attributes[envoy.ProtocolAttribute])
}

// isShared reports whether a protocol has several requests on one connection: Envoy
// then cannot hold their rejections.
func isShared(protocol string) bool { return protocol != "" && !strings.HasPrefix(protocol, "HTTP/1") }

// canBeRead reports whether the body is one that rules can look at.
func (a *answer) canBeRead() bool {
	return a.length > 0 && a.length <= rejection.MaxBody && (a.encoding == "" || a.encoding == "identity")
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

// token returns the token that the backend was sent.
func (a *answer) token(target Target) string {
	value := a.attributes[envoy.HeaderAttribute(target.Header)]
	if target.Scheme != "" {
		_, value, _ = strings.Cut(value, " ")
	}
	return value
}
