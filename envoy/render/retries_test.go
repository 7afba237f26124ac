package render

import (
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	rulesv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	extauthzfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	upstreamcodecv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/upstream_codec/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/envoy/envoytest"
)

// A user's own retries go on working, and a retried try that is refused is still
// sent again with a fresh token.
func TestOwnRetries(t *testing.T) {
	eachWay(t, func(t *testing.T, b envoytest.Binary, w way) {
		s := &stub{}
		cfg := s.config(t)
		cfg.Retries = Retries{On: "5xx,reset", Attempts: 2}
		r := s.start(t, b, w, cfg)
		for what, test := range map[string]struct {
			answers []int // of the tries, the last one for all after it
			want    int
			tries   int
		}{
			"503 once":            {[]int{503, 200}, 200, 2},
			"503 twice":           {[]int{503, 503, 200}, 200, 3},
			"refused, then 503":   {[]int{403, 503, 200}, 200, 3},
			"503, then refused":   {[]int{503, 403, 200}, 200, 3},
			"cut off, then 403":   {[]int{0, 403, 200}, 200, 3},
			"refused twice":       {[]int{403, 403, 200}, 200, 3},
			"404 is no condition": {[]int{404}, 404, 1},
		} {
			sc := &scenario{}
			sc.backend = func(w http.ResponseWriter, req *http.Request) {
				_, _ = io.Copy(io.Discard, req.Body)
				sc.mu.Lock()
				status := test.answers[min(len(sc.tries), len(test.answers))-1]
				sc.mu.Unlock()
				if status == 0 {
					cutOff(w, req)
					return
				}
				w.WriteHeader(status)
			}
			name, _ := r.script(t, sc)
			a := send(t, r.client, http.MethodPost, r.url+"/"+name, []byte("body"), nil)
			if a.status != test.want || len(sc.tries) != test.tries {
				t.Errorf("%s: got %d after %d tries, want %d after %d", what, a.status, len(sc.tries), test.want, test.tries)
			}
			wantHidden(t, a)
		}
		r.wantWorking(t)
	})
}

// What a try was refused for reaches inject, which hands out another token.
func TestRefusedIsNoted(t *testing.T) {
	eachWay(t, func(t *testing.T, b envoytest.Binary, w way) {
		if w == nested {
			t.Skip("there is no inject")
		}
		s := &stub{}
		r := s.start(t, b, w, s.config(t))
		name, sc := r.script(t, &scenario{hook: func(o observation) *extprocv3.ProcessingResponse {
			return note(retryRejected(envoy.RetryDead)(o), "f1")
		}})
		if a := r.get(t, "/"+name); a.status != http.StatusOK {
			t.Errorf("got %d", a.status)
		}
		if len(sc.injected) != 1 || sc.injected[0].refused != "f1" || sc.injected[0].attempt != 2 {
			t.Errorf("injected %+v", sc.injected)
		}

		name, sc = r.script(t, &scenario{inject: func(observation) *extprocv3.ProcessingResponse { return unavailable() }})
		a := r.get(t, "/"+name)
		if a.status != http.StatusServiceUnavailable || a.body != "no token" || a.header.Get("Retry-After") != "3" {
			t.Errorf("no fresh token: got %d %v %q", a.status, a.header, a.body)
		}
		if len(sc.tries) != 1 {
			t.Errorf("the backend was sent %d tries", len(sc.tries))
		}
	})
}

// A try that times out may be followed by another while it still runs.
func TestHedging(t *testing.T) {
	eachWay(t, func(t *testing.T, b envoytest.Binary, w way) {
		for _, hedge := range []bool{false, true} {
			s := &stub{}
			cfg := s.config(t)
			cfg.CheckTimeout, cfg.HookTimeout, cfg.RouteTimeout = 300*time.Millisecond, 300*time.Millisecond, 5*time.Second
			cfg.Retries = Retries{On: "5xx", Attempts: 2, PerTryTimeout: 400 * time.Millisecond, Hedge: hedge}
			r := s.start(t, b, w, cfg)
			for _, first := range []int{200, 403} {
				release := make(chan struct{})
				sc := &scenario{token: func(int) string { return "t1" }}
				sc.backend = func(w http.ResponseWriter, req *http.Request) {
					_, _ = io.Copy(io.Discard, req.Body)
					sc.mu.Lock()
					n := len(sc.tries)
					sc.mu.Unlock()
					if n > 1 {
						return
					}
					<-release
					w.WriteHeader(first)
				}
				name, _ := r.script(t, sc)
				if a := send(t, r.client, http.MethodPost, r.url+"/"+name, []byte("body"), nil); a.status != http.StatusOK {
					t.Errorf("hedge %v: got %d", hedge, a.status)
				}
				close(release)
				r.wantWorking(t)
			}
		}
	})
}

// Other routes and clusters of the same Envoy go on as before: the hook is told
// nothing by which it could change anything, and a cluster with filters of its own
// keeps those.
func TestOtherRoutes(t *testing.T) {
	eachWay(t, func(t *testing.T, b envoytest.Binary, w way) {
		if w == nested {
			t.Skip("the inner listener has the routes with policies only")
		}
		s := &stub{}
		cfg := w.apply(s.config(t))
		cfg.Listen, cfg.Admin = "127.0.0.1:0", "127.0.0.1:0"
		m, err := bootstrap(cfg)
		if err != nil {
			t.Fatal(err)
		}
		backend, err := parseBackend(cfg.Routes[0])
		if err != nil {
			t.Fatal(err)
		}
		builder := &builder{cfg: cfg.withDefaults()}
		own := []*hcmv3.HttpFilter{
			builder.filter("envoy.filters.http.header_mutation", mutateResponse(&rulesv3.HeaderMutation{
				Action: &rulesv3.HeaderMutation_Append{Append: overwrite("x-own", "here")},
			})),
			builder.filter("envoy.filters.http.upstream_codec", &upstreamcodecv3.UpstreamCodec{}),
		}
		m.StaticResources.Clusters = append(m.StaticResources.Clusters,
			builder.cluster("other", backend, nil), builder.cluster("other_own", backend, own))
		outer := manager(t, m.StaticResources.Listeners[0])
		host := outer.GetRouteConfig().VirtualHosts[0]
		for _, name := range []string{"other_own", "other"} {
			disabled := &extauthzfilterv3.ExtAuthzPerRoute{Override: &extauthzfilterv3.ExtAuthzPerRoute_Disabled{Disabled: true}}
			route := &routev3.Route{
				Match: prefix("/" + name + "/"),
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{
					ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: name}, PrefixRewrite: "/",
				}},
			}
			if w == lean {
				route.TypedPerFilterConfig = map[string]*anypb.Any{extAuthzFilter: packed(t, disabled)}
			}
			host.Routes = slices.Insert(host.Routes, 0, route)
		}
		m.StaticResources.Listeners[0] = withManager(t, m.StaticResources.Listeners[0], outerListener, outer, nil)
		r := s.run(t, b, w, m)
		for path, own := range map[string]string{"/other/": "", "/other_own/": "here"} {
			for _, status := range []int{200, 401, 403, 503} {
				sc := &scenario{
					backend: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) },
					// The hook, which finds no metadata of the check's.
					hook: func(observation) *extprocv3.ProcessingResponse { return letPass() },
				}
				name, _ := r.script(t, sc)
				a := send(t, r.client, http.MethodGet, r.url+path+name, nil, http.Header{"Authorization": {"Bearer mine"}})
				if a.status != status || len(sc.tries) != 1 || sc.tries[0].token != "mine" || a.header.Get("X-Own") != own {
					t.Errorf("%s: got %d %v, tries %+v", path, a.status, a.header, sc.tries)
				}
			}
		}
		r.wantWorking(t)
	})
}

// Where a virtual host does not count the tries, no accepted request costs a call
// to the hook, and the token that the check has set stays.
func TestTriesNotCounted(t *testing.T) {
	eachWay(t, func(t *testing.T, b envoytest.Binary, w way) {
		if w == nested {
			t.Skip("every try is checked")
		}
		s := &stub{}
		cfg := w.apply(s.config(t))
		cfg.Listen, cfg.Admin = "127.0.0.1:0", "127.0.0.1:0"
		m, err := bootstrap(cfg)
		if err != nil {
			t.Fatal(err)
		}
		outer := manager(t, m.StaticResources.Listeners[0])
		outer.GetRouteConfig().VirtualHosts[0].IncludeRequestAttemptCount = false
		m.StaticResources.Listeners[0] = withManager(t, m.StaticResources.Listeners[0], outerListener, outer, nil)
		r := s.run(t, b, w, m)
		name, sc := r.script(t, &scenario{backend: func(http.ResponseWriter, *http.Request) {}})
		for range 3 {
			if a := r.get(t, "/"+name); a.status != http.StatusOK {
				t.Errorf("got %d", a.status)
			}
		}
		if diff := cmp.Diff([]string{"t1", "t1", "t1"}, sc.tokens()); diff != "" {
			t.Errorf("tokens at the backend: %s", diff)
		}
		r.wantCounts(t, sc, 3, 0, 3)
	})
}

func TestRetryPolicy(t *testing.T) {
	t.Parallel()
	own := &routev3.RetryPolicy{
		RetryOn: "5xx,reset", NumRetries: wrapperspb.UInt32(2), RetriableStatusCodes: []uint32{409},
		RetriableHeaders: []*routev3.HeaderMatcher{{Name: "x-again"}},
	}
	before := proto.CloneOf(own)
	got := RetryPolicy(own, nil)
	if diff := cmp.Diff(before, own, protocmp.Transform()); diff != "" {
		t.Errorf("the policy was changed: %s", diff)
	}
	if got.RetryOn != "5xx,reset,retriable-headers" || got.GetNumRetries().GetValue() != 3 || !slices.Equal(got.RetriableStatusCodes, []uint32{409}) {
		t.Errorf("got %v", got)
	}
	if len(got.RetriableHeaders) != 2 || got.RetriableHeaders[1].Name != envoy.RetryHeader {
		t.Errorf("got headers %v", got.RetriableHeaders)
	}
	again := RetryPolicy(&routev3.RetryPolicy{RetryOn: "retriable-headers"}, nil)
	if again.RetryOn != "retriable-headers" || again.GetNumRetries().GetValue() != 2 {
		t.Errorf("got %v", again)
	}
}
