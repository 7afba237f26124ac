package extauthz_test

import (
	"log/slog"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/rebearer/rebearer/extauthz"
	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
	"github.com/rebearer/rebearer/tokens"
)

// FuzzCheck looks for a request that makes Check fail, or allow it: there is no
// good token in it.
func FuzzCheck(f *testing.F) {
	for _, request := range []*authv3.CheckRequest{
		{},
		extauthztest.NewRequest(),
		extauthztest.NewRequest(extauthztest.WithBearer("a.b.c"), extauthztest.WithPolicy("x")),
		extauthztest.NewRequest(extauthztest.WithRawHeaders("authorization", "Bearer \xff", "authorization", "Basic x")),
	} {
		text, err := proto.Marshal(request)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	server, err := extauthz.New(slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		f.Fatal(err)
	}
	keys := caller.NewKeySet(extauthztest.NewIssuer(f), slog.New(slog.DiscardHandler))
	verifier, err := caller.NewJWT(keys, caller.JWTConfig{Issuer: "x", Audiences: []string{"x"}, CacheBytes: 1 << 10})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(verifier.Close)
	if err := server.SetPolicies([]extauthz.Policy{{Name: "default", Callers: verifier, Credential: &credential{fault: true}}}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var request authv3.CheckRequest
		if proto.Unmarshal(text, &request) != nil {
			return
		}
		response, err := server.Check(t.Context(), &request)
		if err != nil || response.GetDeniedResponse() == nil {
			t.Fatalf("got %v, %v; want a denial", response, err)
		}
		if _, err := proto.Marshal(response); err != nil {
			t.Errorf("the response cannot be marshalled: %v", err)
		}
		if metadata := metadataOf(t, response); metadata["verdict"] == "allow" || tokens.UseFromFields(metadata).Credential != "" {
			t.Errorf("a denial has the metadata %v", metadata)
		}
	})
}
