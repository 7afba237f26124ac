package hook

import (
	"math"
	"strconv"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc/codes"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/tokens"
)

// pass lets the backend's answer go on as it is.
func pass() *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseHeaders{}}
}

// retry has Envoy send the request again. The verdict tells Envoy what to
// answer if it cannot.
func retry(verdict tokens.Verdict) *extprocv3.ProcessingResponse {
	value := envoy.RetryUnclear
	if verdict == tokens.Dead {
		value = envoy.RetryDead
	}
	return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseHeaders{
		ResponseHeaders: &extprocv3.HeadersResponse{Response: &extprocv3.CommonResponse{
			HeaderMutation: &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{
				set(envoy.RetryHeader, value),
			}},
		}},
	}}
}

// unavailableBody is a problem document (RFC 9457).
const unavailableBody = `{"type":"about:blank","title":"Service Unavailable","status":503,` +
	`"detail":"The gateway has no valid credential for the backend now."}` + "\n"

// unavailable answers 503 in place of the backend.
func unavailable(retryAfter time.Duration) *extprocv3.ProcessingResponse {
	seconds := strconv.Itoa(int(math.Ceil(retryAfter.Seconds())))
	return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ImmediateResponse{
		ImmediateResponse: &extprocv3.ImmediateResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
			Headers: &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{
				set("retry-after", seconds),
				set("content-type", "application/problem+json"),
				set("x-ext-auth-reason", "no backend token"),
			}},
			Body:       []byte(unavailableBody),
			GrpcStatus: &extprocv3.GrpcStatus{Status: uint32(codes.Unavailable)},
			Details:    "rebearer_no_backend_token",
		},
	}}
}

func set(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, RawValue: []byte(value)},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}
