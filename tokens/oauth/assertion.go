package oauth

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/rebearer/rebearer/tokens"
)

// claims are what an assertion says (RFC 7523 section 3).
type claims struct {
	Issuer, Subject, Audience string
	Lifetime                  time.Duration
	// Extra are further claims.
	Extra map[string]any
}

// sign returns an assertion made at now. Each has an identifier of its own,
// since a provider may take it once.
func sign(signer jose.Signer, now time.Time, c claims) (string, error) {
	all := map[string]any{}
	maps.Copy(all, c.Extra)
	maps.Copy(all, map[string]any{
		"iss": c.Issuer, "sub": c.Subject, "aud": c.Audience, "jti": rand.Text(),
		"iat": now.Unix(), "exp": now.Add(c.Lifetime).Unix(),
	})
	text, err := jwt.Signed(signer).Claims(all).Serialize()
	if err != nil {
		return "", fmt.Errorf("assertion: %w", err)
	}
	return text, nil
}

// newSigner returns what signs assertions with key.
func newSigner(algorithm jose.SignatureAlgorithm, key any, keyID string, options *jose.SignerOptions) (jose.Signer, error) {
	options = options.WithType("JWT")
	if keyID != "" {
		options = options.WithHeader("kid", keyID)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, options)
	if err != nil {
		return nil, fmt.Errorf("cannot sign: %w", err)
	}
	return signer, nil
}

var errShortSecret = errors.New("the secret is too short for its algorithm: " +
	"HS256 needs 32 bytes, HS384 48 and HS512 64 (RFC 7518 section 3.2)")

// secretSigner returns what signs with a client secret.
func secretSigner(secret tokens.Secret, algorithm, keyID string) (jose.Signer, error) {
	chosen := jose.HS256
	if algorithm != "" {
		chosen = jose.SignatureAlgorithm(algorithm)
	}
	least := map[jose.SignatureAlgorithm]int{jose.HS256: 32, jose.HS384: 48, jose.HS512: 64}[chosen]
	if len(secret.Reveal()) < least {
		return nil, errShortSecret
	}
	return newSigner(chosen, []byte(secret.Reveal()), keyID, &jose.SignerOptions{})
}

// secretAlgorithms returns the algorithms of secrets.
func secretAlgorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.HS256, jose.HS384, jose.HS512}
}

// checkAlgorithm reports an algorithm that is not known. Empty means a default.
func checkAlgorithm(name string, known []jose.SignatureAlgorithm) error {
	if name != "" && !slices.Contains(known, jose.SignatureAlgorithm(name)) {
		return fmt.Errorf("algorithm %q is none of %v", name, known)
	}
	return nil
}
