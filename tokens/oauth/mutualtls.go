package oauth

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
)

// errPair says what is wrong with a certificate and its key. The names of the
// files stand before it.
var errPair = errors.New("are no PEM certificate chain and the private key of its first certificate: " +
	"write both files anew, the key unencrypted")

// watchCertificate returns what carries requests over connections that show the
// certificate in certFile (RFC 8705 section 2). A changed certificate is shown
// from the next request on: it comes with connections of its own.
func (p *Provider) watchCertificate(certFile, keyFile string) *watchedFiles[*http.Client] {
	var last *http.Transport
	return &watchedFiles[*http.Client]{
		names: []string{certFile, keyFile},
		parse: func(contents [][]byte) (*http.Client, error) {
			pair, err := tls.X509KeyPair(contents[0], contents[1])
			if err != nil {
				return nil, errPair
			}
			if last != nil {
				last.CloseIdleConnections()
			}
			last = p.transport.Clone()
			// Not Certificates, of which only one that the provider's list of
			// authorities names is shown: that list may be wrong, and a
			// self-signed one is in none.
			last.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return &pair, nil
			}
			return p.newAnswers(last), nil
		},
	}
}

// mutualTLSEndpoint is [Provider.Endpoint] for clients that show a certificate:
// the metadata may name other URLs for them (RFC 8705 section 5).
func (p *Provider) mutualTLSEndpoint(ctx context.Context, endpoint Endpoint) (string, error) {
	if p.configured[endpoint] == "" && p.issuer != "" {
		if found, err := p.metadata.get(ctx); err == nil && found[mutualTLSAlias(endpoint)] != "" {
			return found[mutualTLSAlias(endpoint)], nil
		}
	}
	return p.Endpoint(ctx, endpoint)
}

// mutualTLSAlias is the name under which [endpoints] have the URL of an endpoint
// for clients that show a certificate.
func mutualTLSAlias(endpoint Endpoint) Endpoint { return "mtls_endpoint_aliases." + endpoint }
