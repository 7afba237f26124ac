package extauthz_test

import (
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/extauthz"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
)

// on asks for a detour by a header.
func on(request *authv3.CheckRequest, header string) *authv3.CheckRequest {
	if request.Attributes.ContextExtensions == nil {
		request.Attributes.ContextExtensions = map[string]string{}
	}
	request.Attributes.ContextExtensions[extauthz.DetourExtension] = header
	return request
}

// On a detour the filters behind the check still find the caller's own token.
func TestDetour(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	token := extauthztest.WithBearer(f.issuer.Token("alice", nil))
	tests := map[string]struct {
		request *authv3.CheckRequest
		want    answer
	}{
		"taken": {
			on(extauthztest.NewRequest(token), extauthz.DetourHeader),
			answer{Headers: map[string]string{extauthz.DetourHeader: "Bearer " + backendToken}},
		},
		"not asked for": {
			extauthztest.NewRequest(token),
			answer{Headers: map[string]string{"authorization": "Bearer " + backendToken}},
		},
		"not needed by another header": {
			on(extauthztest.NewRequest(token, extauthztest.WithPolicy("orders")), extauthz.DetourHeader),
			answer{Headers: map[string]string{"x-api-token": backendToken}, Remove: []string{"authorization"}},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, f.check(t, tt.request)); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

// A preflight is given no token, and what stands in its place does not pass.
func TestDetourOfPreflight(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.setDefault(t, func(p *extauthz.Policy) { p.Preflight = true })
	request := extauthztest.NewRequest(
		extauthztest.WithHeader("origin", "https://shop.example"),
		extauthztest.WithHeader("access-control-request-method", "GET"),
		extauthztest.WithBearer("x"),
	)
	request.Attributes.Request.Http.Method = "OPTIONS"
	got := f.check(t, on(request, extauthz.DetourHeader))
	if diff := cmp.Diff(answer{Headers: map[string]string{}, Remove: []string{"authorization"}}, got); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
}

// A configuration of Envoy that names another header is not one of ours.
func TestDetourElsewhere(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	got := f.check(t, on(extauthztest.NewRequest(extauthztest.WithBearer(f.issuer.Token("alice", nil))), "x-elsewhere"))
	if got.Status != 503 {
		t.Errorf("got %+v, want a 503", got)
	}
}
