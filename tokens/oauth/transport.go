package oauth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"time"
)

// idleTimeout closes idle connections soon enough that a provider that moved
// to another address is found by DNS.
const idleTimeout = 30 * time.Second

// newTransport returns a transport that trusts the certificates in caFile, or
// the system's when it is empty.
func newTransport(caFile string) (*http.Transport, error) {
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file: no certificate in %s", caFile)
		}
	}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{KeepAlive: idleTimeout}).DialContext,
		TLSClientConfig:        settings,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: answerLimit,
	}, nil
}

// newClient returns a client that follows no redirect and reads at most limit
// bytes of an answer. A redirect is returned as the answer it is: following it
// would hand the client secret to whoever it points to.
func newClient(transport http.RoundTripper, timeout time.Duration, limit int64) *http.Client {
	return &http.Client{
		Transport:     cappedTransport{next: transport, limit: limit},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       timeout,
	}
}

// cappedTransport fails the reading of bodies larger than limit. It stands
// outside the transport that decompresses, so that it counts what is read.
type cappedTransport struct {
	next  http.RoundTripper
	limit int64
}

// RoundTrip implements [http.RoundTripper].
func (t cappedTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := t.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	response.Body = http.MaxBytesReader(nil, response.Body, t.limit)
	return response, nil
}

// headerTransport adds a header to the requests of a client that cannot.
type headerTransport struct {
	next   http.RoundTripper
	header http.Header
}

// RoundTrip implements [http.RoundTripper].
func (t headerTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.Clone(request.Context())
	maps.Copy(request.Header, t.header)
	return t.next.RoundTrip(request)
}

var errBroken = errors.New("the connection broke, or the answer is not HTTP")

// exchangeError reduces the error of an HTTP exchange to what may be logged.
// Some errors of net/http quote what the other side sent, so only kinds that
// are known not to are passed on.
func exchangeError(err error) error {
	var (
		tooLarge    *http.MaxBytesError
		certificate *tls.CertificateVerificationError
		record      tls.RecordHeaderError
		dns         *net.DNSError
		operation   *net.OpError
		network     net.Error
	)
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.As(err, &tooLarge):
		return fmt.Errorf("the answer is larger than %d bytes", tooLarge.Limit)
	case errors.As(err, &certificate):
		return certificate
	case errors.As(err, &record):
		return errors.New("the other side does not speak TLS")
	case errors.As(err, &dns):
		return dns
	case errors.As(err, &operation):
		return operation
	case errors.As(err, &network) && network.Timeout():
		return fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)
	}
	return errBroken
}
