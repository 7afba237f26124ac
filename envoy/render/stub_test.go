package render

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/rebearer/rebearer/envoy"
)

// stub is everything around Envoy: rebearer's gRPC services and a backend. What
// they do and see is kept for each scenario; a request's scenario is the first
// segment of its path at the backend.
type stub struct {
	authv3.UnimplementedAuthorizationServer
	extprocv3.UnimplementedExternalProcessorServer
	secrets secrets

	mu        sync.Mutex
	scenarios map[string]*scenario
	requests  map[string]string // scenarios by the ids of the requests that the backend got
	stray     scenario          // of what belongs to none, such as answers without the check's metadata
}

// scenario scripts one test. The zero value checks every request, gives try N
// the token "tN" (the check does in the nested shape, inject in the others), and has a backend that refuses "t1" with a bare 403 and a hook
// that asks for a retry of every rejection.
type scenario struct {
	check   func()                   // called first, may block
	token   func(attempt int) string // what the check and inject hand out
	deny    *authv3.DeniedHttpResponse
	backend http.HandlerFunc
	hook    func(observation) *extprocv3.ProcessingResponse
	inject  func(observation) *extprocv3.ProcessingResponse
	watch   func()

	mu       sync.Mutex
	checks   []*authv3.AttributeContext
	observed []observation
	watched  []observation
	injected []observation
	tries    []try
}

// observation is what the hook was told about one answer, or one retry.
type observation struct {
	stream     metadata.MD // what the filter says of itself
	status     string
	header     map[string]string
	attributes map[string]string
	scenario   string // from the check's metadata, or else of the request's id
	refused    string // what the hook left for inject
	caller     string // issuer and subject, in push mode
	attempt    int
}

// try is what the backend was sent.
type try struct {
	method, path, host, proto string
	token                     string
	header                    http.Header
	bytes                     int
	sum                       string
}

func (o observation) rejected() bool {
	return o.status == "401" || o.status == "403" || o.header["grpc-status"] == "16"
}

// script registers a scenario under a new name.
func (s *stub) script(t *testing.T, sc *scenario) (string, *scenario) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	name := fmt.Sprintf("scenario-%d-", len(s.scenarios))
	if s.scenarios == nil {
		s.scenarios = map[string]*scenario{}
	}
	s.scenarios[name] = sc
	return name, sc
}

func (s *stub) find(name string) *scenario {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sc := s.scenarios[name]; sc != nil {
		return sc
	}
	return &s.stray
}

func (sc *scenario) hand(attempt int) string {
	if sc.token != nil {
		return sc.token(attempt)
	}
	return fmt.Sprintf("t%d", attempt)
}

func (sc *scenario) tokens() []string {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	var list []string
	for _, t := range sc.tries {
		list = append(list, t.token)
	}
	return list
}

func (s *stub) Check(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	attributes := r.GetAttributes()
	path := strings.TrimPrefix(attributes.GetRequest().GetHttp().GetPath(), "/grpc")
	name, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	name, _, _ = strings.Cut(name, "?")
	sc := s.find(name)
	sc.mu.Lock()
	sc.checks = append(sc.checks, attributes)
	sc.mu.Unlock()
	if sc.check != nil {
		sc.check()
	}
	if sc.deny != nil {
		return &authv3.CheckResponse{
			Status:       &status.Status{Code: int32(codes.Unauthenticated)},
			HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: sc.deny},
		}, nil
	}
	attempt, err := strconv.Atoi(checkHeader(attributes, envoy.AttemptHeader))
	if err != nil {
		attempt = 1
	}
	metadata, err := structpb.NewStruct(map[string]any{"scenario": name})
	return &authv3.CheckResponse{
		Status:          &status.Status{},
		DynamicMetadata: metadata,
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			// Here, unlike in ext_proc, Envoy reads value and not raw_value.
			Headers: []*corev3.HeaderValueOption{
				overwrite("authorization", "Bearer "+sc.hand(attempt)),
			},
		}},
	}, err
}

// checkHeader returns what the check was sent of a header, all values joined.
func checkHeader(attributes *authv3.AttributeContext, name string) string {
	var values []string
	for _, h := range attributes.GetRequest().GetHttp().GetHeaderMap().GetHeaders() {
		if h.GetKey() == name {
			values = append(values, string(h.GetRawValue()))
		}
	}
	return strings.Join(values, " | ")
}

// raw is overwrite for the hook's answers.
func raw(key, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: key, RawValue: []byte(value)},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

func (s *stub) Process(stream extprocv3.ExternalProcessor_ProcessServer) error {
	r, err := stream.Recv()
	if err != nil {
		return err
	}
	o := s.observe(r)
	o.stream, _ = metadata.FromIncomingContext(stream.Context())
	sc := s.find(o.scenario)
	role := strings.Join(o.stream.Get(envoy.RoleMetadata), " and ")
	sc.mu.Lock()
	switch role {
	case envoy.RoleObserve:
		sc.observed = append(sc.observed, o)
	case envoy.RoleWatch:
		sc.watched = append(sc.watched, o)
	case envoy.RoleInject:
		sc.injected = append(sc.injected, o)
	}
	sc.mu.Unlock()
	switch {
	case role == envoy.RoleWatch && sc.watch != nil:
		sc.watch()
		return nil
	case role == envoy.RoleWatch:
		return nil
	case role == envoy.RoleInject && sc.inject != nil:
		return stream.Send(sc.inject(o))
	case role == envoy.RoleInject:
		return stream.Send(injectToken("Bearer " + sc.hand(o.attempt)))
	case sc.hook != nil:
		return stream.Send(sc.hook(o))
	}
	return stream.Send(retryRejected(envoy.RetryDead)(o))
}

func (s *stub) observe(r *extprocv3.ProcessingRequest) observation {
	o := observation{header: map[string]string{}, attributes: map[string]string{}}
	headers := r.GetResponseHeaders().GetHeaders().GetHeaders()
	for _, h := range append(headers, r.GetRequestHeaders().GetHeaders().GetHeaders()...) {
		o.header[h.GetKey()] = string(h.GetRawValue())
	}
	o.status = o.header[":status"]
	for _, group := range r.GetAttributes() {
		for name, value := range group.GetFields() {
			o.attributes[name] = value.GetStringValue()
		}
	}
	found := r.GetMetadataContext().GetFilterMetadata()
	o.scenario = found[envoy.CheckNamespace].GetFields()["scenario"].GetStringValue()
	if o.scenario == "" {
		s.mu.Lock()
		o.scenario = s.requests[o.attributes[envoy.RequestIDAttribute]]
		s.mu.Unlock()
	}
	if payload := found[envoy.CallerNamespace].GetFields()[envoy.CallerPayloadKey].GetStructValue().GetFields(); payload != nil {
		o.caller = payload["iss"].GetStringValue() + " " + payload["sub"].GetStringValue()
	}
	noted := found[envoy.MetadataNamespace].GetFields()
	o.refused = noted[envoy.RefusedKey].GetStringValue()
	o.attempt = int(noted[envoy.AttemptKey].GetNumberValue())
	for _, text := range []string{o.attributes[envoy.HeaderAttribute(envoy.AttemptHeader)], o.header[envoy.AttemptHeader]} {
		if n, err := strconv.Atoi(text); err == nil {
			o.attempt = n
		}
	}
	return o
}

func injectToken(value string) *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{
		Response: &extprocv3.ProcessingResponse_RequestHeaders{RequestHeaders: &extprocv3.HeadersResponse{
			Response: &extprocv3.CommonResponse{HeaderMutation: &extprocv3.HeaderMutation{
				SetHeaders: []*corev3.HeaderValueOption{raw("authorization", value)},
			}},
		}},
	}
}

func retryRejected(value string) func(observation) *extprocv3.ProcessingResponse {
	return func(o observation) *extprocv3.ProcessingResponse {
		if !o.rejected() {
			return letPass()
		}
		return askRetry(value)
	}
}

// askRetry is how the hook asks for a retry.
func askRetry(value string) *extprocv3.ProcessingResponse {
	answer := setHeader(envoy.RetryHeader, value)
	if value == envoy.RetryDead {
		change := answer.GetResponseHeaders().GetResponse().GetHeaderMutation()
		change.SetHeaders = append(change.SetHeaders, raw(envoy.DeadHeader, value))
	}
	return answer
}

// note adds what inject is told.
func note(r *extprocv3.ProcessingResponse, refused string) *extprocv3.ProcessingResponse {
	noted := structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{
		envoy.RefusedKey: structpb.NewStringValue(refused),
	}})
	r.DynamicMetadata = &structpb.Struct{Fields: map[string]*structpb.Value{envoy.MetadataNamespace: noted}}
	return r
}

func letPass() *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{
		Response: &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{}},
	}
}

func setHeader(key, value string) *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{
		Response: &extprocv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: &extprocv3.HeadersResponse{
			Response: &extprocv3.CommonResponse{HeaderMutation: &extprocv3.HeaderMutation{
				SetHeaders: []*corev3.HeaderValueOption{raw(key, value)},
			}},
		}},
	}
}

func unavailable() *extprocv3.ProcessingResponse {
	return &extprocv3.ProcessingResponse{
		Response: &extprocv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &extprocv3.ImmediateResponse{
			Status:  &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
			Headers: &extprocv3.HeaderMutation{SetHeaders: []*corev3.HeaderValueOption{raw("retry-after", "3"), raw("content-type", "text/x")}},
			Body:    []byte("no token"),
		}},
	}
}

// ServeHTTP is the backend.
func (s *stub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	s.mu.Lock()
	if s.requests == nil {
		s.requests = map[string]string{}
	}
	s.requests[r.Header.Get("X-Request-Id")] = name
	s.mu.Unlock()
	sc := s.find(name)
	seen := try{
		method: r.Method, path: r.RequestURI, host: r.Host, proto: r.Proto,
		token: strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), header: r.Header.Clone(),
	}
	if sc.backend != nil {
		sc.note(seen)
		sc.backend(w, r)
		return
	}
	body := sha256.New()
	n, err := io.Copy(body, r.Body)
	if err != nil {
		return
	}
	seen.bytes, seen.sum = int(n), fmt.Sprintf("%x", body.Sum(nil))
	sc.note(seen)
	if seen.token == "t1" {
		refuse(w, r)
		return
	}
	_, _ = fmt.Fprintf(w, "%s %d bytes", seen.token, n)
}

func (sc *scenario) note(t try) {
	sc.mu.Lock()
	defer sc.mu.Unlock()
	sc.tries = append(sc.tries, t)
}

func refuse(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("WWW-Authenticate", `Bearer realm="backend"`)
	w.WriteHeader(http.StatusForbidden)
	_, _ = io.WriteString(w, "backend says no")
}

func isFirst(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer t1" }

// serveGRPC serves rebearer's side on l until the test ends.
func (s *stub) serveGRPC(t *testing.T, l net.Listener, options ...grpc.ServerOption) {
	t.Helper()
	server := grpc.NewServer(append(options, grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{
		MinTime: 10 * time.Second, PermitWithoutStream: true,
	}))...)
	s.register(server)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
}

func (s *stub) register(server *grpc.Server) {
	authv3.RegisterAuthorizationServer(server, s)
	extprocv3.RegisterExternalProcessorServer(server, s)
	secretv3.RegisterSecretDiscoveryServiceServer(server, &s.secrets)
	healthgrpc.RegisterHealthServer(server, health.NewServer())
}

// serveBackend serves HTTP/1.1 and HTTP/2 without TLS on a free port.
func (s *stub) serveBackend(t *testing.T) string {
	t.Helper()
	l := listen(t, "tcp", "127.0.0.1:0")
	server := &http.Server{Handler: s, Protocols: bothProtocols()}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return l.Addr().String()
}

func bothProtocols() *http.Protocols {
	p := &http.Protocols{}
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	return p
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// answer is what a caller got.
type answer struct {
	status int
	header http.Header
	body   string
}

func send(t *testing.T, c *http.Client, method, url string, body []byte, header http.Header) answer {
	t.Helper()
	a, err := exchange(t, c, method, url, body, header)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// exchange returns an error where the caller got no answer, or none that ended.
func exchange(t *testing.T, c *http.Client, method, url string, body []byte, header http.Header) (answer, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(r.Header, header)
	if host := header.Get("Host"); host != "" {
		r.Host = host
	}
	resp, err := c.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return answer{status: resp.StatusCode, header: resp.Header, body: string(text)}, err
}

func http1() *http.Client { return &http.Client{Transport: &http.Transport{}} }

func http2Client() *http.Client {
	p := &http.Protocols{}
	p.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: p}}
}
