package main

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rebearer/rebearer/envoy/envoytest"
)

// Envoy reaches rebearer over TLS with certificates on both sides, for every kind
// of call. An Envoy whose certificate has another name gets no token out of it,
// and rebearer says so.
func TestMutualTLS(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		ca, folder := newAuthority(t), t.TempDir()
		file := func(name string) string { return filepath.Join(folder, name) }
		certify := func(name, dnsName string) {
			key := newKey(t)
			write(t, file(name+".key"), pemOfKey(t, key))
			write(t, file(name+".pem"), pemOfCertificate(ca.certify(t, x509.Certificate{DNSNames: []string{dnsName}}, key)))
		}
		write(t, file("ca.pem"), pemOfCertificate(ca.cert))
		certify("rebearer", "rebearer.example")
		certify("envoy", "envoy.example")
		s := newStack(t, newest(), stackOptions{
			way: w,
			grpc: fmt.Sprintf("tls: {cert_file: %q, key_file: %q, client_ca_file: %q}, peers: [envoy.example]",
				file("rebearer.pem"), file("rebearer.key"), file("ca.pem")),
			envoyKeys: fmt.Sprintf("tls: {ca_file: %q, cert_file: %q, key_file: %q, server_name: rebearer.example}",
				file("ca.pem"), file("envoy.pem"), file("envoy.key")),
		})
		s.awaitPushed(t, "orders")
		s.ask(t).want(t, http.StatusOK)
		s.restart(t)
		s.ask(t).want(t, http.StatusOK)

		certify("envoy", "other.example")
		reached := s.api.Counts().Requests
		s.url = "http://" + envoytest.Start(t, newest(), s.bootstrap).Address(t, "rebearer_outer")
		await(t, "rebearer to refuse", func() bool {
			s.ask(t).want(t, http.StatusServiceUnavailable)
			return strings.Contains(s.logs.String(), "other.example")
		})
		if more := s.api.Counts().Requests - reached; more > 0 {
			t.Errorf("%d requests reached the backend", more)
		}
		s.checkLogs(t)
	})
}
