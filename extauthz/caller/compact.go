package caller

import (
	"encoding/base64"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/rebearer/rebearer/tokens/oauth/strictjson"
)

const (
	// maxTokenBytes bounds a token before anything is decoded.
	maxTokenBytes = 16 << 10
	// maxKeyIDBytes bounds a kid, because unknown ones are remembered.
	maxKeyIDBytes = 1 << 10
)

// compact is a token in the compact form (RFC 7515 section 7.1) whose shape and
// header are good. Nothing of it is verified.
type compact struct {
	text      string
	payload   []byte // decoded
	algorithm jose.SignatureAlgorithm
	keyID     string // empty if the header has no kid
}

// parseCompact checks everything about a token that needs no key.
func parseCompact(text string) (compact, error) {
	header, payload, ok := split(text)
	if !ok {
		return compact{}, ErrMalformed
	}
	members, err := strictjson.Parse(header)
	if err != nil {
		return compact{}, ErrMalformed
	}
	algorithm, isText := members.Text("alg")
	if !isText {
		return compact{}, ErrMalformed
	}
	keyID, isText := members.Text("kid")
	if !isText || members.Has("kid") && keyID == "" || len(keyID) > maxKeyIDBytes {
		return compact{}, ErrMalformed
	}
	if err := checkKind(members); err != nil {
		return compact{}, err
	}
	return compact{
		text: text, payload: payload, algorithm: jose.SignatureAlgorithm(algorithm), keyID: keyID,
	}, nil
}

// checkKind accepts JWTs that may be access tokens (RFC 9068 section 4, RFC
// 8725 section 3.11) and asks for nothing that we do not do.
func checkKind(header strictjson.Object) error {
	kind, isText := header.Text("typ")
	if !isText {
		return ErrMalformed
	}
	switch strings.ToLower(kind) {
	case "jwt", "at+jwt", "application/at+jwt":
	case "":
		if header.Has("typ") {
			return ErrType
		}
	default:
		return ErrType
	}
	// We understand no critical extension; b64 and zip change what is signed or
	// read, with crit or without.
	if header.Has("crit") || header.Has("b64") || header.Has("zip") {
		return ErrType
	}
	return nil
}

// split cuts a token at its two dots and decodes it. Every part is base64url
// without padding, line breaks (which decoders tend to skip) or bits left over
// in its last character: a token has one spelling.
func split(text string) (header, payload []byte, ok bool) {
	if len(text) > maxTokenBytes {
		return nil, nil, false
	}
	first, rest, _ := strings.Cut(text, ".")
	second, third, _ := strings.Cut(rest, ".")
	if slices.ContainsFunc([]string{first, second, third}, func(part string) bool {
		return part == "" || strings.ContainsFunc(part, notBase64URL)
	}) {
		return nil, nil, false
	}
	strict := base64.RawURLEncoding.Strict()
	header, errHeader := strict.DecodeString(first)
	payload, errPayload := strict.DecodeString(second)
	_, errSignature := strict.DecodeString(third)
	return header, payload, errHeader == nil && errPayload == nil && errSignature == nil
}

func notBase64URL(r rune) bool {
	switch {
	case 'A' <= r && r <= 'Z', 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '-', r == '_':
		return false
	}
	return true
}

// claims parses the payload, verified or not.
func (c compact) claims() (strictjson.Object, error) {
	members, err := strictjson.Parse(c.payload)
	if err != nil {
		return nil, ErrMalformed
	}
	return members, nil
}

// signedBy returns the first of the keys that signed the token, if any did.
func (c compact) signedBy(keys []*key) *key {
	parsed, err := jose.ParseSignedCompact(c.text, []jose.SignatureAlgorithm{c.algorithm})
	if err != nil {
		return nil
	}
	i := slices.IndexFunc(keys, func(k *key) bool {
		_, err := parsed.Verify(k.verifier)
		return err == nil
	})
	if i < 0 {
		return nil
	}
	return keys[i]
}
