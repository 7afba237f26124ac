package oauth

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// AuthMethod is how a client shows who it is to an endpoint, by its registered
// name (RFC 7591 section 2, OpenID Connect Core section 9, RFC 8705 section 2).
type AuthMethod string

// The methods that are supported. rebearer never tries one after the other: a
// wrong guess counts as a failed login at some providers.
const (
	// ClientSecretBasic sends the secret in the Authorization header.
	ClientSecretBasic AuthMethod = "client_secret_basic"
	// ClientSecretPost sends the secret in the body.
	ClientSecretPost AuthMethod = "client_secret_post"
	// ClientSecretJWT sends an assertion whose MAC the secret makes.
	ClientSecretJWT AuthMethod = "client_secret_jwt"
	// PrivateKeyJWT sends an assertion that a private key signs (RFC 7523
	// section 2.2).
	PrivateKeyJWT AuthMethod = "private_key_jwt"
	// TLSClientAuth shows a certificate in the TLS handshake, and so does
	// SelfSignedTLSClientAuth: they differ in how the provider judges it.
	TLSClientAuth           AuthMethod = "tls_client_auth"
	SelfSignedTLSClientAuth AuthMethod = "self_signed_tls_client_auth"
	// None shows nothing. It is for grants whose assertion or subject token
	// says enough (RFC 7523 section 2.1).
	None AuthMethod = "none"
)

const (
	clientAssertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	// clientAssertionLife is long enough for a slow exchange, and short enough
	// that a stolen assertion is worth little.
	clientAssertionLife = time.Minute
)

// authenticate adds what shows who the client is to the header or form of a
// request to address. A certificate is shown by the connection; see
// [Client.exchanger].
func (c *Client) authenticate(address string, header http.Header, form url.Values) error {
	switch c.cfg.AuthMethod {
	case ClientSecretPost:
		secret, err := c.secret()
		if err != nil {
			return err
		}
		form.Set("client_secret", secret)
	case ClientSecretJWT, PrivateKeyJWT:
		assertion, err := c.assertion(address)
		if err != nil {
			return err
		}
		form.Set("client_assertion_type", clientAssertionType)
		form.Set("client_assertion", assertion)
	case TLSClientAuth, SelfSignedTLSClientAuth, None:
	default:
		secret, err := c.secret()
		if err != nil {
			return err
		}
		// Both are form-encoded before they are joined (RFC 6749 section 2.3.1).
		request := http.Request{Header: header}
		request.SetBasicAuth(url.QueryEscape(c.cfg.ID), url.QueryEscape(secret))
		return nil
	}
	if c.cfg.ID != "" {
		form.Set("client_id", c.cfg.ID)
	}
	return nil
}

// secret returns the client secret of now.
func (c *Client) secret() (string, error) {
	secret, err := c.cfg.Secret()
	if err != nil {
		return "", fmt.Errorf("client %q: secret: %w", c.cfg.ID, err)
	}
	return secret.Reveal(), nil
}

// assertion returns a new assertion of who the client is, for address (RFC 7523
// section 3).
func (c *Client) assertion(address string) (string, error) {
	signer, err := c.signer()
	if err != nil {
		return "", fmt.Errorf("client %q: %w", c.cfg.ID, err)
	}
	return sign(signer, c.provider.clock.now(), claims{
		Issuer: c.cfg.ID, Subject: c.cfg.ID, Lifetime: clientAssertionLife,
		Audience: cmp.Or(c.cfg.AssertionAudience, c.provider.audience(), address),
	})
}

// signer returns what signs the client's assertions.
func (c *Client) signer() (jose.Signer, error) {
	if c.cfg.AuthMethod == PrivateKeyJWT {
		return c.key.get()
	}
	secret, err := c.cfg.Secret()
	if err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	return secretSigner(secret, c.cfg.Algorithm, c.cfg.KeyID)
}
