package secrets

import (
	"context"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/tokens"
)

// request is what both variants of a request have in common.
type request struct {
	node    *corev3.Node
	add     []string // names of ours
	all     bool     // add is all that is asked for from now on
	remove  []string
	strange []string // names that are not ours
	nonce   string   // of the message that it answers; empty for none
	refusal *rpcstatus.Status
}

// ours takes the names that can never be ones of ours out of a request, "*" for
// everything among them. They are not an error, since the same Envoy may ask for
// others.
func ours(names []string) (kept, strange []string) {
	for _, name := range names {
		if _, ok := envoy.SecretCredential(name); ok && len(name) <= maxText {
			kept = append(kept, name)
		} else {
			strange = append(strange, name)
		}
	}
	return kept, strange
}

// lighten drops what an Envoy says of itself that we have no use for: the list
// of its extensions alone takes 100 kB, and is kept as long as the stream.
func lighten(n *corev3.Node) {
	if n == nil {
		return
	}
	n.Metadata, n.DynamicParameters, n.Locality = nil, nil, nil
	n.Extensions, n.ClientFeatures = nil, nil
}

// sotwCallbacks follow the streams of the state-of-the-world variant.
type sotwCallbacks struct{ nodes *nodes }

func (c sotwCallbacks) id(number int64) streamID { return streamID{number: number} }

// OnStreamOpen implements sotw.Callbacks.
func (c sotwCallbacks) OnStreamOpen(ctx context.Context, number int64, _ string) error {
	return c.nodes.open(ctx, c.id(number))
}

// OnStreamClosed implements sotw.Callbacks.
func (c sotwCallbacks) OnStreamClosed(number int64, _ *corev3.Node) { c.nodes.close(c.id(number)) }

// OnStreamRequest implements sotw.Callbacks. It changes the request, which is
// answered after it.
func (c sotwCallbacks) OnStreamRequest(number int64, r *discoveryv3.DiscoveryRequest) error {
	var strange []string
	r.ResourceNames, strange = ours(r.GetResourceNames())
	lighten(r.GetNode())
	return c.nodes.ask(c.id(number), request{
		node: r.GetNode(), add: r.GetResourceNames(), all: true, strange: strange,
		nonce: r.GetResponseNonce(), refusal: r.GetErrorDetail(),
	})
}

// OnStreamResponse implements sotw.Callbacks.
func (c sotwCallbacks) OnStreamResponse(_ context.Context, number int64, _ *discoveryv3.DiscoveryRequest, r *discoveryv3.DiscoveryResponse) {
	m := message{nonce: r.GetNonce()}
	for _, resource := range r.GetResources() {
		m.secrets = append(m.secrets, readSecret(resource))
	}
	c.nodes.deliver(c.id(number), m)
}

// deltaCallbacks follow the streams of the incremental variant.
type deltaCallbacks struct{ nodes *nodes }

func (c deltaCallbacks) id(number int64) streamID { return streamID{delta: true, number: number} }

// OnDeltaStreamOpen implements delta.Callbacks.
func (c deltaCallbacks) OnDeltaStreamOpen(ctx context.Context, number int64, _ string) error {
	return c.nodes.open(ctx, c.id(number))
}

// OnDeltaStreamClosed implements delta.Callbacks.
func (c deltaCallbacks) OnDeltaStreamClosed(number int64, _ *corev3.Node) {
	c.nodes.close(c.id(number))
}

// OnStreamDeltaRequest implements delta.Callbacks. It changes the request, which
// is answered after it.
func (c deltaCallbacks) OnStreamDeltaRequest(number int64, r *discoveryv3.DeltaDiscoveryRequest) error {
	var strange []string
	r.ResourceNamesSubscribe, strange = ours(r.GetResourceNamesSubscribe())
	// An Envoy that comes back says what it holds, and would be told that what
	// we do not have yet is gone. So it is sent what we have as if it held none.
	r.InitialResourceVersions = nil
	lighten(r.GetNode())
	return c.nodes.ask(c.id(number), request{
		node: r.GetNode(), add: r.GetResourceNamesSubscribe(), remove: r.GetResourceNamesUnsubscribe(), strange: strange,
		nonce: r.GetResponseNonce(), refusal: r.GetErrorDetail(),
	})
}

// OnStreamDeltaResponse implements delta.Callbacks.
func (c deltaCallbacks) OnStreamDeltaResponse(number int64, _ *discoveryv3.DeltaDiscoveryRequest, r *discoveryv3.DeltaDiscoveryResponse) {
	m := message{nonce: r.GetNonce()}
	for _, resource := range r.GetResources() {
		m.secrets = append(m.secrets, readSecret(resource.GetResource()))
	}
	c.nodes.deliver(c.id(number), m)
}

// readSecret tells what is being sent. It is read from the message itself, since
// the store may be further by now.
func readSecret(resource *anypb.Any) sent {
	var secret tlsv3.Secret
	if err := proto.Unmarshal(resource.GetValue(), &secret); err != nil {
		return sent{}
	}
	credential, _ := envoy.SecretCredential(secret.GetName())
	value := secret.GetGenericSecret().GetSecret().GetInlineString()
	if _, token, ok := strings.Cut(value, " "); ok {
		value = token
	}
	return sent{credential: credential, fingerprint: tokens.FingerprintOf(value), value: tokens.Secret(value)}
}
