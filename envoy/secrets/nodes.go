package secrets

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/rebearer/rebearer/envoy"
	"github.com/rebearer/rebearer/tokens"
)

// Bounds on what peers can make us remember. An Envoy opens one stream for each
// secret.
const (
	maxStreams = 10_000
	maxNames   = 1_000 // of one stream
	maxText    = 256   // of a name or a version that Envoy says, in bytes
	maxStrays  = 100   // names that are logged because nothing has them
	maxNacks   = 1_000 // refusals that are remembered as logged
	maxOpen    = 8     // messages of a stream that wait for their answer
)

// NodeStatus is an Envoy that is connected.
type NodeStatus struct {
	// Node and Cluster are what it calls itself (node.id and node.cluster of
	// its bootstrap), which proves nothing.
	Node, Cluster string
	// Version is that of Envoy, such as 1.40.0; empty if it does not say.
	Version string
	// Peer is who is at the other end: "unix socket", or the name in the client
	// certificate and the address.
	Peer string
	// Since is when the oldest of its streams was opened.
	Since time.Time
	// Secrets are those that it asks for, in the order of their credentials. One
	// is there twice where two Envoys that nothing tells apart ask for it.
	Secrets []SecretStatus
}

// SecretStatus is a secret that an Envoy asks for.
type SecretStatus struct {
	// Credential is what the secret belongs to. There need not be one of that
	// name.
	Credential string
	// Sent is the token that was sent last; empty if none was, because there is
	// no living one.
	Sent tokens.Fingerprint
	// Acknowledged is the token that the Envoy took last, and uses.
	Acknowledged tokens.Fingerprint
	// Refused is the token that it refused after that, and Reason what it said;
	// both empty if it did not.
	Refused tokens.Fingerprint
	Reason  string
}

// nodes follows the streams and who opened them.
type nodes struct {
	log    *slog.Logger
	serves func(credential string) bool
	pushes *prometheus.CounterVec
	nacks  *prometheus.CounterVec

	mu        sync.Mutex // guards what follows
	streams   map[streamID]*stream
	connected map[node]int // its streams
	strays    map[string]bool
	nacked    map[nack]bool
}

// streamID is the number of a stream; both variants count their own.
type streamID struct {
	delta  bool
	number int64
}

func (id streamID) compare(other streamID) int { return cmp.Compare(id.number, other.number) }

// node is who opened a stream.
type node struct{ id, cluster, version, peer string }

// stream is one stream, which is answered by one goroutine.
type stream struct {
	node  node
	since time.Time
	asked bool // the first request came, and with it node
	names map[string]*SecretStatus
	open  []message // not answered yet, the oldest first
}

// message is what was sent at once.
type message struct {
	nonce   string
	secrets []sent
}

type sent struct {
	credential  string
	fingerprint tokens.Fingerprint
	value       tokens.Secret
}

func newNodes(log *slog.Logger) *nodes {
	return &nodes{
		log: log,
		pushes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebearer_secret_pushes_total",
			Help: "Backend tokens that were sent to Envoys, once for each Envoy.",
		}, []string{"credential"}),
		nacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rebearer_secret_nacks_total",
			Help: "Backend tokens that Envoys refused to take.",
		}, []string{"credential"}),
		streams:   map[streamID]*stream{},
		connected: map[node]int{},
		strays:    map[string]bool{},
		nacked:    map[nack]bool{},
	}
}

func (n *nodes) gauge() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "rebearer_secret_nodes",
		Help: "Envoys that are connected for their secrets.",
	}, func() float64 {
		n.mu.Lock()
		defer n.mu.Unlock()
		return float64(len(n.connected))
	})
}

// open begins to follow a stream.
func (n *nodes) open(ctx context.Context, id streamID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.streams) >= maxStreams {
		return status.Errorf(codes.ResourceExhausted, "there are %d streams for secrets already", maxStreams)
	}
	p, _ := peer.FromContext(ctx)
	n.streams[id] = &stream{node: node{peer: peerName(p)}, since: time.Now(), names: map[string]*SecretStatus{}}
	return nil
}

// close forgets a stream, also one that was refused.
func (n *nodes) close(id streamID) {
	n.mu.Lock()
	s := n.streams[id]
	delete(n.streams, id)
	last := false
	if s != nil && s.asked {
		n.connected[s.node]--
		last = n.connected[s.node] == 0
	}
	if last {
		delete(n.connected, s.node)
	}
	n.mu.Unlock()
	if last {
		n.log.LogAttrs(context.Background(), slog.LevelInfo, "an Envoy is gone that got its secrets here", s.node.attrs()...)
	}
}

func (n node) attrs() []slog.Attr {
	return []slog.Attr{
		slog.String("node", n.id), slog.String("cluster", n.cluster), slog.String("envoy", n.version), slog.String("peer", n.peer),
	}
}

// ask takes what a request says beside its names: who asks, and what became of
// the last message.
func (n *nodes) ask(id streamID, r request) error {
	n.mu.Lock()
	s := n.streams[id]
	first := !s.asked
	if first {
		s.asked = true
		s.node.introduce(r.node)
		n.connected[s.node]++
		first = n.connected[s.node] == 1
	}
	strays := n.subscribe(s, r)
	if len(s.names) > maxNames {
		n.mu.Unlock()
		return status.Errorf(codes.ResourceExhausted, "a stream may ask for %d secrets", maxNames)
	}
	refusals := n.answer(s, r)
	who := s.node
	n.mu.Unlock()

	if first {
		n.log.LogAttrs(context.Background(), slog.LevelInfo, "an Envoy gets its secrets here", who.attrs()...)
	}
	for _, name := range strays {
		n.log.LogAttrs(context.Background(), slog.LevelWarn, "an Envoy asks for a secret that there is not: is there a policy with delivery: push for it?",
			append(who.attrs(), slog.String("secret", name))...)
	}
	for _, refusal := range refusals {
		n.log.LogAttrs(context.Background(), slog.LevelError, "an Envoy refuses a token that was pushed, and keeps the one before",
			append(who.attrs(), slog.String("credential", refusal.Credential),
				slog.String("fingerprint", string(refusal.Refused)), slog.String("reason", refusal.Reason))...)
	}
	return nil
}

// introduce notes what an Envoy calls itself.
func (n *node) introduce(says *corev3.Node) {
	n.id, n.cluster = clip(says.GetId()), clip(says.GetCluster())
	if v := says.GetUserAgentBuildVersion().GetVersion(); v != nil {
		n.version = formatVersion(v)
	}
}

// subscribe notes the names that a request adds and takes away, and returns
// those that are worth a line because nothing has them.
func (n *nodes) subscribe(s *stream, r request) []string {
	if r.all {
		for name := range s.names {
			if !slices.Contains(r.add, name) {
				delete(s.names, name)
			}
		}
	}
	for _, name := range r.remove {
		delete(s.names, name)
	}
	for _, name := range r.add {
		if credential, _ := envoy.SecretCredential(name); s.names[name] == nil {
			s.names[name] = &SecretStatus{Credential: credential}
		}
	}
	var strays []string
	for _, name := range slices.Concat(r.add, r.strange) {
		credential, ok := envoy.SecretCredential(name)
		name = clip(name)
		if ok && n.serves(credential) || n.strays[name] || len(n.strays) >= maxStrays {
			continue
		}
		n.strays[name] = true
		strays = append(strays, name)
	}
	return strays
}

// forgetStrays makes names that nothing has worth a line again.
func (n *nodes) forgetStrays() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.strays)
}

// deliver notes what is being sent.
func (n *nodes) deliver(id streamID, m message) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.streams[id]
	if s.open = append(s.open, m); len(s.open) > maxOpen {
		s.open = slices.Delete(s.open, 0, 1)
	}
	for _, secret := range m.secrets {
		n.pushes.WithLabelValues(secret.credential).Inc()
		if status := s.names[envoy.SecretName(secret.credential)]; status != nil {
			status.Sent = secret.fingerprint
		}
	}
}

// answer notes whether Envoy took what it was sent, and returns the refusals that
// are worth a line.
func (n *nodes) answer(s *stream, r request) []SecretStatus {
	i := slices.IndexFunc(s.open, func(m message) bool { return m.nonce == r.nonce })
	if i < 0 {
		return nil
	}
	answered := s.open[i].secrets
	s.open = slices.Delete(s.open, i, i+1)
	var fresh []SecretStatus
	for _, secret := range answered {
		status := s.names[envoy.SecretName(secret.credential)]
		switch {
		case r.refusal == nil && status != nil:
			status.Acknowledged, status.Refused, status.Reason = secret.fingerprint, "", ""
		case r.refusal != nil:
			n.nacks.WithLabelValues(secret.credential).Inc()
			refused := SecretStatus{Credential: secret.credential, Refused: secret.fingerprint, Reason: reasonOf(r.refusal, answered)}
			if status != nil {
				status.Refused, status.Reason = refused.Refused, refused.Reason
			}
			if n.firstNack(nack{node: s.node.id, credential: secret.credential, fingerprint: secret.fingerprint}) {
				fresh = append(fresh, refused)
			}
		}
	}
	return fresh
}

// status returns who is connected.
func (n *nodes) status() []NodeStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	of := map[node]*NodeStatus{}
	for _, id := range slices.SortedFunc(maps.Keys(n.streams), streamID.compare) {
		s := n.streams[id]
		if !s.asked {
			continue
		}
		status := of[s.node]
		if status == nil {
			status = &NodeStatus{Node: s.node.id, Cluster: s.node.cluster, Version: s.node.version, Peer: s.node.peer, Since: s.since}
			of[s.node] = status
		}
		if s.since.Before(status.Since) {
			status.Since = s.since
		}
		for _, secret := range s.names {
			status.Secrets = append(status.Secrets, *secret)
		}
	}
	list := make([]NodeStatus, 0, len(of))
	for _, status := range of {
		slices.SortStableFunc(status.Secrets, func(a, b SecretStatus) int { return strings.Compare(a.Credential, b.Credential) })
		list = append(list, *status)
	}
	slices.SortFunc(list, func(a, b NodeStatus) int {
		return cmp.Or(strings.Compare(a.Node, b.Node), strings.Compare(a.Cluster, b.Cluster), strings.Compare(a.Peer, b.Peer))
	})
	return list
}
