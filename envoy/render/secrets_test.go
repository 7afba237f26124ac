package render

import (
	"strconv"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// secrets is a secret server that answers each name with the token t1, or, while
// it withholds, with nothing.
type secrets struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer

	mu       sync.Mutex
	withheld chan struct{} // no token is given before it is closed, if it is there
	asked    []string
}

func (s *secrets) withhold() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	withheld := make(chan struct{})
	s.withheld = withheld
	return sync.OnceFunc(func() { close(withheld) })
}

func (s *secrets) StreamSecrets(stream secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	for version := 1; ; version++ {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		if r.GetResponseNonce() != "" {
			continue // Envoy has it
		}
		s.mu.Lock()
		s.asked = append(s.asked, r.GetResourceNames()...)
		withheld := s.withheld
		s.mu.Unlock()
		if withheld != nil {
			select {
			case <-withheld:
			case <-stream.Context().Done():
				return stream.Context().Err()
			}
		}
		answer := &discoveryv3.DiscoveryResponse{
			VersionInfo: strconv.Itoa(version), Nonce: strconv.Itoa(version), TypeUrl: r.GetTypeUrl(),
		}
		for _, name := range r.GetResourceNames() {
			secret, err := anypb.New(&tlsv3.Secret{Name: name, Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{
				Secret: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: "Bearer t1"}},
			}}})
			if err != nil {
				return err
			}
			answer.Resources = append(answer.Resources, secret)
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}
