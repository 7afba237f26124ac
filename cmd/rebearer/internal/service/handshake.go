package service

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/credentials"
)

// handshakeInterval is the least time between two log lines about handshakes.
const handshakeInterval = 10 * time.Second

// handshakes are transport credentials that tell of peers that get nowhere. To
// callers rebearer then looks as if it were down, and gRPC says nothing.
type handshakes struct {
	credentials.TransportCredentials

	log    *slog.Logger
	say    *rate.Sometimes
	failed prometheus.Counter
}

// watchHandshakes has the failed ones logged and counted.
func watchHandshakes(secure credentials.TransportCredentials, log *slog.Logger, metrics prometheus.Registerer) (credentials.TransportCredentials, error) {
	h := &handshakes{
		TransportCredentials: secure, log: log,
		say: &rate.Sometimes{First: 1, Interval: handshakeInterval},
		failed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rebearer_tls_handshakes_failed_total",
			Help: "Connections to server.grpc that failed: a certificate, the peer's or ours, is not what the other side wants.",
		}),
	}
	return h, metrics.Register(h.failed)
}

// ServerHandshake implements [credentials.TransportCredentials].
func (h *handshakes) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := h.TransportCredentials.ServerHandshake(raw)
	if err != nil && !errors.Is(err, io.EOF) { // a probe that only connects
		h.failed.Inc()
		h.say.Do(func() {
			h.log.Warn("a TLS connection to server.grpc failed: an Envoy may get no token",
				slog.String("peer", raw.RemoteAddr().String()), slog.Any("error", err))
		})
	}
	return conn, info, err
}

// Clone implements [credentials.TransportCredentials].
func (h *handshakes) Clone() credentials.TransportCredentials {
	c := *h
	c.TransportCredentials = h.TransportCredentials.Clone()
	return &c
}
