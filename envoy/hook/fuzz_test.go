package hook_test

import (
	"testing"

	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/protobuf/proto"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/envoy/hook"
	"github.com/rebearer/rebearer/tokens"
)

// Whatever arrives, in whatever role, is answered with one message that fits it.
func FuzzProcess(f *testing.F) {
	for _, seed := range []*extprocv3.ProcessingRequest{
		{},
		answerOf("401"),
		answerOf("403", attempt(2.0)),
		answerOf("200", header("grpc-status", "16")),
		answerOf("401", header("www-authenticate", `Bearer realm="\"", error="invalid_token"`)),
		answerOf("403", body(7)),
		trailersOf("grpc-status", "16"),
		tryOf(2, "x"),
		answerOf("", attempt(-1e300), metadata(envoy.CheckNamespace, map[string]any{
			"credential": "orders", "age_ms": 1e300, "generation": -1e300,
		})),
	} {
		data, err := proto.Marshal(seed)
		if err != nil {
			f.Fatal(err)
		}
		for _, role := range []string{"", envoy.RoleObserve, envoy.RoleInject} {
			f.Add(role, data)
		}
	}
	f.Fuzz(func(t *testing.T, role string, data []byte) {
		request := &extprocv3.ProcessingRequest{}
		if role == envoy.RoleWatch || proto.Unmarshal(data, request) != nil {
			t.Skip("nothing is answered, or no message")
		}
		c := &credential{
			outcome: tokens.Outcome{Answer: tokens.TryAgain},
			again:   func(tokens.Retried) (tokens.Token, error) { return tokens.Token{Value: "fresh"}, nil },
		}
		to := target(c)
		to.Rules = readsEverything(t)
		stream := &oneMessage{ctx: as(t.Context(), origin{role: role}), request: request}
		if err := newHook(t, to).Process(stream); err != nil {
			t.Fatal(err)
		}
		if len(stream.answers) != 1 || stream.answers[0].GetResponse() == nil {
			t.Fatalf("got %v", stream.answers)
		}
		if _, err := proto.Marshal(stream.answers[0]); err != nil {
			t.Fatal(err)
		}
	})
}

var _ hook.Credential = (*credential)(nil)
