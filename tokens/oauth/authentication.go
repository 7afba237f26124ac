package oauth

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/rebearer/rebearer/tokens"
)

// AuthMethod is how a client shows its secret to an endpoint, by its registered
// name (RFC 7591 section 2).
type AuthMethod string

// The methods that are supported. rebearer never tries one after the other: a
// wrong guess counts as a failed login at some providers.
const (
	// ClientSecretBasic sends the secret in the Authorization header.
	ClientSecretBasic AuthMethod = "client_secret_basic"
	// ClientSecretPost sends the secret in the body.
	ClientSecretPost AuthMethod = "client_secret_post"
)

// Client is our client at a provider, and how it shows who it is (RFC 6749
// section 2.3).
type Client struct {
	// ID is the client identifier.
	ID string
	// Secret returns the client secret. It is called for every request, so that
	// a rotated secret is used at once.
	Secret func() (tokens.Secret, error)
	// AuthMethod is how the secret is shown. Empty means ClientSecretBasic.
	AuthMethod AuthMethod
}

// validate returns the client with its defaults, or what would make every
// request of it fail.
func (c Client) validate() (Client, error) {
	if c.AuthMethod == "" {
		c.AuthMethod = ClientSecretBasic
	}
	switch {
	case c.ID == "":
		return c, errors.New("no client id")
	case c.Secret == nil:
		return c, errors.New("no secret")
	case c.AuthMethod != ClientSecretBasic && c.AuthMethod != ClientSecretPost:
		return c, fmt.Errorf("unknown auth method %q", c.AuthMethod)
	}
	return c, nil
}

// secret returns the client secret of now.
func (c Client) secret() (tokens.Secret, error) {
	secret, err := c.Secret()
	if err != nil {
		return "", fmt.Errorf("client %q: secret: %w", c.ID, err)
	}
	return secret, nil
}

// authenticate adds what shows who the client is to a request's header or form.
func (c Client) authenticate(header http.Header, form url.Values) error {
	secret, err := c.secret()
	if err != nil {
		return err
	}
	if c.AuthMethod == ClientSecretPost {
		form.Set("client_id", c.ID)
		form.Set("client_secret", secret.Reveal())
		return nil
	}
	// Both are form-encoded before they are joined (RFC 6749 section 2.3.1).
	request := http.Request{Header: header}
	request.SetBasicAuth(url.QueryEscape(c.ID), url.QueryEscape(secret.Reveal()))
	return nil
}
