package secrets_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/rebearer/rebearer/envoy/secrets"
	"github.com/rebearer/rebearer/tokens"
)

// fixture is a secret server in memory. It is used inside a synctest bubble,
// which also fails where a goroutine is left.
type fixture struct {
	*pusher
	metrics    *prometheus.Registry
	log        *bytes.Buffer // read it when everything is idle
	connection *grpc.ClientConn
}

func newFixture(t *testing.T, cfg secrets.Config) *fixture {
	t.Helper()
	f := &fixture{metrics: prometheus.NewPedanticRegistry(), log: &bytes.Buffer{}}
	s, err := secrets.New(slog.New(slog.NewTextHandler(f.log, nil)), f.metrics, cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.pusher = newPusher(s, "orders", "stock")
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	secretv3.RegisterSecretDiscoveryServiceServer(server, f.Server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	f.connection, err = grpc.NewClient("passthrough:///bufconn",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		server.GracefulStop()
		_ = f.connection.Close()
		if err := <-served; err != nil {
			t.Errorf("gRPC server: %v", err)
		}
	})
	return f
}

// pusher is a Server in use: what is published for the served credentials reaches
// Envoys at once.
type pusher struct {
	*secrets.Server

	mu         sync.Mutex
	served     []string
	publishers map[string]*secrets.Publisher
}

func newPusher(s *secrets.Server, served ...string) *pusher {
	p := &pusher{Server: s, publishers: map[string]*secrets.Publisher{}}
	p.serve(served...)
	return p
}

// serve has these credentials served.
func (p *pusher) serve(credentials ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.served = credentials
	var served []*secrets.Publisher
	for _, credential := range credentials {
		if p.publishers[credential] == nil {
			p.publishers[credential] = p.Publisher(credential, "")
		}
		served = append(served, p.publishers[credential])
	}
	p.Serve(served)
}

// publisher puts a new publisher in place of a credential's.
func (p *pusher) publisher(credential, scheme string) func(tokens.Token) {
	made := p.Publisher(credential, scheme)
	p.mu.Lock()
	p.publishers[credential] = made
	served := p.served
	p.mu.Unlock()
	p.serve(served...)
	return made.Publish
}

// wantMetrics compares all metrics, with the values of their labels.
func (f *fixture) wantMetrics(t *testing.T, want ...string) {
	t.Helper()
	families, err := f.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			name := family.GetName()
			for _, label := range metric.GetLabel() {
				name += "{" + label.GetValue() + "}"
			}
			got = append(got, fmt.Sprint(name, " ", metric.GetCounter().GetValue()+metric.GetGauge().GetValue()))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

// token makes a token that lives for an hour.
func token(value string, generation uint64) tokens.Token {
	return tokens.Token{
		Value: tokens.Secret(value), Fingerprint: tokens.FingerprintOf(value), Generation: generation,
		Expires: time.Now().Add(time.Hour),
	}
}

// envoyClient is a scripted Envoy with one stream. It keeps what it is sent, and
// acknowledges it unless it is told not to.
type envoyClient struct {
	t     *testing.T
	ask   func(names []string, answer answer) error
	close func()

	mu     sync.Mutex
	mute   bool // it neither acknowledges nor refuses
	refuse string
	names  []string
	held   map[string]string // values by name, as Envoy would have them
	last   answer
	taken  []string // what was received since the last take
	err    error
}

// answer is what a request says about the last message.
type answer struct {
	nonce, version string
	refusal        *status.Status
}

// received is what both variants of a message have in common.
type received struct {
	nonce, version string
	secrets        map[string]string
}

// protocols are both variants of the service.
func protocols() map[string]func(*fixture, *testing.T, string) *envoyClient {
	return map[string]func(*fixture, *testing.T, string) *envoyClient{
		"sotw":  (*fixture).sotw,
		"delta": (*fixture).delta,
	}
}

// eachProtocol runs a test with each of them, in a bubble.
func eachProtocol(t *testing.T, test func(t *testing.T, f *fixture, connect func(node string) *envoyClient)) {
	t.Parallel()
	for name, open := range protocols() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := newFixture(t, secrets.Config{Insecure: true})
				test(t, f, func(node string) *envoyClient { return open(f, t, node) })
			})
		})
	}
}

func nodeOf(id string) *corev3.Node {
	return &corev3.Node{
		Id: id, Cluster: "edge", Extensions: []*corev3.Extension{{Name: "one of very many"}},
		UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: &corev3.BuildVersion{
			Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 40},
		}},
	}
}

func (f *fixture) sotw(t *testing.T, node string) *envoyClient {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := secretv3.NewSecretDiscoveryServiceClient(f.connection).StreamSecrets(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := &envoyClient{t: t, close: cancel, held: map[string]string{}}
	says := nodeOf(node)
	c.ask = func(names []string, a answer) error {
		r := &discoveryv3.DiscoveryRequest{Node: says, ResourceNames: names, ResponseNonce: a.nonce, VersionInfo: a.version, ErrorDetail: a.refusal}
		says = nil // only the first says it
		return stream.Send(r)
	}
	go c.listen(func() (received, error) {
		r, err := stream.Recv()
		got := received{nonce: r.GetNonce(), version: r.GetVersionInfo(), secrets: map[string]string{}}
		for _, resource := range r.GetResources() {
			got.add(resource.GetValue())
		}
		return got, err
	})
	t.Cleanup(cancel)
	return c
}

func (f *fixture) delta(t *testing.T, node string) *envoyClient {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := secretv3.NewSecretDiscoveryServiceClient(f.connection).DeltaSecrets(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := &envoyClient{t: t, close: cancel, held: map[string]string{}}
	says, asked := nodeOf(node), map[string]bool{}
	c.ask = func(names []string, a answer) error {
		r := &discoveryv3.DeltaDiscoveryRequest{Node: says, ResponseNonce: a.nonce, ErrorDetail: a.refusal}
		if says != nil { // Envoy says what it holds from before
			r.InitialResourceVersions = map[string]string{"rebearer/orders": "v", "rebearer/stock": "v"}
		}
		for _, name := range names {
			if !asked[name] {
				r.ResourceNamesSubscribe = append(r.ResourceNamesSubscribe, name)
			}
			asked[name] = true
		}
		for name := range asked {
			if !slices.Contains(names, name) {
				r.ResourceNamesUnsubscribe = append(r.ResourceNamesUnsubscribe, name)
				delete(asked, name)
			}
		}
		says = nil
		return stream.Send(r)
	}
	go c.listen(func() (received, error) {
		r, err := stream.Recv()
		got := received{nonce: r.GetNonce(), secrets: map[string]string{}}
		for _, resource := range r.GetResources() {
			got.add(resource.GetResource().GetValue())
		}
		return got, err
	})
	t.Cleanup(cancel)
	return c
}

func (r received) add(resource []byte) {
	var secret tlsv3.Secret
	if err := proto.Unmarshal(resource, &secret); err != nil {
		r.secrets["unreadable"] = err.Error()
		return
	}
	r.secrets[secret.GetName()] = secret.GetGenericSecret().GetSecret().GetInlineString()
}

// listen receives until the stream ends.
func (c *envoyClient) listen(receive func() (received, error)) {
	for {
		got, err := receive()
		c.mu.Lock()
		if err != nil {
			c.err = err
			c.mu.Unlock()
			return
		}
		for _, name := range slices.Sorted(maps.Keys(got.secrets)) {
			c.taken = append(c.taken, name+"="+got.secrets[name])
		}
		c.last.nonce = got.nonce
		c.reply(got)
		c.mu.Unlock()
	}
}

// reply acknowledges or refuses a message.
func (c *envoyClient) reply(got received) {
	switch {
	case c.mute:
		return
	case c.refuse != "" && len(got.secrets) > 0:
		c.last.refusal = &status.Status{Code: 13, Message: c.refuse}
	default:
		c.last.version, c.last.refusal = got.version, nil
		maps.Copy(c.held, got.secrets)
	}
	_ = c.ask(c.names, c.last) // a stream that has ended is the listener's to see
}

// subscribe asks for exactly these names.
func (c *envoyClient) subscribe(names ...string) {
	c.t.Helper()
	c.mu.Lock()
	c.names = names
	err := c.ask(names, answer{nonce: c.last.nonce, version: c.last.version})
	c.mu.Unlock()
	if err != nil {
		c.t.Fatal(err)
	}
	synctest.Wait()
}

// set changes how it replies.
func (c *envoyClient) set(mute bool, refuse string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mute, c.refuse = mute, refuse
}

// wantTaken compares what was received since the last call.
func (c *envoyClient) wantTaken(want ...string) {
	c.t.Helper()
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if diff := cmp.Diff(want, c.taken); diff != "" {
		c.t.Errorf("received (-want +got):\n%s", diff)
	}
	c.taken = nil
}

// ended returns how the stream ended, nil while it has not.
func (c *envoyClient) ended() error {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
