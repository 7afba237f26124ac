package oauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth/strictjson"
)

// ClientConfig says who a [Client] is, and how it shows that (RFC 6749 section
// 2.3).
type ClientConfig struct {
	// ID is the client identifier. It may be empty only with None.
	ID string
	// AuthMethod is how the client shows who it is. Empty means
	// ClientSecretBasic.
	AuthMethod AuthMethod
	// Secret returns the client secret, for the methods that have one. It is
	// called for every request, so that a rotated secret is used at once.
	Secret func() (tokens.Secret, error)
	// KeyFile names the file of a private key, for PrivateKeyJWT: a PEM block
	// or a JSON Web Key; and for the TLS methods: a PEM block. It is read for
	// every request, so that a rotated key is used at once. Where it holds the
	// certificate of the key too, assertions name that (x5t#S256).
	KeyFile string
	// CertFile names the PEM file of the certificate chain that belongs to
	// KeyFile, for the TLS methods. It is read as KeyFile is.
	CertFile string
	// KeyID is the kid of assertions. Empty means that of the JSON Web Key, or
	// none.
	KeyID string
	// Algorithm is the JWS algorithm of assertions. Empty means that of the
	// JSON Web Key, or else what suits the key: RS256, ES256, ES384, ES512 or
	// EdDSA; and HS256 for a secret.
	Algorithm string
	// AssertionAudience is the audience of assertions. Empty means the
	// provider's issuer identifier, or else its token endpoint.
	AssertionAudience string
}

// Client is our client at a provider. It shows who it is in the same way to
// every endpoint. It is safe for concurrent use and caches no token.
type Client struct {
	provider *Provider
	cfg      ClientConfig
	key      *watchedFiles[jose.Signer]  // PrivateKeyJWT only
	tls      *watchedFiles[*http.Client] // TLS methods only
}

// NewClient checks cfg. It asks the provider nothing, and reads no file: one
// that cannot be used is an error of the request that needs it.
func NewClient(provider *Provider, cfg ClientConfig) (*Client, error) {
	if cfg.AuthMethod == "" {
		cfg.AuthMethod = ClientSecretBasic
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("client %q: %w", cfg.ID, err)
	}
	c := &Client{provider: provider, cfg: cfg}
	switch cfg.AuthMethod {
	case PrivateKeyJWT:
		c.key = watchKey(cfg.KeyFile, cfg.Algorithm, cfg.KeyID)
	case TLSClientAuth, SelfSignedTLSClientAuth:
		c.tls = provider.watchCertificate(cfg.CertFile, cfg.KeyFile)
	default:
	}
	return c, nil
}

// validate reports what would make every request fail.
func (c ClientConfig) validate() error {
	if c.ID == "" && c.AuthMethod != None {
		return errors.New("no client id")
	}
	switch c.AuthMethod {
	case ClientSecretBasic, ClientSecretPost, ClientSecretJWT:
		if c.Secret == nil {
			return errors.New("no secret")
		}
	case PrivateKeyJWT:
		if c.KeyFile == "" {
			return errors.New("no key file")
		}
	case TLSClientAuth, SelfSignedTLSClientAuth:
		if c.KeyFile == "" || c.CertFile == "" {
			return errors.New("no certificate file, or no key file")
		}
	case None:
	default:
		return fmt.Errorf("unknown auth method %q", c.AuthMethod)
	}
	known := keyAlgorithms()
	if c.AuthMethod == ClientSecretJWT {
		known = secretAlgorithms()
	}
	return checkAlgorithm(c.Algorithm, known)
}

// endpoint returns the URL of an endpoint for this client.
func (c *Client) endpoint(ctx context.Context, endpoint Endpoint) (string, error) {
	if c.tls != nil {
		return c.provider.mutualTLSEndpoint(ctx, endpoint)
	}
	return c.provider.Endpoint(ctx, endpoint)
}

// exchanger returns what carries the client's requests.
func (c *Client) exchanger() (*http.Client, error) {
	if c.tls == nil {
		return c.provider.answers, nil
	}
	exchanger, err := c.tls.get()
	if err != nil {
		return nil, fmt.Errorf("client %q: %w", c.cfg.ID, err)
	}
	return exchanger, nil
}

// answer is what an endpoint sent.
type answer struct {
	status int
	header http.Header
	body   []byte // cut short where it could not be read and the status is not 200
}

// post sends a form to address and returns the answer, whatever its status.
func (c *Client) post(ctx context.Context, address string, form url.Values) (answer, error) {
	exchanger, err := c.exchanger()
	if err != nil {
		return answer{}, err
	}
	header := http.Header{}
	if err := c.authenticate(address, header, form); err != nil {
		return answer{}, err
	}
	header.Set("Content-Type", "application/x-www-form-urlencoded")
	header.Set("Accept", "application/json")
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(form.Encode()))
	if err != nil {
		return answer{}, errors.New("not a URL that can be asked")
	}
	request.Header = header
	response, err := exchanger.Do(request)
	if err != nil {
		return answer{}, exchangeError(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil && response.StatusCode == http.StatusOK {
		return answer{}, exchangeError(err)
	}
	return answer{status: response.StatusCode, header: response.Header, body: body}, nil
}

// code returns the error code that the answer states; it may be any text.
func (a answer) code() string {
	members, err := strictjson.Parse(a.body)
	if err != nil {
		return ""
	}
	code, _ := members.Text("error")
	return code
}

// refused returns the answer, which is not a success, as an error.
func (a answer) refused() error {
	return refusal(&ResponseError{
		Status: a.status, Code: knownCode(a.code()), retryAfter: retryAfter(a.header, time.Now()),
	})
}
