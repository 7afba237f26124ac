package hook

import (
	"math"
	"strconv"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/tokens"
)

// onRequestHeaders, onHeaders and onBody answer messages of their kind with a
// change, or with none.

func onRequestHeaders(change *extprocv3.CommonResponse) *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{
		RequestHeaders: &extprocv3.HeadersResponse{Response: change},
	}}
}

func onHeaders(change *extprocv3.CommonResponse) *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseHeaders{
		ResponseHeaders: &extprocv3.HeadersResponse{Response: change},
	}}
}

func onBody(change *extprocv3.CommonResponse) *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ResponseBody{
		ResponseBody: &extprocv3.BodyResponse{Response: change},
	}}
}

// askForBody has Envoy hold the headers until it has the whole body, which it
// sends next. What is then said of the headers still counts.
func askForBody() *extprocv3.ProcessingResponse {
	response := onHeaders(nil)
	response.ModeOverride = &extprocfilterv3.ProcessingMode{ResponseBodyMode: extprocfilterv3.ProcessingMode_BUFFERED}
	return response
}

// retry has Envoy send the request again. The verdict tells Envoy what to answer
// if it cannot; with the fingerprint it tells inject, where there is one, what not
// to send.
func retry(wrap func(*extprocv3.CommonResponse) *extprocv3.ProcessingResponse, verdict tokens.Verdict, refused tokens.Fingerprint) *extprocv3.ProcessingResponse {
	value := envoy.RetryUnclear
	change := setting(set(envoy.RetryHeader, value))
	if verdict == tokens.Dead {
		value = envoy.RetryDead
		change = setting(set(envoy.RetryHeader, value), set(envoy.DeadHeader, value))
	}
	response := wrap(change)
	response.DynamicMetadata = &structpb.Struct{Fields: map[string]*structpb.Value{
		envoy.MetadataNamespace: structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
			envoy.RefusedKey: structpb.NewStringValue(string(refused)),
			envoy.VerdictKey: structpb.NewStringValue(value),
		}}),
	}}
	return response
}

func setting(headers ...*corev3.HeaderValueOption) *extprocv3.CommonResponse {
	return &extprocv3.CommonResponse{HeaderMutation: &extprocv3.HeaderMutation{SetHeaders: headers}}
}

// unavailableBody is a problem document (RFC 9457).
const unavailableBody = `{"type":"about:blank","title":"Service Unavailable","status":503,` +
	`"detail":"The gateway has no valid credential for the backend now.","reason":"backend_token_unavailable"}` + "\n"

// unavailable answers 503 in place of the backend.
func unavailable(retryAfter time.Duration) *extprocv3.ProcessingResponse {
	seconds := strconv.Itoa(int(math.Ceil(retryAfter.Seconds())))
	return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_ImmediateResponse{
		ImmediateResponse: &extprocv3.ImmediateResponse{
			Status: &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
			Headers: &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{
				set("retry-after", seconds),
				set("content-type", "application/problem+json"),
				set("cache-control", "no-store"),
				set("x-ext-auth-reason", "backend_token_unavailable"),
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
