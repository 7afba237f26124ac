package render

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/envoy/envoytest"
)

// rig is one Envoy with the stub around it, shared by the subtests of a test.
type rig struct {
	*stub
	way    way
	binary envoytest.Binary
	envoy  *envoytest.Envoy
	url    string
	client *http.Client // HTTP/1.1
}

// way is how a token gets to the backend.
type way string

const (
	nested way = "nested"
	lean   way = "lean"
	push   way = "push"
)

// ways are those that an Envoy can go. Older ones must not try: they crash.
func ways(t *testing.T, b envoytest.Binary) []way {
	t.Helper()
	minor, err := parseVersion(b.Version(t))
	if err != nil {
		t.Fatal(err)
	}
	if minor < oldestUpstream {
		return []way{nested}
	}
	return []way{nested, lean, push}
}

// apply makes a configuration go that way.
func (w way) apply(cfg Config) Config {
	switch w {
	case nested:
	case lean:
		cfg.Shape = Lean
	case push:
		for i := range cfg.Routes {
			cfg.Routes[i].Push = &Push{Credential: "test"}
		}
	}
	return cfg
}

// eachWay runs a test on every Envoy in every way that it can go.
func eachWay(t *testing.T, test func(*testing.T, envoytest.Binary, way)) {
	eachBinary(t, func(t *testing.T, b envoytest.Binary) {
		for _, w := range ways(t, b) {
			t.Run(string(w), func(t *testing.T) {
				t.Parallel()
				test(t, b, w)
			})
		}
	})
}

func eachEnvoy(t *testing.T, test func(*testing.T, *rig)) {
	eachWay(t, func(t *testing.T, b envoytest.Binary, w way) { test(t, startRig(t, b, w)) })
}

func startRig(t *testing.T, b envoytest.Binary, w way) *rig {
	t.Helper()
	s := &stub{}
	return s.start(t, b, w, s.config(t))
}

// config serves the stub and returns a configuration that leads to it.
func (s *stub) config(t *testing.T) Config {
	t.Helper()
	service := listen(t, "tcp", "127.0.0.1:0")
	s.serveGRPC(t, service)
	backend := s.serveBackend(t)
	return Config{
		Listen:  "127.0.0.1:0",
		Admin:   "127.0.0.1:0",
		Service: Service{Endpoints: []string{service.Addr().String()}},
		Routes: []Route{
			{Policy: "default", Backend: backend},
			{Policy: "grpc", Backend: "h2c://" + backend},
		},
	}
}

func (s *stub) start(t *testing.T, b envoytest.Binary, w way, cfg Config) *rig {
	t.Helper()
	return s.startAs(t, b, w, w.apply(cfg))
}

// startAs is start for a configuration that goes that way already.
func (s *stub) startAs(t *testing.T, b envoytest.Binary, w way, cfg Config) *rig {
	t.Helper()
	cfg.Listen, cfg.Admin = "127.0.0.1:0", "127.0.0.1:0"
	m, err := bootstrap(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s.run(t, b, w, m)
}

// run starts Envoy with a bootstrap that goes that way.
func (s *stub) run(t *testing.T, b envoytest.Binary, w way, m *bootstrapv3.Bootstrap) *rig {
	t.Helper()
	text, err := document("", m)
	if err != nil {
		t.Fatal(err)
	}
	e := envoytest.Start(t, b, text)
	return &rig{stub: s, way: w, binary: b, envoy: e, url: "http://" + e.Address(t, outerListener), client: http1()}
}

func TestRetries(t *testing.T) {
	eachEnvoy(t, func(t *testing.T, r *rig) {
		for name, test := range map[string]func(*testing.T, *rig){
			"fresh token":                      retriesWithFreshToken,
			"nothing sent when accepted":       sendsNothingWhenAccepted,
			"body is replayed":                 replaysBody,
			"large body, dead":                 answersLargeDead,
			"large body, unclear":              passesLargeUnclear,
			"retries used up, dead":            answersUsedUpDead,
			"retries used up, unclear":         passesUsedUpUnclear,
			"backend forges the header":        ignoresForgedAnswer,
			"caller forges headers":            ignoresForgedRequest,
			"immediate response":               passesImmediateResponse,
			"denial is not observed":           doesNotObserveDenial,
			"hook cannot set other headers":    keepsOtherHeaders,
			"hook fails":                       passesWhenHookFails,
			"caller gone while the hook holds": survivesLeavingCaller,
			"slow service is asked once":       asksSlowServiceOnce,
			"policy and path":                  choosesPolicyByPath,
			"caller shares a connection":       holdsNothingOfSharedConnections,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, r)
			})
		}
	})
}

func (r *rig) get(t *testing.T, path string) answer {
	t.Helper()
	return send(t, r.client, http.MethodGet, r.url+path, nil, nil)
}

// wantCounts expects so many requests, observed answers and tries at the backend.
func (r *rig) wantCounts(t *testing.T, sc *scenario, requests, observed, tries int) {
	t.Helper()
	sc.mu.Lock()
	defer sc.mu.Unlock()
	type counts struct{ checks, observed, watched, injected, tries int }
	got := counts{len(sc.checks), len(sc.observed), len(sc.watched), len(sc.injected), len(sc.tries)}
	want := counts{observed: observed, tries: tries}
	switch r.way {
	case nested:
		want.checks = max(requests, tries) // each try is checked
	case lean:
		want.checks, want.injected = requests, max(tries-requests, 0)
	case push:
		want.injected = max(tries-requests, 0)
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func wantHidden(t *testing.T, a answer) {
	t.Helper()
	for name, v := range a.header {
		if strings.HasPrefix(name, "X-Rebearer-") {
			t.Errorf("the caller saw %s: %q", name, v)
		}
	}
}

func retriesWithFreshToken(t *testing.T, r *rig) {
	for _, c := range r.clients() {
		name, sc := r.script(t, &scenario{})
		a := send(t, c, http.MethodGet, r.url+"/"+name, nil, http.Header{"Authorization": {"Bearer caller"}})
		if a.status != http.StatusOK || a.body != "t2 0 bytes" {
			t.Errorf("got %d %q", a.status, a.body)
		}
		wantHidden(t, a)
		if diff := cmp.Diff([]string{"t1", "t2"}, sc.tokens()); diff != "" {
			t.Errorf("tokens at the backend: %s", diff)
		}
		r.wantCounts(t, sc, 1, 2, 2)
		first, second := sc.observed[0], sc.observed[1]
		if first.status != "403" || first.attempt != 1 || second.status != "200" || second.attempt != 2 {
			t.Errorf("observed %v, then %v", first, second)
		}
		if got := first.stream.Get(envoy.ConfigMetadata); len(got) != 1 || len(got[0]) != 16 {
			t.Errorf("the configuration's hash is %q", got)
		}
		if r.way == push && first.stream.Get(envoy.CredentialMetadata)[0]+first.stream.Get(envoy.PolicyMetadata)[0] != "testdefault" {
			t.Errorf("the stream says %v", first.stream)
		}
		for i, want := range []string{"Bearer t1", "Bearer t2"} {
			got := sc.observed[i].attributes
			if got["request.headers['authorization']"] != want || got["request.method"] != "GET" ||
				got["xds.route_name"] != "default" || got["request.id"] == "" {
				t.Errorf("attributes of try %d: %v", i+1, got)
			}
		}
		if r.way != nested {
			continue
		}
		check := sc.checks[1]
		if got := checkHeader(check, "authorization"); got != "Bearer caller" {
			t.Errorf("the second check got authorization %q", got)
		}
		if got := check.GetContextExtensions()["policy"]; got != "default" {
			t.Errorf("policy %q", got)
		}
		if n := len(check.GetRequest().GetHttp().GetHeaderMap().GetHeaders()); n != 3 {
			t.Errorf("the check got %d headers, want 3: %v", n, check.GetRequest().GetHttp().GetHeaderMap())
		}
	}
}

// clients are callers whose requests are sent again: in the router's own filters
// nothing is held of what shares a connection with others.
func (r *rig) clients() []*http.Client {
	if r.way == nested {
		return []*http.Client{http1(), http2Client()}
	}
	return []*http.Client{http1()}
}

func holdsNothingOfSharedConnections(t *testing.T, r *rig) {
	if r.way == nested {
		t.Skip("it holds every rejection")
	}
	told := make(chan struct{}, 1)
	name, sc := r.script(t, &scenario{watch: func() { told <- struct{}{} }})
	wantRefused(t, send(t, http2Client(), http.MethodGet, r.url+"/"+name, nil, nil))
	<-told
	sc.mu.Lock()
	defer sc.mu.Unlock()
	if len(sc.watched) != 1 || len(sc.observed) != 0 || len(sc.tries) != 1 {
		t.Errorf("watched %d, observed %d, %d tries", len(sc.watched), len(sc.observed), len(sc.tries))
	}
}

// Where the configuration allows it, a request on a shared connection is sent again
// without asking: once, and for the statuses that it names.
func TestRetryUnasked(t *testing.T) {
	eachWay(t, func(t *testing.T, b envoytest.Binary, w way) {
		if w == nested {
			t.Skip("it holds every rejection")
		}
		for _, tt := range []struct {
			name          string
			unasked       []int
			status, grpc  string
			always        bool
			want          int
			tries, inject int
		}{
			{"401", []int{401, 403}, "401", "", false, 200, 2, 1},
			{"401 for ever", []int{401, 403}, "401", "", true, 401, 2, 1},
			{"401, not allowed", nil, "401", "", false, 401, 1, 0},
			{"403", []int{401, 403}, "403", "", false, 200, 2, 1},
			{"403 for ever", []int{401, 403}, "403", "", true, 403, 2, 1},
			{"403, not named", []int{401}, "403", "", false, 403, 1, 0},
			{"UNAUTHENTICATED", []int{401}, "200", "16", false, 200, 2, 1},
			{"UNAUTHENTICATED, not named", []int{403}, "200", "16", false, 200, 1, 0},
			{"PERMISSION_DENIED", []int{401, 403}, "200", "7", false, 200, 1, 0},
		} {
			t.Run(tt.name, func(t *testing.T) {
				s := &stub{}
				cfg := s.config(t)
				cfg.RetryUnasked = tt.unasked
				r := s.start(t, b, w, cfg)
				name, sc := r.script(t, &scenario{backend: func(w http.ResponseWriter, req *http.Request) {
					if !tt.always && !isFirst(req) {
						return
					}
					if tt.grpc != "" {
						w.Header().Set("Grpc-Status", tt.grpc)
					}
					status, err := strconv.Atoi(tt.status)
					if err != nil {
						t.Error(err)
					}
					w.WriteHeader(status)
				}})
				a := send(t, http2Client(), http.MethodGet, r.url+"/"+name, nil, nil)
				wantHidden(t, a)
				if a.status != tt.want {
					t.Errorf("got %d, want %d", a.status, tt.want)
				}
				r.wantUnasked(t, sc, tt.tries, tt.inject)
				sc.mu.Lock()
				defer sc.mu.Unlock()
				if tt.inject > 0 && sc.injected[0].attributes[envoy.ProtocolAttribute] != "HTTP/2" {
					t.Errorf("the hook was told %v", sc.injected[0].attributes)
				}
			})
		}
	})
}

func sendsNothingWhenAccepted(t *testing.T, r *rig) {
	for _, code := range []int{200, 204, 302, 404, 500, 503} {
		name, sc := r.script(t, &scenario{backend: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }})
		for range 5 {
			if a := r.get(t, "/"+name); a.status == 0 {
				t.Error("no answer")
			}
		}
		r.wantCounts(t, sc, 5, 0, 5)
	}
}

func replaysBody(t *testing.T, r *rig) {
	body := bytes.Repeat([]byte("0123456789"), 30_000)
	for _, c := range r.clients() {
		name, sc := r.script(t, &scenario{})
		a := send(t, c, http.MethodPost, r.url+"/"+name, body, nil)
		if a.status != http.StatusOK || a.body != "t2 300000 bytes" {
			t.Errorf("got %d %q", a.status, a.body)
		}
		r.wantCounts(t, sc, 1, 2, 2)
		if sc.tries[0].sum != sc.tries[1].sum {
			t.Error("the second try had another body")
		}
	}
}

// wantRenewed expects the answer to a request whose token was dead and that
// Envoy could not retry.
func wantRenewed(t *testing.T, a answer) {
	t.Helper()
	wantHidden(t, a)
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") != "0" ||
		a.header.Get("Content-Type") != "application/problem+json" ||
		a.header.Get("WWW-Authenticate") != "" || a.body != renewedProblem {
		t.Errorf("got %d %v %q", a.status, a.header, a.body)
	}
}

func wantRefused(t *testing.T, a answer) {
	t.Helper()
	wantHidden(t, a)
	if a.status != http.StatusForbidden || a.header.Get("Retry-After") != "" ||
		a.header.Get("WWW-Authenticate") != `Bearer realm="backend"` || a.body != "backend says no" {
		t.Errorf("got %d %v %q", a.status, a.header, a.body)
	}
}

func answersLargeDead(t *testing.T, r *rig) {
	for _, c := range r.clients() {
		name, sc := r.script(t, &scenario{})
		wantRenewed(t, send(t, c, http.MethodPost, r.url+"/"+name, make([]byte, 3<<20), nil))
		r.wantCounts(t, sc, 1, 1, 1)
	}
}

// The buffer's size is what is configured, below and above Envoy's own limits.
func TestBodyBuffer(t *testing.T) {
	eachWay(t, func(t *testing.T, b envoytest.Binary, w way) {
		for buffer, test := range map[uint32]struct{ fits, tooLarge int }{
			16 << 10: {fits: 15 << 10, tooLarge: 64 << 10},
			4 << 20:  {fits: 3 << 20, tooLarge: 6 << 20},
		} {
			s := &stub{}
			cfg := s.config(t)
			cfg.BodyBuffer = buffer
			if w == lean && strings.HasPrefix(b.Version(t), "1.37.") {
				test.fits /= 2 // see Config.BodyBuffer
			}
			r := s.start(t, b, w, cfg)
			for _, c := range r.clients() {
				name, _ := r.script(t, &scenario{})
				if a := send(t, c, http.MethodPost, r.url+"/"+name, make([]byte, test.fits), nil); a.status != http.StatusOK {
					t.Errorf("buffer %d, body %d: got %d %q", buffer, test.fits, a.status, a.body)
				}
				wantRenewed(t, send(t, c, http.MethodPost, r.url+"/"+name, make([]byte, test.tooLarge), nil))
			}
		}
	})
}

func passesLargeUnclear(t *testing.T, r *rig) {
	for _, c := range r.clients() {
		name, sc := r.script(t, &scenario{hook: retryRejected(envoy.RetryUnclear)})
		wantRefused(t, send(t, c, http.MethodPost, r.url+"/"+name, make([]byte, 3<<20), nil))
		r.wantCounts(t, sc, 1, 1, 1)
	}
}

func answersUsedUpDead(t *testing.T, r *rig) {
	name, sc := r.script(t, &scenario{backend: refuse})
	wantRenewed(t, r.get(t, "/"+name))
	r.wantCounts(t, sc, 1, 1+maxRetries, 1+maxRetries)
}

func passesUsedUpUnclear(t *testing.T, r *rig) {
	name, sc := r.script(t, &scenario{backend: refuse, hook: retryRejected(envoy.RetryUnclear)})
	wantRefused(t, r.get(t, "/"+name))
	r.wantCounts(t, sc, 1, 1+maxRetries, 1+maxRetries)
}

func ignoresForgedAnswer(t *testing.T, r *rig) {
	for code, observed := range map[int]int{200: 0, 404: 0, 403: 1, 401: 1} {
		name, sc := r.script(t, &scenario{
			backend: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Add("X-Rebearer-Retry", "dead")
				w.Header().Add("X-Rebearer-Retry", "unclear")
				w.Header().Add("X-Rebearer-Dead", "dead")
				w.Header().Add("X-Rebearer-Sent", "1")
				w.WriteHeader(code)
			},
			hook: func(observation) *extprocv3.ProcessingResponse { return letPass() },
		})
		a := r.get(t, "/"+name)
		if a.status != code {
			t.Errorf("got %d, want %d", a.status, code)
		}
		wantHidden(t, a)
		r.wantCounts(t, sc, 1, observed, 1)
	}
}

func ignoresForgedRequest(t *testing.T, r *rig) {
	name, sc := r.script(t, &scenario{backend: func(http.ResponseWriter, *http.Request) {}})
	a := send(t, http1(), http.MethodGet, r.url+"/"+name, nil, http.Header{
		"X-Envoy-Attempt-Count": {"7", "8"}, "X-Rebearer-Retry": {"dead"}, "Authorization_": {"Bearer x"},
	})
	if a.status != http.StatusOK {
		t.Errorf("got %d", a.status)
	}
	r.wantCounts(t, sc, 1, 0, 1)
	attempt := map[way][]string{nested: nil, lean: {"1"}, push: {"1"}}[r.way]
	want := map[string][]string{"X-Envoy-Attempt-Count": attempt, "X-Rebearer-Retry": nil, "Authorization_": nil}
	for h, want := range want {
		if diff := cmp.Diff(want, sc.tries[0].header.Values(h)); diff != "" {
			t.Errorf("the backend got %s: %s", h, diff)
		}
	}
	if r.way == push {
		return
	}
	told := map[way]string{nested: "1", lean: ""}[r.way]
	if got := checkHeader(sc.checks[0], envoy.AttemptHeader); got != told {
		t.Errorf("the check got attempt %q, want %q", got, told)
	}
}

func passesImmediateResponse(t *testing.T, r *rig) {
	name, sc := r.script(t, &scenario{hook: func(observation) *extprocv3.ProcessingResponse { return unavailable() }})
	a := r.get(t, "/"+name)
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") != "3" ||
		a.header.Get("WWW-Authenticate") != "" || a.header.Get("Content-Type") != "text/x" || a.body != "no token" {
		t.Errorf("got %d %v %q", a.status, a.header, a.body)
	}
	r.wantCounts(t, sc, 1, 1, 1)
}

func doesNotObserveDenial(t *testing.T, r *rig) {
	if r.way == push {
		t.Skip("there is no check")
	}
	for _, code := range []typev3.StatusCode{401, 403, 503} {
		name, sc := r.script(t, &scenario{deny: &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: code}, Body: "denied"}})
		a := r.get(t, "/"+name)
		if a.status != int(code) || a.body != "denied" {
			t.Errorf("got %d %q", a.status, a.body)
		}
		r.wantCounts(t, sc, 1, 0, 0)
		r.wantCounts(t, &r.stray, 0, 0, 0)
	}
}

func keepsOtherHeaders(t *testing.T, r *rig) {
	for _, header := range []string{"location", "set-cookie", "x-rebearer-retry-x", "x-x-rebearer-retry"} {
		name, sc := r.script(t, &scenario{hook: func(observation) *extprocv3.ProcessingResponse { return setHeader(header, "x") }})
		a := r.get(t, "/"+name)
		wantRefused(t, a)
		if v := a.header.Get(header); v != "" {
			t.Errorf("the hook set %s: %q", header, v)
		}
		r.wantCounts(t, sc, 1, 1, 1)
	}
}

func passesWhenHookFails(t *testing.T, r *rig) {
	name, sc := r.script(t, &scenario{hook: func(observation) *extprocv3.ProcessingResponse {
		return &extprocv3.ProcessingResponse{Response: &extprocv3.ProcessingResponse_RequestHeaders{}} // not an answer to the question
	}})
	wantRefused(t, r.get(t, "/"+name))
	r.wantCounts(t, sc, 1, 1, 1)
}

func survivesLeavingCaller(t *testing.T, r *rig) {
	held, release := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(held) })
	name, _ := r.script(t, &scenario{hook: func(o observation) *extprocv3.ProcessingResponse {
		once()
		<-release
		return retryRejected(envoy.RetryDead)(o)
	}})
	for _, c := range r.clients() {
		ctx, leave := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+"/"+name, strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			<-held
			leave()
		}()
		if _, err := c.Do(req); err == nil {
			t.Error("the caller got an answer")
		}
	}
	close(release)
	r.wantWorking(t)
}

// A check or a hook that waits for a provider is not asked again meanwhile.
func asksSlowServiceOnce(t *testing.T, r *rig) {
	name, sc := r.script(t, &scenario{})
	// While it waits, others come and go. That takes longer than any back-off.
	wait := func() {
		for range 10 {
			r.wantWorking(t)
		}
	}
	sc.check = wait
	sc.hook = func(o observation) *extprocv3.ProcessingResponse {
		wait()
		return retryRejected(envoy.RetryDead)(o)
	}
	if a := r.get(t, "/"+name); a.status != http.StatusOK {
		t.Errorf("got %d", a.status)
	}
	r.wantCounts(t, sc, 1, 2, 2)
}

// wantWorking sends a request that is retried, whatever came before it.
func (r *rig) wantWorking(t *testing.T) {
	t.Helper()
	name, _ := r.script(t, &scenario{})
	if a := r.get(t, "/"+name); a.status != http.StatusOK || a.body != "t2 0 bytes" {
		t.Errorf("the next request got %d %q", a.status, a.body)
	}
	if !r.envoy.Alive() {
		t.Error("Envoy died")
	}
}

func choosesPolicyByPath(t *testing.T, r *rig) {
	if r.way == push {
		t.Skip("there is no check")
	}
	name, sc := r.script(t, &scenario{backend: func(http.ResponseWriter, *http.Request) {}})
	for _, c := range []struct{ path, policy, backendPath string }{
		{"/" + name + "/x?a=b%2Fc", "default", "/" + name + "/x?a=b%2Fc"},
		{"/grpc/" + name + "/x", "grpc", "/" + name + "/x"},
		{"//grpc///" + name + "//x", "grpc", "/" + name + "/x"},
		{"/x/../grpc/./" + name, "grpc", "/" + name},
		{"/grpc/../" + name, "default", "/" + name},
		{"/%67rpc/" + name, "grpc", "/" + name},
	} {
		if a := r.get(t, c.path); a.status != http.StatusOK {
			t.Errorf("%s: got %d", c.path, a.status)
			continue
		}
		last := len(sc.tries) - 1
		if got := sc.tries[last].path; got != c.backendPath {
			t.Errorf("%s: the backend got %s, want %s", c.path, got, c.backendPath)
		}
		if got := sc.checks[last].GetContextExtensions()["policy"]; got != c.policy {
			t.Errorf("%s: policy %s, want %s", c.path, got, c.policy)
		}
	}
	for _, path := range []string{"/grpc%2F" + name, "/" + name + "%2f..%2fgrpc", "/grpc%5C" + name} {
		if a := r.get(t, path); a.status != http.StatusBadRequest {
			t.Errorf("%s: got %d, want 400", path, a.status)
		}
	}
}
