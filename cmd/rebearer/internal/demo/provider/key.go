package provider

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// rsaBits is the least that RFC 7518 section 3.3 allows.
const rsaBits = 2048

// signingKey signs JWTs. It is a value and never changes.
type signingKey struct {
	jwk    jose.JSONWebKey
	signer jose.Signer
}

func newSigningKey(algorithm jose.SignatureAlgorithm) (signingKey, error) {
	var private crypto.Signer
	var err error
	switch algorithm {
	case jose.ES256:
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case jose.RS256:
		private, err = rsa.GenerateKey(rand.Reader, rsaBits)
	default:
		return signingKey{}, fmt.Errorf("algorithm %q is neither ES256 nor RS256", algorithm)
	}
	if err != nil {
		return signingKey{}, fmt.Errorf("making a key: %w", err)
	}
	key := signingKey{jwk: jose.JSONWebKey{
		Key: private, KeyID: randomText(), Algorithm: string(algorithm), Use: "sig",
	}}
	// RFC 9068 section 2.1 names the type.
	options := (&jose.SignerOptions{}).WithType("at+jwt")
	key.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key.jwk}, options)
	if err != nil {
		return signingKey{}, fmt.Errorf("making a signer: %w", err)
	}
	return key, nil
}

// public returns the key as it stands in the JWKS.
func (k signingKey) public() jose.JSONWebKey { return k.jwk.Public() }

// sign returns the claims as a compact JWT.
func (k signingKey) sign(claims any) (string, error) {
	token, err := jwt.Signed(k.signer).Claims(claims).Serialize()
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	return token, nil
}

// randomText returns text that cannot be guessed: a token, or an id.
func randomText() string { return rand.Text() }
