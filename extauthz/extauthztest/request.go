package extauthztest

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
)

// RequestOption changes a check request.
type RequestOption func(*authv3.AttributeContext)

// NewRequest returns a check request as Envoy makes it for a GET that names no
// policy and carries no token.
func NewRequest(options ...RequestOption) *authv3.CheckRequest {
	attributes := &authv3.AttributeContext{
		Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
			Id: "1", Method: "GET", Scheme: "http", Host: "orders.example", Path: "/orders/1", Protocol: "HTTP/1.1",
			Headers: map[string]string{
				":method": "GET", ":path": "/orders/1", ":authority": "orders.example",
				"x-request-id": "5c0b7e5c-6d5b-4f3c-9d59-6d3c31c5dd54", "x-envoy-attempt-count": "1",
			},
		}},
	}
	for _, option := range options {
		option(attributes)
	}
	return &authv3.CheckRequest{Attributes: attributes}
}

// WithHeader sets a header, whose name is in lower case.
func WithHeader(name, value string) RequestOption {
	return func(a *authv3.AttributeContext) { a.Request.Http.Headers[name] = value }
}

// WithBearer sets the caller's token.
func WithBearer(token string) RequestOption { return WithHeader("authorization", "Bearer "+token) }

// WithPolicy names the policy, as a route does.
func WithPolicy(name string) RequestOption {
	return func(a *authv3.AttributeContext) { a.ContextExtensions = map[string]string{"policy": name} }
}

// WithRawHeaders adds name and value pairs to header_map, as Envoy does with
// encode_raw_headers, and empties the other form.
func WithRawHeaders(pairs ...string) RequestOption {
	return func(a *authv3.AttributeContext) {
		a.Request.Http.Headers = nil
		headers := &corev3.HeaderMap{}
		for i := 0; i+1 < len(pairs); i += 2 {
			headers.Headers = append(headers.Headers, &corev3.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])})
		}
		a.Request.Http.HeaderMap = headers
	}
}
