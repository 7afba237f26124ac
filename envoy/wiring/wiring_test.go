package wiring_test

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/envoy/envoytest"
	"github.com/rebearer/rebearer/envoy/render"
	"github.com/rebearer/rebearer/envoy/wiring"
)

// config renders one policy.
func config(shape render.Shape, push bool) render.Config {
	cfg := render.Config{
		Shape:  shape,
		Listen: "127.0.0.1:0", Admin: "127.0.0.1:0",
		Service: render.Service{Endpoints: []string{"127.0.0.1:1"}},
		Routes:  []render.Route{{Policy: "default", Backend: "127.0.0.1:2"}},

		RetryUnasked: []int{401, 403},
	}
	if push {
		cfg.Routes[0].Push = &render.Push{Credential: "orders"}
	}
	return cfg
}

// mixed renders a policy that the check decides on and one in push mode.
func mixed(shape render.Shape) render.Config {
	cfg := config(shape, false)
	cfg.Routes = append(cfg.Routes, render.Route{
		Policy: "orders", Backend: "127.0.0.1:3", Push: &render.Push{Credential: "orders"},
	})
	return cfg
}

// dumpOf is what a real Envoy with a configuration says that it runs.
func dumpOf(t *testing.T, cfg render.Config) []byte {
	t.Helper()
	bootstrap, err := render.Bootstrap(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e := envoytest.Start(t, envoytest.Binaries()[0], bootstrap)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.Admin+"/config_dump", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// What we render is wired, and every piece that is taken out is missed.
func TestInspect(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		config render.Config
		routes []string
		breaks []damage
		leaves []change
	}{
		{
			"nested", config(render.Nested, false),
			[]string{"nested, through rebearer_inner"},
			append(slices.Clone(nestedDamages), noRetryPolicy, noAttemptCount, noRemoval, noAnswer, shortTimeout, noBreaker, failsOpen),
			append(slices.Clone(harmless), onByHeader, onByWeight("nested, through rebearer_inner")),
		},
		{
			"lean", config(render.Lean, false),
			[]string{": lean"},
			append(slices.Clone(leanDamages), noRetryPolicy, noAttemptCount, noRemoval, noAnswer, shortTimeout, noBreaker, failsOpen, noGuard, noSentRemoval, notUnasked, noInject, oldEnvoy, ownFilters, noCheck),
			append(slices.Clone(harmless), onByHeader, onByWeight("to cluster backend_default: lean")),
		},
		{
			"push", config(render.Nested, true),
			[]string{": push of orders"},
			append(slices.Clone(pushDamages), noRetryPolicy, noAttemptCount, noRemoval, noAnswer, shortTimeout, noBreaker, noGuard, noSentRemoval, notUnasked, noInject, oldEnvoy),
			[]change{
				{"retry_on with spaces", spaces, ""},
				{"no namespaces", without("forwarding_namespaces"), ""},
				onByWeight("to cluster backend_default: push of orders"),
			},
		},
		{
			"nested, check and push", mixed(render.Nested),
			[]string{"nested, through rebearer_inner", ": push of orders"},
			append(slices.Clone(nestedDamages), guardFirst), harmless,
		},
		{
			"lean, check and push", mixed(render.Lean),
			[]string{": lean", ": push of orders"},
			leanDamages, harmless,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hashes, err := render.Hashes(tt.config)
			if err != nil {
				t.Fatal(err)
			}
			known := wiring.Config{Hashes: hashes, Unasked: true}
			data := dumpOf(t, tt.config)
			report, err := wiring.Inspect(data, known)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]wiring.Finding(nil), report.Findings); diff != "" {
				t.Errorf("findings in what we render (-want +got):\n%s", diff)
			}
			for _, want := range tt.routes {
				if !slices.ContainsFunc(report.Routes, func(r string) bool { return strings.HasSuffix(r, want) }) {
					t.Errorf("routes: got %q, want one that ends in %q", report.Routes, want)
				}
			}
			report, err = wiring.Inspect(data, wiring.Config{Hashes: []string{"0123"}})
			if err != nil || !says(report, "rendered from another configuration") {
				t.Errorf("another configuration: got %+v, %v", report, err)
			}
			for _, d := range tt.breaks {
				report, err := wiring.Inspect(d.do(t, data), known)
				if err != nil {
					t.Fatal(err)
				}
				if !says(report, d.want) {
					t.Errorf("%s: got %q, want %q", d.name, report.Findings, d.want)
				}
			}
			for _, c := range tt.leaves {
				report, err := wiring.Inspect(damage{edit: c.edit}.do(t, data), known)
				if err != nil {
					t.Fatal(err)
				}
				if len(report.Findings) > 0 || !slices.ContainsFunc(report.Routes, func(r string) bool { return strings.HasSuffix(r, c.route) }) {
					t.Errorf("%s: got %q, %q, want no finding and a route that ends in %q", c.name, report.Findings, report.Routes, c.route)
				}
			}
		})
	}
}

func says(r *wiring.Report, want string) bool {
	return slices.ContainsFunc(r.Findings, func(f wiring.Finding) bool { return strings.Contains(f.String(), want) })
}

// damage is done to every object of a dump that it fits.
type damage struct {
	name string
	edit func(object map[string]any)
	want string
}

func (d damage) do(t *testing.T, data []byte) []byte {
	t.Helper()
	var all any
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	everywhere(all, d.edit)
	out, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func everywhere(v any, edit func(map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		edit(v)
		for _, inner := range v {
			everywhere(inner, edit)
		}
	case []any:
		for _, inner := range v {
			everywhere(inner, edit)
		}
	}
}

func without(key string) func(map[string]any) {
	return func(o map[string]any) { delete(o, key) }
}

// renamed makes the calls of a role nobody's.
func renamed(role string) func(map[string]any) {
	return func(o map[string]any) {
		if o["key"] == "x-rebearer-role" && o["value"] == role {
			o["value"] = "nothing"
		}
	}
}

var (
	noRetryPolicy  = damage{"no retry policy", without("retry_policy"), "rejected requests are not retried"}
	noAttemptCount = damage{"no attempt count", without("include_request_attempt_count"), "lacks include_request_attempt_count"}
	noRemoval      = damage{"no removal", without("response_headers_to_remove"), "callers see it"}
	noSentRemoval  = damage{"no removal of the guard's header", func(o map[string]any) {
		if removed, ok := o["response_headers_to_remove"].([]any); ok {
			o["response_headers_to_remove"] = slices.DeleteFunc(removed, func(name any) bool { return name == "x-rebearer-sent" })
		}
	}, "x-rebearer-sent: callers see it"}
	notUnasked = damage{"nothing unasked", func(o map[string]any) {
		if headers, ok := o["retriable_headers"].([]any); ok {
			o["retriable_headers"] = headers[:1]
		}
	}, "rejected requests over HTTP/2 are not retried"}
	noAnswer = damage{"no answer", func(o map[string]any) {
		if o["header_name"] == "x-rebearer-dead" {
			o["header_name"] = "another"
		}
	}, "no filter answers 503"}
	noBreaker    = damage{"no breaker", without("circuit_breakers"), "max_retries is Envoy's default"}
	noInject     = damage{"no inject", renamed("inject"), "lacks inject"}
	shortTimeout = damage{"short timeout", func(o map[string]any) {
		if _, ok := o["retry_policy"]; ok {
			o["timeout"] = "1s"
		}
	}, "is not above the hook's"}
	failsOpen = damage{"fails open", func(o map[string]any) {
		if _, ok := o["status_on_error"]; ok {
			o["failure_mode_allow"] = true
			delete(o, "status_on_error")
		}
	}, "everybody passes"}
	noGuard = damage{"no guard", func(o map[string]any) {
		if value, ok := o["value"].(string); ok && strings.Contains(value, "REQUEST_TX_DURATION") {
			o["value"] = "1"
		}
	}, "the guard"}
	oldEnvoy = damage{"old Envoy", func(o map[string]any) {
		if _, ok := o["minor_number"]; ok {
			o["minor_number"] = 36
		}
	}, "crashes on every retry"}
	ownFilters = damage{"own filters", func(o map[string]any) {
		if _, ok := o["load_assignment"]; !ok {
			return
		}
		o["typed_extension_protocol_options"] = map[string]any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": map[string]any{
			"@type":                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
			"explicit_http_config": map[string]any{"http_protocol_options": map[string]any{}},
			"http_filters": []any{map[string]any{"name": "envoy.filters.http.upstream_codec", "typed_config": map[string]any{
				"@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
			}}},
		}}
	}, "take the place of the router's"}
)

// An Envoy that does not ask us is told so, and what is no dump is refused.
func TestInspectOthers(t *testing.T) {
	t.Parallel()
	none := `{"configs":[
		{"@type":"type.googleapis.com/envoy.admin.v3.BootstrapConfigDump","bootstrap":{}},
		{"@type":"type.googleapis.com/envoy.admin.v3.ListenersConfigDump","static_listeners":[{"listener":
			{"@type":"type.googleapis.com/envoy.config.listener.v3.Listener","name":"l","filter_chains":[{"filters":[
				{"name":"own","typed_config":{"@type":"type.googleapis.com/our.own.Filter","made_up":{"x":1}}}]}]}}]}]}`
	report, err := wiring.Inspect([]byte(none), wiring.Config{})
	if err != nil || !says(report, "no route asks rebearer") {
		t.Errorf("got %+v, %v", report, err)
	}
	for _, data := range []string{"", "{}", `{"configs":1}`, "<html>", `{"configs":[]}`} {
		if _, err := wiring.Inspect([]byte(data), wiring.Config{}); err == nil || !strings.Contains(err.Error(), "/config_dump") {
			t.Errorf("%q: got %v", data, err)
		}
	}
}
