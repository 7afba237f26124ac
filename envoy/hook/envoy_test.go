package hook_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/envoy/envoytest"
	"github.com/rebearer/rebearer/envoy/hook"
	"github.com/rebearer/rebearer/envoy/rejection"
	"github.com/rebearer/rebearer/envoy/render"
	"github.com/rebearer/rebearer/tokens"
)

// rejectionStatuses are more than the default, so that the presets for odd
// statuses are tried as well.
func rejectionStatuses() []int { return []int{400, 401, 403, 498} }

// vector is a real system's answer.
type vector struct {
	ID              string
	System          string
	Status          int
	WWWAuthenticate []string `json:"www_authenticate"`
	ContentType     string   `json:"content_type"`
	Body            string
	Class           string
	Explicit        bool
}

// readVectors returns whole answers, and those of which only the challenges are
// told, as 401.
func readVectors(t *testing.T) []vector {
	t.Helper()
	var answers struct{ Cases []vector }
	readTestdata(t, "challenges.json", &answers)
	var challenges struct {
		Cases []struct {
			ID     string
			Fields []string `json:"field_values"`
		}
	}
	readTestdata(t, "www_authenticate_parse.json", &challenges)
	for _, c := range challenges.Cases {
		answers.Cases = append(answers.Cases, vector{ID: c.ID, System: c.ID, Status: http.StatusUnauthorized, WWWAuthenticate: c.Fields})
	}
	return answers.Cases
}

func readTestdata(t *testing.T, name string, v any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "rejection", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func (v vector) isRejection() bool {
	return slices.Contains(rejectionStatuses(), v.Status)
}

// ServeHTTP answers so, with the header fields as the octets that they were.
func (v vector) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	for _, field := range v.WWWAuthenticate {
		var octets []byte
		for _, r := range field {
			octets = append(octets, byte(r)) // the vectors are Latin-1
		}
		w.Header().Add("WWW-Authenticate", string(octets))
	}
	w.Header()["Content-Type"] = nil
	if v.ContentType != "" {
		w.Header().Set("Content-Type", v.ContentType)
	}
	w.WriteHeader(v.Status)
	_, _ = io.WriteString(w, v.Body)
}

func allPresets(t *testing.T) *rejection.Rules {
	t.Helper()
	var all []rejection.Rule
	for _, name := range rejection.Presets() {
		rules, _ := rejection.Preset(name)
		all = append(all, rules...)
	}
	rules, err := rejection.NewRules(all...)
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// world is what is around Envoy: a check and a credential that give every try of
// every request a token of its own, the hook, and a backend that refuses the
// first of each request.
type world struct {
	authv3.UnimplementedAuthorizationServer

	backends map[string]http.Handler // by path, how the first token is refused
	url      string

	mu       sync.Mutex
	rejected map[tokens.Fingerprint]tokens.Rejection
	accepted map[tokens.Fingerprint]tokens.Acceptance
	sent     map[string][]string // tokens, by path
}

// Check gives out the token PATH/ATTEMPT.
func (w *world) Check(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	request := r.GetAttributes().GetRequest().GetHttp()
	attempt := "1"
	for _, h := range request.GetHeaderMap().GetHeaders() {
		if h.GetKey() == envoy.AttemptHeader {
			attempt = string(h.GetRawValue())
		}
	}
	metadata, err := structpb.NewStruct(written(tokens.Use{Policy: "default", Credential: "orders", Caller: tokens.Fingerprint(strings.Trim(request.GetPath(), "/"))}))
	return &authv3.CheckResponse{
		Status:          &status.Status{},
		DynamicMetadata: metadata,
		HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{Headers: []*corev3.HeaderValueOption{{
			Header:       &corev3.HeaderValue{Key: "authorization", Value: "Bearer " + strings.Trim(request.GetPath(), "/") + "/" + attempt},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		}}}},
	}, err
}

// Rejected has everything retried that may be about the token.
func (w *world) Rejected(_ context.Context, r tokens.Rejection) tokens.Outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rejected[r.Fingerprint] = r
	if r.Verdict == tokens.NotAllowed || !r.Retriable {
		return tokens.Outcome{}
	}
	return tokens.Outcome{Answer: tokens.TryAgain}
}

// Accepted notes it down.
func (w *world) Accepted(a tokens.Acceptance) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.accepted[a.Fingerprint] = a
}

// Again gives out the token PATH/2, as the check would.
func (w *world) Again(_ context.Context, r tokens.Retried) (tokens.Token, error) {
	return tokens.Token{Value: tokens.Secret(string(r.Use.Caller) + "/2")}, nil
}

// ServeHTTP is the backend.
func (w *world) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	path, token := strings.Trim(r.URL.Path, "/"), strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	w.mu.Lock()
	w.sent[path] = append(w.sent[path], token)
	w.mu.Unlock()
	if token == path+"/1" {
		w.backends[path].ServeHTTP(out, r)
		return
	}
	_, _ = io.WriteString(out, "fine")
}

func (w *world) told(path string) (*tokens.Rejection, bool, []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	accepted := w.accepted[tokens.FingerprintOf(path+"/2")].Attempt == 2
	if r, ok := w.rejected[tokens.FingerprintOf(path+"/1")]; ok {
		return &r, accepted, w.sent[path]
	}
	return nil, accepted, w.sent[path]
}

// start puts a real Envoy of the given shape in front of the backend, with the
// real hook.
func (w *world) start(t *testing.T, b envoytest.Binary, shape render.Shape, rules *rejection.Rules) {
	t.Helper()
	w.rejected, w.accepted, w.sent = map[tokens.Fingerprint]tokens.Rejection{}, map[tokens.Fingerprint]tokens.Acceptance{}, map[string][]string{}
	to := target(w)
	to.Statuses, to.Rules = rejectionStatuses(), rules
	service, backend := listen(t), listen(t)
	server := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}))
	authv3.RegisterAuthorizationServer(server, w)
	extprocv3.RegisterExternalProcessorServer(server, newHook(t, to))
	go func() { _ = server.Serve(service) }()
	t.Cleanup(server.Stop)
	upstream := &http.Server{Handler: w, ReadHeaderTimeout: time.Minute}
	go func() { _ = upstream.Serve(backend) }()
	t.Cleanup(func() { _ = upstream.Close() })

	bootstrap, err := render.Bootstrap(render.Config{
		Shape: shape, EnvoyVersion: b.Version(t), Listen: "127.0.0.1:0", Admin: "127.0.0.1:0",
		Service:           render.Service{Endpoints: []string{service.Addr().String()}},
		Routes:            []render.Route{{Policy: render.DefaultPolicy, Backend: backend.Addr().String()}},
		RejectionStatuses: rejectionStatuses(),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.url = "http://" + envoytest.Start(t, b, bootstrap).Address(t, "rebearer_outer")
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// get returns the status and the body, which is empty if the answer was cut off.
func (w *world) get(t *testing.T, path string) (int, string) {
	t.Helper()
	response, err := http.Get(w.url + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return response.StatusCode, ""
	}
	return response.StatusCode, string(body)
}

// head returns the status as soon as it arrives.
func (w *world) head(ctx context.Context, path string) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+"/"+path, nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	return response.StatusCode, response.Body.Close()
}

func eachEnvoy(t *testing.T, test func(*testing.T, envoytest.Binary, render.Shape)) {
	t.Parallel()
	for _, b := range envoytest.Binaries() {
		for _, shape := range []render.Shape{render.Nested, render.Lean} {
			t.Run(b.Name+" "+string(shape), func(t *testing.T) {
				if version := b.Version(t); shape == render.Lean && strings.HasPrefix(version, "1.36.") {
					t.Skipf("Envoy %s crashes in the lean shape", version)
				}
				t.Parallel()
				test(t, b, shape)
			})
		}
	}
}

// Rejections of real systems through a real Envoy, with all presets: a token that
// is dead is replaced and the request sent again, and nothing else is touched.
func TestRealRejectionsThroughEnvoy(t *testing.T) {
	eachEnvoy(t, func(t *testing.T, b envoytest.Binary, shape render.Shape) {
		rules := allPresets(t)
		w := &world{backends: map[string]http.Handler{}}
		vectors := readVectors(t)
		for _, v := range vectors {
			w.backends[v.ID] = v
		}
		w.start(t, b, shape, rules)
		for _, v := range vectors {
			t.Run(v.ID, func(t *testing.T) {
				code, body := w.get(t, v.ID)
				rejected, accepted, sent := w.told(v.ID)
				if v.hasNUL() {
					if code != http.StatusBadGateway || rejected != nil {
						t.Errorf("got %d, rejected %+v; Envoy lets nobody see such an answer", code, rejected)
					}
					return
				}
				want := wantOf(rules, v)
				if want == nil || want.Verdict == tokens.NotAllowed {
					if code != v.Status || body != v.Body || len(sent) != 1 {
						t.Errorf("%s: got %d %q after the tokens %q, want the backend's own answer", v.System, code, body, sent)
					}
				} else if code != http.StatusOK || body != "fine" || !cmp.Equal(sent, []string{v.ID + "/1", v.ID + "/2"}) || !accepted {
					t.Errorf("%s: got %d %q after the tokens %q, accepted %t, want a retry", v.System, code, body, sent, accepted)
				}
				switch {
				case want == nil && rejected != nil:
					t.Errorf("rejected: %+v", rejected)
				case want != nil && (rejected == nil || rejected.Verdict != want.Verdict || rejected.Rule != want.Rule):
					t.Errorf("%s: rejected: got %+v, want %+v", v.System, rejected, want)
				}
				if v.Explicit && (v.Class == "invalid_token") != (len(sent) == 2) {
					t.Errorf("%s says %s, and %d tokens were sent", v.System, v.Class, len(sent))
				}
			})
		}
	})
}

// hasNUL reports an answer with an octet that no header may hold (RFC 9110
// section 5.5).
func (v vector) hasNUL() bool { return strings.Contains(strings.Join(v.WWWAuthenticate, ""), "\x00") }

// wantOf is the decision on a whole answer; nil if it is no rejection.
func wantOf(rules *rejection.Rules, v vector) *rejection.Decision {
	if !v.isRejection() {
		return nil
	}
	d := rules.Decide(rejection.Response{Status: v.Status, WWWAuthenticate: v.WWWAuthenticate, ContentType: v.ContentType, Body: []byte(v.Body)})
	return &d
}

// What a backend does with the body of a rejection costs nobody more than a
// moment: one that is too long, has no length or is compressed is not read, and
// one that does not come is not waited for.
func TestOddBodiesThroughEnvoy(t *testing.T) {
	eachEnvoy(t, func(t *testing.T, b envoytest.Binary, shape render.Shape) {
		released := make(chan struct{})
		defer close(released)
		const dead = `{"dead":true}`
		refuse := func(length string, write func(http.ResponseWriter)) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if length != "" {
					w.Header().Set("Content-Length", length)
				}
				w.WriteHeader(http.StatusUnauthorized)
				write(w)
			})
		}
		text := func(s string) func(http.ResponseWriter) {
			return func(w http.ResponseWriter) { _, _ = io.WriteString(w, s) }
		}
		long := `{"dead":true,"more":"` + strings.Repeat("x", rejection.MaxBody) + `"}`
		w := &world{backends: map[string]http.Handler{
			"whole": refuse("13", text(dead)),
			"long":  refuse("", text(long)),
			"chunked": refuse("", func(w http.ResponseWriter) {
				_ = http.NewResponseController(w).Flush()
				text(dead)(w)
			}),
			"compressed": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Encoding", "br")
				refuse("13", text(dead)).ServeHTTP(w, r)
			}),
			"cut": refuse("13", func(w http.ResponseWriter) {
				text(dead[:5])(w)
				_ = http.NewResponseController(w).Flush()
				if connection, _, err := http.NewResponseController(w).Hijack(); err == nil {
					_ = connection.Close()
				}
			}),
			"endless": refuse("13", func(w http.ResponseWriter) {
				text(dead[:5])(w)
				_ = http.NewResponseController(w).Flush()
				<-released
			}),
		}}
		w.start(t, b, shape, readsEverything(t))
		for path, rule := range map[string]string{
			"whole": "rule:dead", "long": rejection.RuleStatus, "chunked": rejection.RuleStatus, "compressed": rejection.RuleStatus,
		} {
			code, body := w.get(t, path)
			rejected, _, sent := w.told(path)
			if code != http.StatusOK || body != "fine" || len(sent) != 2 || rejected == nil || rejected.Rule != rule {
				t.Errorf("%s: got %d %q after the tokens %q, rejected %+v, want a retry by %s", path, code, body, sent, rejected, rule)
			}
		}
		// A caller who leaves meanwhile, and a backend that does.
		leaving, leave := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer leave()
		if code, err := w.head(leaving, "endless"); err == nil {
			t.Errorf("got %d before the body", code)
		}
		if code, err := w.head(t.Context(), "cut"); err == nil && code == http.StatusOK {
			t.Errorf("cut off: got %d", code)
		}
		// The head of the answer arrives although the body never does.
		code, err := w.head(t.Context(), "endless")
		rejected, _, sent := w.told("endless")
		if err != nil || code != http.StatusUnauthorized || slices.Contains(sent, "endless/2") || rejected == nil || rejected.Retriable {
			t.Errorf("endless: got %d, %v after the tokens %q, rejected %+v", code, err, sent, rejected)
		}
	})
}

// Many at once.
func TestBodiesUnderLoadThroughEnvoy(t *testing.T) {
	eachEnvoy(t, func(t *testing.T, b envoytest.Binary, shape render.Shape) {
		w := &world{backends: map[string]http.Handler{
			"load": vector{Status: http.StatusForbidden, ContentType: "application/json", Body: `{"dead":true}`},
		}}
		w.start(t, b, shape, readsEverything(t))
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				for range 20 {
					code, err := w.head(t.Context(), "load")
					if err != nil || code != http.StatusOK {
						t.Errorf("got %d, %v", code, err)
					}
				}
			})
		}
		group.Wait()
	})
}

var _ hook.Credential = (*world)(nil)
