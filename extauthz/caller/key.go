package caller

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"

	"github.com/rebearer/rebearer/tokens/oauth/strictjson"
)

const (
	// maxKeys bounds a key set, and with it the work of reading one.
	maxKeys = 100
	// maxCandidates bounds the signatures that are tried for one token: those
	// of keys that share a kid, or of all keys where the token names none.
	maxCandidates = 4

	// RSA keys below 2048 bits are too weak (RFC 7518 section 3.3), and far
	// above it they make verifying slow.
	minRSABits, maxRSABits = 2048, 8192
)

// key is a usable public key of an issuer.
type key struct {
	id         string // kid; empty if it has none
	thumbprint [32]byte
	algorithms []jose.SignatureAlgorithm // it may verify with these
	verifier   any                       // as go-jose wants it
}

// keys is one state of an issuer's key set. It does not change.
type keys struct {
	list   []*key
	known  map[[32]byte]struct{} // thumbprints
	listed int                   // keys in the set, those that cannot be used among them
}

// parseKeys reads a JSON Web Key Set (RFC 7517 section 5). Keys that cannot be
// used are left out, as that section asks.
func parseKeys(text []byte) (*keys, error) {
	members, err := strictjson.Parse(text)
	if err != nil {
		return nil, errors.New("not a JSON object")
	}
	var list []json.RawMessage
	if err := json.Unmarshal(members["keys"], &list); err != nil {
		return nil, errors.New("no list of keys")
	}
	if len(list) > maxKeys {
		return nil, fmt.Errorf("%d keys are more than %d", len(list), maxKeys)
	}
	set := &keys{known: map[[32]byte]struct{}{}, listed: len(list)}
	for _, text := range list {
		if k, ok := parseKey(text); ok {
			set.list = append(set.list, k)
			set.known[k.thumbprint] = struct{}{}
		}
	}
	return set, nil
}

// parseKey reads a JSON Web Key (RFC 7517 section 4) and reports whether it may
// verify signatures. A private key is not used: whoever publishes it has lost
// it.
func parseKey(text []byte) (*key, bool) {
	members, err := strictjson.Parse(text)
	if err != nil || !mayVerify(members) {
		return nil, false
	}
	id, ok := members.Text("kid")
	if !ok {
		return nil, false
	}
	pinned, ok := members.Text("alg")
	if !ok {
		return nil, false
	}
	var parsed jose.JSONWebKey
	if err := parsed.UnmarshalJSON(text); err != nil || !parsed.IsPublic() {
		return nil, false
	}
	k := &key{id: id, algorithms: algorithmsOf(parsed.Key), verifier: parsed.Key}
	if pinned != "" {
		k.algorithms = slices.DeleteFunc(k.algorithms, func(a jose.SignatureAlgorithm) bool { return string(a) != pinned })
	}
	if public, ok := parsed.Key.(*rsa.PublicKey); ok {
		k.verifier = rsaVerifier{public}
	}
	thumbprint, err := parsed.Thumbprint(crypto.SHA256)
	if err != nil || len(k.algorithms) == 0 {
		return nil, false
	}
	copy(k.thumbprint[:], thumbprint)
	return k, true
}

// mayVerify reports whether a key's use and key_ops (RFC 7517 sections 4.2 and
// 4.3) allow to verify signatures with it.
func mayVerify(members strictjson.Object) bool {
	use, ok := members.Text("use")
	if !ok || members.Has("use") && use != "sig" {
		return false
	}
	operations, ok := members.Texts("key_ops")
	return ok && (!members.Has("key_ops") || slices.Contains(operations, "verify"))
}

// algorithmsOf returns the algorithms that fit a public key (RFC 7518 section
// 3.1, RFC 8037 section 3.1): none for a key that is too weak.
func algorithmsOf(public any) []jose.SignatureAlgorithm {
	switch public := public.(type) {
	case *rsa.PublicKey:
		if bits := public.N.BitLen(); bits < minRSABits || bits > maxRSABits || public.E < 3 || public.E%2 == 0 {
			return nil
		}
		return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}
	case *ecdsa.PublicKey:
		switch public.Params().BitSize {
		case 256:
			return []jose.SignatureAlgorithm{jose.ES256}
		case 384:
			return []jose.SignatureAlgorithm{jose.ES384}
		case 521:
			return []jose.SignatureAlgorithm{jose.ES512}
		}
	case ed25519.PublicKey:
		return []jose.SignatureAlgorithm{jose.EdDSA}
	}
	return nil
}

// candidates returns the keys that may have signed a token, a few at most, and
// whether any key has the kid that the token names.
func (s *keys) candidates(keyID string, algorithm jose.SignatureAlgorithm) (found []*key, known bool) {
	for _, k := range s.list {
		if keyID != "" && k.id != keyID {
			continue
		}
		known = true
		if slices.Contains(k.algorithms, algorithm) && len(found) < maxCandidates {
			found = append(found, k)
		}
	}
	return found, known
}

// has reports whether a key is still in the set.
func (s *keys) has(thumbprint [32]byte) bool { _, ok := s.known[thumbprint]; return ok }

// rsaVerifier verifies as RFC 7518 sections 3.3 and 3.5 say. It implements
// [jose.OpaqueVerifier], because go-jose itself takes PSS signatures with a salt
// of any length.
type rsaVerifier struct{ public *rsa.PublicKey }

// VerifyPayload implements [jose.OpaqueVerifier].
func (v rsaVerifier) VerifyPayload(payload, signature []byte, algorithm jose.SignatureAlgorithm) error {
	sum := func(h crypto.Hash) []byte {
		digest := h.New()
		_, _ = digest.Write(payload)
		return digest.Sum(nil)
	}
	pss := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}
	switch algorithm {
	case jose.RS256:
		return rsa.VerifyPKCS1v15(v.public, crypto.SHA256, sum(crypto.SHA256), signature)
	case jose.RS384:
		return rsa.VerifyPKCS1v15(v.public, crypto.SHA384, sum(crypto.SHA384), signature)
	case jose.RS512:
		return rsa.VerifyPKCS1v15(v.public, crypto.SHA512, sum(crypto.SHA512), signature)
	case jose.PS256:
		return rsa.VerifyPSS(v.public, crypto.SHA256, sum(crypto.SHA256), signature, pss)
	case jose.PS384:
		return rsa.VerifyPSS(v.public, crypto.SHA384, sum(crypto.SHA384), signature, pss)
	case jose.PS512:
		return rsa.VerifyPSS(v.public, crypto.SHA512, sum(crypto.SHA512), signature, pss)
	}
	return jose.ErrUnsupportedAlgorithm
}
