package service

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/admin"
	"github.com/rebearer/rebearer/tokens"
)

func TestServe(t *testing.T) {
	t.Parallel()
	s := start(t, settings{timeout: slow})
	connection := s.dial(t, nil)
	token := mustCheck(t, connection, s.provider.caller(t))
	if !s.provider.Valid(token) {
		t.Error("the backend gets a token that the provider does not know")
	}
	if got, err := check(t.Context(), connection, "not a token"); got != "" || err != nil {
		t.Errorf("a bad caller: got a token, or %v", err)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		s.becomes(t, path, http.StatusOK)
	}
	for _, path := range []string{"/", "/v1/credentials", "/debug/pprof/"} {
		if got, _ := s.get(t, path); got != http.StatusNotFound {
			t.Errorf("%s: got %d", path, got)
		}
	}
	list, err := admin.NewClient(s.Addresses().Admin.String(), "").List(t.Context())
	if err != nil || len(list.Credentials) != 1 || list.Credentials[0].Fingerprint != string(tokens.FingerprintOf(token)) {
		t.Errorf("got %+v, %v", list, err)
	}
	if _, text := s.get(t, "/metrics"); strings.Contains(text, token) {
		t.Error("the metrics show a token")
	}
	if strings.Contains(s.log.text(), token) {
		t.Error("the log shows a token")
	}
}

// The names are a contract with dashboards: alerts on what is missing never
// fire, so that all are there from the first request on.
func TestMetricNames(t *testing.T) {
	t.Parallel()
	s := start(t, settings{timeout: slow})
	mustCheck(t, s.dial(t, nil), s.provider.caller(t))
	names := s.metricNames(t)
	for _, want := range []string{
		"rebearer_checks_total", "rebearer_tokens_issued_total", "rebearer_token_requests_total", "rebearer_token_request_seconds",
		"rebearer_token_expiry_timestamp_seconds", "rebearer_token_uses_total", "rebearer_rejections_total",
		"rebearer_evictions_total", "rebearer_retries_total", "rebearer_recovery_seconds", "rebearer_cache_requests_total",
		"rebearer_cache_entries", "grpc_server_started_total", "grpc_server_handled_total", "grpc_server_handling_seconds",
	} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if _, text := s.get(t, "/metrics"); !strings.Contains(text, `grpc_method="Check"`) || !strings.Contains(text, `grpc_method="Process"`) {
		t.Error("the gRPC metrics of Check or Process are missing")
	}
}

func TestReflection(t *testing.T) {
	t.Parallel()
	s := start(t, settings{timeout: slow})
	stream, err := reflectionv1.NewServerReflectionClient(s.dial(t, nil)).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	request := &reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}
	if err := stream.Send(request); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, service := range answer.GetListServicesResponse().GetService() {
		names = append(names, service.GetName())
	}
	for _, want := range []string{
		authv3.Authorization_ServiceDesc.ServiceName, extprocv3.ExternalProcessor_ServiceDesc.ServiceName, "grpc.health.v1.Health",
	} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is missing in %v", want, names)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "grpc.sock")
	s := start(t, settings{timeout: slow, grpc: "{address: 'unix://" + socket + "', socket_mode: '0620'}"})
	mustCheck(t, s.dial(t, nil), s.provider.caller(t))
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o620 {
		t.Errorf("the socket: %v, %v", info, err)
	}
}

// A configuration that cannot be used is an error of New, and an address that is
// taken too.
func TestNewRefuses(t *testing.T) {
	t.Parallel()
	s := start(t, settings{timeout: slow})
	for name, text := range map[string]string{
		"no configuration": "",
		"an unknown key":   "version: 1\nprovider: {}\n",
		"a taken address":  settings{grpc: "{address: '" + s.Addresses().GRPC.String() + "'}"}.text(s.provider.Issuer()),
	} {
		s.write(t, "other.yaml", text)
		opts := s.opts
		opts.ConfigFile = filepath.Join(s.folder, "other.yaml")
		if _, err := New(opts); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	opts := s.opts
	opts.ConfigFile = filepath.Join(s.folder, "missing.yaml")
	if _, err := New(opts); err == nil || !strings.Contains(err.Error(), "missing.yaml") {
		t.Errorf("got %v", err)
	}
}

// Ready means that every provider was tried once, whatever came of it.
func TestReadiness(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/token", "/jwks"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, settings{timeout: slow})
			release := s.provider.hold(path)
			defer release()
			s.run(t)
			<-s.provider.arrived
			if got, text := s.get(t, "/readyz"); got != http.StatusServiceUnavailable {
				t.Errorf("got %d %q", got, text)
			}
			if got, _ := s.get(t, "/healthz"); got != http.StatusOK {
				t.Errorf("healthz: got %d", got)
			}
			release()
			s.becomes(t, "/readyz", http.StatusOK)
		})
	}
	t.Run("a provider that is down", func(t *testing.T) {
		t.Parallel()
		s := start(t, settings{})
		s.provider.SetFault(1)
		s.becomes(t, "/readyz", http.StatusOK)
	})
}

// The service says that it stops, to gRPC and HTTP, and lets a call in flight
// come to its end.
func TestStop(t *testing.T) {
	t.Parallel()
	s := newStage(t, settings{timeout: slow})
	release := s.provider.hold("/token")
	defer release()
	s.run(t)
	connection := s.dial(t, nil)
	watch, err := healthv1.NewHealthClient(connection).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	healthy := func() healthv1.HealthCheckResponse_ServingStatus {
		answer, err := watch.Recv()
		if err != nil {
			t.Errorf("health: %v", err)
		}
		return answer.GetStatus()
	}
	if got := healthy(); got != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("before: got %v", got)
	}
	type result struct {
		token string
		err   error
	}
	inFlight := make(chan result, 1)
	go func() {
		token, err := check(t.Context(), connection, s.provider.caller(t))
		inFlight <- result{token, err}
	}()
	<-s.provider.arrived
	// The call has come in, since its caller is known.
	for {
		if _, text := s.get(t, "/metrics"); strings.Contains(text, `grpc_server_started_total{grpc_method="Check",grpc_service="envoy.service.auth.v3.Authorization",grpc_type="unary"} 1`) {
			break
		}
	}
	s.stop()
	if got := healthy(); got != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("meanwhile: got %v", got)
	}
	if got, text := s.get(t, "/readyz"); got != http.StatusServiceUnavailable || !strings.Contains(text, "stopping") {
		t.Errorf("readyz meanwhile: got %d %q", got, text)
	}
	select {
	case r := <-inFlight:
		t.Fatalf("the call in flight was ended: %v", r.err)
	case err := <-s.ended:
		t.Fatalf("the service did not wait: %v", err)
	default:
	}
	release()
	if r := <-inFlight; r.err != nil || r.token == "" {
		t.Errorf("the call in flight: %v", r.err)
	}
}

// While it drains the service still answers.
func TestDrain(t *testing.T) {
	t.Parallel()
	s := newStage(t, settings{timeout: slow})
	s.opts.DrainDelay = 3e9
	s.run(t)
	connection := s.dial(t, nil)
	mustCheck(t, connection, s.provider.caller(t))
	s.stop()
	s.log.await("stopping")
	answer, err := healthv1.NewHealthClient(connection).Check(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil || answer.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("got %v, %v", answer, err)
	}
	mustCheck(t, connection, s.provider.caller(t))
}

// A listener that fails ends the service: one that answers nobody must not go
// on looking alive.
func TestListenerFails(t *testing.T) {
	t.Parallel()
	for name, listener := range map[string]func(*stage) error{
		"grpc":   func(s *stage) error { return s.grpc.Close() },
		"status": func(s *stage) error { return s.status.Close() },
		"admin":  func(s *stage) error { return s.admin.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, settings{timeout: slow})
			if err := listener(s); err != nil {
				t.Fatal(err)
			}
			if err := s.Run(t.Context()); err == nil {
				t.Error("got no error")
			}
		})
	}
}

func TestConnect(t *testing.T) {
	t.Parallel()
	s := newStage(t, settings{timeout: slow})
	defer s.closeListeners()
	got, err := Connect(t.Context(), s.current.Load().cfg)
	if err != nil || len(got) != 2 {
		t.Fatalf("got %+v, %v", got, err)
	}
	for i, want := range []struct{ kind, name, detail string }{
		{"callers", "shop", "1 signing keys of " + s.provider.Issuer()}, {"credential", "orders", "Bearer token, expires in 1h0m0s, fingerprint "},
	} {
		c := got[i]
		if c.Kind != want.kind || c.Name != want.name || !strings.HasPrefix(c.Detail, want.detail) || c.Err != nil {
			t.Errorf("got %+v, want %+v", c, want)
		}
	}
	s.write(t, "secret", "wrong")
	got, err = Connect(t.Context(), s.current.Load().cfg)
	var permanent *tokens.PermanentError
	if err != nil || !errors.As(got[1].Err, &permanent) || got[1].Detail != "" {
		t.Errorf("got %+v, %v", got, err)
	}
}

// refusedBy reports whether a call could not be made at all.
func refusedBy(err error) bool { return status.Code(err) == codes.Unavailable }
