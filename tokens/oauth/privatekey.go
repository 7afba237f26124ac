package oauth

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// What is wrong with a file of a key, and what to do. The name of the file
// stands before it.
var (
	errNoKey = errors.New("holds no private key: " +
		"give a PEM block (PKCS #8, PKCS #1 or SEC 1) or a JSON Web Key (RFC 7517)")
	errBadKey       = errors.New("holds a damaged private key, or one of an unknown kind: export it again as PKCS #8")
	errPublicKey    = errors.New("holds a public key: give the private one")
	errEncryptedKey = errors.New("holds an encrypted key: decrypt it, and let only rebearer read the file")
	errKeyKind      = errors.New("holds a key that cannot sign here: " +
		"give an RSA key of 2048 bits or more (RFC 7518 section 3.3), one of P-256, P-384 or P-521, or an Ed25519 key")
	errKeyAlgorithm = errors.New("holds a key that does not fit the algorithm: change either")
)

// minRSABits is the least size of an RSA key (RFC 7518 section 3.3).
const minRSABits = 2048

// parsePrivateKey reads a private key that signs, with its certificate if there
// is one: the first of a PEM file, or a JSON Web Key.
func parsePrivateKey(text []byte) (jose.JSONWebKey, error) {
	parse := parsePEM
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		parse = parseJWK
	}
	key, err := parse(text)
	if err != nil {
		return jose.JSONWebKey{}, err
	}
	if len(algorithmsOf(key.Key)) == 0 {
		return jose.JSONWebKey{}, errKeyKind
	}
	return key, nil
}

// parseJWK reads a JSON Web Key.
func parseJWK(text []byte) (jose.JSONWebKey, error) {
	var key jose.JSONWebKey
	switch err := json.Unmarshal(text, &key); {
	case errors.Is(err, jose.ErrUnsupportedKeyType):
		return key, errKeyKind
	case err != nil:
		return key, errBadKey
	case key.IsPublic():
		return key, errPublicKey
	}
	return key, nil
}

// parsePEM reads the first private key of a PEM file, and its certificate if it
// is there too. Other blocks, such as the parameters of a curve, are skipped.
func parsePEM(text []byte) (jose.JSONWebKey, error) {
	var key jose.JSONWebKey
	var certificates []*x509.Certificate
	missing := errNoKey
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
			return key, errEncryptedKey
		case strings.HasSuffix(block.Type, "PUBLIC KEY"):
			missing = errPublicKey
		case block.Type == "CERTIFICATE":
			if certificate, err := x509.ParseCertificate(block.Bytes); err == nil {
				certificates = append(certificates, certificate)
			}
		case strings.HasSuffix(block.Type, "PRIVATE KEY") && key.Key == nil:
			var err error
			if key.Key, err = parseKeyBlock(block); err != nil {
				return key, errBadKey
			}
		}
	}
	if key.Key == nil {
		return key, missing
	}
	signer, ok := key.Key.(crypto.Signer)
	if !ok {
		return key, errKeyKind
	}
	key.Certificates = slices.DeleteFunc(certificates, func(c *x509.Certificate) bool {
		public, ok := c.PublicKey.(interface {
			Equal(other crypto.PublicKey) bool
		})
		return !ok || !public.Equal(signer.Public())
	})
	return key, nil
}

// parseKeyBlock reads a PEM block of a private key.
func parseKeyBlock(block *pem.Block) (any, error) {
	switch block.Type {
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	}
	return x509.ParsePKCS8PrivateKey(block.Bytes)
}

// algorithmsOf returns the algorithms that a private key can sign with, its
// default first; none for a key that cannot be used.
func algorithmsOf(key any) []jose.SignatureAlgorithm {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		if key.N.BitLen() >= minRSABits {
			return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}
		}
	case *ecdsa.PrivateKey:
		switch key.Curve {
		case elliptic.P256():
			return []jose.SignatureAlgorithm{jose.ES256}
		case elliptic.P384():
			return []jose.SignatureAlgorithm{jose.ES384}
		case elliptic.P521():
			return []jose.SignatureAlgorithm{jose.ES512}
		}
	case ed25519.PrivateKey:
		return []jose.SignatureAlgorithm{jose.EdDSA}
	}
	return nil
}

// keyAlgorithms returns the algorithms of private keys.
func keyAlgorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
		jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
	}
}

// watchKey returns what signs with the key in a file. An empty algorithm or
// keyID means that of the key.
func watchKey(file, algorithm, keyID string) *watchedFiles[jose.Signer] {
	return &watchedFiles[jose.Signer]{
		names: []string{file},
		parse: func(contents [][]byte) (jose.Signer, error) {
			key, err := parsePrivateKey(contents[0])
			if err != nil {
				return nil, err
			}
			return keySigner(key, algorithm, keyID)
		},
	}
}

// keySigner returns what signs with key.
func keySigner(key jose.JSONWebKey, algorithm, keyID string) (jose.Signer, error) {
	possible := algorithmsOf(key.Key)
	chosen := cmp.Or(jose.SignatureAlgorithm(algorithm), jose.SignatureAlgorithm(key.Algorithm), possible[0])
	if !slices.Contains(possible, chosen) {
		return nil, errKeyAlgorithm
	}
	options := &jose.SignerOptions{}
	if len(key.Certificates) > 0 {
		// Some providers know a key by its certificate only (RFC 7515 section 4.1.8).
		sum := sha256.Sum256(key.Certificates[0].Raw)
		options = options.WithHeader("x5t#S256", base64.RawURLEncoding.EncodeToString(sum[:]))
	}
	return newSigner(chosen, key.Key, cmp.Or(keyID, key.KeyID), options)
}
