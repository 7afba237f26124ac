package config

import "slices"

// AuthMethod is how a client proves who it is, by the names that RFC 7591
// section 2 and RFC 8705 register.
type AuthMethod string

// The client authentication methods.
const (
	// ClientSecretBasic sends id and secret in the Authorization header.
	ClientSecretBasic AuthMethod = "client_secret_basic"
	// ClientSecretPost sends id and secret in the request body.
	ClientSecretPost AuthMethod = "client_secret_post"
	// ClientSecretJWT signs an assertion with the secret (OpenID Connect Core
	// section 9), so that the secret never travels.
	ClientSecretJWT AuthMethod = "client_secret_jwt"
	// PrivateKeyJWT signs an assertion with a private key (RFC 7523 section
	// 2.2).
	PrivateKeyJWT AuthMethod = "private_key_jwt"
	// TLSClientAuth presents a certificate (RFC 8705), one of an authority or
	// self-signed.
	TLSClientAuth AuthMethod = "tls_client_auth"
	// NoClientAuth proves nothing: what is shown beside it does.
	NoClientAuth AuthMethod = "none"
)

// authMethods are all of them.
func authMethods() []AuthMethod {
	return []AuthMethod{ClientSecretBasic, ClientSecretPost, ClientSecretJWT, PrivateKeyJWT, TLSClientAuth, NoClientAuth}
}

// Client is an OAuth client of ours at a provider.
type Client struct {
	// Provider is the name of the provider. Required.
	Provider string `yaml:"provider"`
	ClientIdentity
}

// ClientIdentity says who a client of ours is, and how it proves that. Each
// method has keys of its own; those of others are refused beside it. All files
// are read anew where they are used: a changed one needs no restart, and costs
// no token.
type ClientIdentity struct {
	// ID is the client's identifier. Required, unless auth_method is none.
	ID string `yaml:"id"`
	// AuthMethod is how the client proves who it is: client_secret_basic,
	// client_secret_post, client_secret_jwt, private_key_jwt, tls_client_auth,
	// or none where the grant alone proves enough: jwt_bearer, token_exchange,
	// refresh_token. Default client_secret_basic.
	AuthMethod AuthMethod `yaml:"auth_method"`
	// SecretFile is the file of the client's secret; see [ReadSecret].
	// Required by the three methods with a secret.
	SecretFile string `yaml:"secret_file" file:"secret"`
	// KeyFile is the file of the private key: PEM or a JWK for
	// private_key_jwt, PEM for tls_client_auth. Required by both.
	KeyFile string `yaml:"key_file" file:"key"`
	// KeyID is the "kid" of the assertions of private_key_jwt. Default that of
	// the JWK, and without one none.
	KeyID string `yaml:"key_id"`
	// Algorithm signs the assertions (RFC 7518, RFC 8037). Default HS256 for
	// client_secret_jwt, and for private_key_jwt what suits the key.
	Algorithm string `yaml:"algorithm"`
	// AssertionAudience is the "aud" of the assertions of client_secret_jwt
	// and private_key_jwt. Default the provider's issuer, or its token URL if
	// it has none.
	AssertionAudience string `yaml:"assertion_audience"`
	// CertFile is the PEM file of the certificate chain that tls_client_auth
	// presents. Required by it.
	CertFile string `yaml:"cert_file" file:"certificates"`
}

// clientKey is a key that belongs to some methods only.
type clientKey struct {
	name     string
	value    string
	methods  []AuthMethod
	required bool
}

func (c ClientIdentity) keys() []clientKey {
	return []clientKey{
		{"secret_file", c.SecretFile, []AuthMethod{ClientSecretBasic, ClientSecretPost, ClientSecretJWT}, true},
		{"key_file", c.KeyFile, []AuthMethod{PrivateKeyJWT, TLSClientAuth}, true},
		{"cert_file", c.CertFile, []AuthMethod{TLSClientAuth}, true},
		{"key_id", c.KeyID, []AuthMethod{PrivateKeyJWT}, false},
		{"algorithm", c.Algorithm, []AuthMethod{ClientSecretJWT, PrivateKeyJWT}, false},
		{"assertion_audience", c.AssertionAudience, []AuthMethod{ClientSecretJWT, PrivateKeyJWT}, false},
	}
}

func (c Client) check(r *report, at string, providers map[string]Provider) {
	lookUp(r, join(at, "provider"), "provider", c.Provider, providers)
	c.ClientIdentity.check(r, at)
}

func (c ClientIdentity) check(r *report, at string) {
	if c.AuthMethod != NoClientAuth {
		required(r, join(at, "id"), c.ID)
	}
	text(r, join(at, "id"), c.ID)
	if !slices.Contains(authMethods(), c.AuthMethod) {
		oneOf(r, join(at, "auth_method"), c.AuthMethod, authMethods()...)
		return // which keys belong to it cannot be told
	}
	for _, key := range c.keys() {
		here := join(at, key.name)
		belongs := slices.Contains(key.methods, c.AuthMethod)
		switch {
		case belongs && key.required && key.value == "":
			r.fail(here, "is required with auth_method: %s", c.AuthMethod)
		case !belongs && key.value != "":
			r.fail(here, "is not possible with auth_method: %s: it belongs to %s", c.AuthMethod, words(key.methods, "and"))
		default:
			text(r, here, key.value)
		}
	}
	switch {
	case c.Algorithm == "":
	case c.AuthMethod == ClientSecretJWT:
		oneOf(r, join(at, "algorithm"), c.Algorithm, "HS256", "HS384", "HS512")
	case c.AuthMethod == PrivateKeyJWT:
		oneOf(r, join(at, "algorithm"), c.Algorithm, asymmetricAlgorithms()...)
	}
}
