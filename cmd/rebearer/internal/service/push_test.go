package service

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/admin"
	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/tokens"
)

// A credential of a policy with delivery push is given to who asks for secrets,
// and again when it changes; one of another policy is not.
func TestPush(t *testing.T) {
	t.Parallel()
	a, b := newOffice(t, "a"), newOffice(t, "b")
	s := &stage{
		provider: newFront(t), folder: t.TempDir(), log: newJournal(), events: make(chan tokens.Event, 10_000), ended: make(chan error, 1),
	}
	s.file = filepath.Join(s.folder, "rebearer.yaml")
	s.write(t, "secret", clientSecret)
	s.write(t, "rebearer.yaml", fmt.Sprintf(`version: 1
server:
  grpc: {address: "unix://%s/s"}
  status: {address: 127.0.0.1:0}
  admin: {address: 127.0.0.1:0}
providers:
  a: {token_url: %q}
  b: {token_url: %q}
credentials:
  pushed: {clients: [{provider: a, id: gateway, secret_file: secret}]}
  checked: {clients: [{provider: b, id: gateway, secret_file: secret}]}
policies:
  default: {anonymous: true, credential: pushed, delivery: push}
  checked: {anonymous: true, credential: checked}
`, s.folder, a.URL+"/token", b.URL+"/token"))
	s.make(t)
	s.run(t)
	s.await(tokens.EventIssued)
	s.await(tokens.EventIssued)
	stream, err := secretv3.NewSecretDiscoveryServiceClient(s.dial(t, nil)).StreamSecrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	request := &discoveryv3.DiscoveryRequest{
		Node: &corev3.Node{Id: "edge-1", Cluster: "edge"}, TypeUrl: resource.SecretType,
		ResourceNames: []string{envoy.SecretName("pushed"), envoy.SecretName("checked")},
	}
	for generation := 1; generation <= 2; generation++ {
		if err := stream.Send(request); err != nil {
			t.Fatal(err)
		}
		response, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		request.VersionInfo, request.ResponseNonce = response.GetVersionInfo(), response.GetNonce()
		got := map[string]string{}
		for _, packed := range response.GetResources() {
			var secret tlsv3.Secret
			if err := packed.UnmarshalTo(&secret); err != nil {
				t.Fatal(err)
			}
			got[secret.GetName()] = secret.GetGenericSecret().GetSecret().GetInlineString()
		}
		if want := fmt.Sprintf("Bearer a-%d", generation); len(got) != 1 || got[envoy.SecretName("pushed")] != want {
			t.Errorf("Envoy is given %v, want %q alone", got, want)
		}
		if generation == 1 {
			if _, err := admin.NewClient(s.Addresses().Admin.String(), "").Flush(t.Context(), admin.FlushRequest{All: true}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, metrics := s.get(t, "/metrics"); !strings.Contains(metrics, "rebearer_secret_nodes 1") {
		t.Error("the metrics do not show the node")
	}
}
