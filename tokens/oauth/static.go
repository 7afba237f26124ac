package oauth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rebearer/rebearer/tokens"
)

var (
	errNoToken      = errors.New("holds no token")
	errTokenTooLong = fmt.Errorf("holds more than a token of %d bytes", maxTokenBytes)
	errNotVisible   = errors.New("holds something else than one token: visible ASCII characters without white space")
)

// StaticToken is a bearer token that somebody else puts into a file: an API key,
// or a token that another program renews. It implements [tokens.Source] and is
// safe for concurrent use.
//
// The file is read for every token that is asked for: every few minutes, since
// nobody states an end, and when a backend refused it. A key that was rotated is
// so picked up at once where the old one is dead, and soon where it still lives.
type StaticToken struct {
	file watchedFiles[tokens.Secret]
}

// staticLife is how long a token from a file is used before the file is read
// again.
const staticLife = 5 * time.Minute

// NewStaticToken returns a source of the token in the named file: one line of
// visible ASCII characters. That is more than a b64token (RFC 6750 section 2.1),
// because the backends that want such a key often take it in another header or
// scheme. It reads nothing yet.
func NewStaticToken(name string) (*StaticToken, error) {
	if name == "" {
		return nil, errors.New("static token: no file")
	}
	return &StaticToken{file: watchedFiles[tokens.Secret]{names: []string{name}, parse: readStatic}}, nil
}

// Grant reads the token. Its errors are transient: whoever writes the file may be
// about to.
func (s *StaticToken) Grant(context.Context, tokens.GrantRequest) (tokens.Grant, error) {
	token, err := s.file.get()
	if err != nil {
		return tokens.Grant{}, fmt.Errorf("static token: %w", err)
	}
	return tokens.Grant{AccessToken: token, ExpiresIn: staticLife}, nil
}

// Revoke returns [errors.ErrUnsupported]: no provider is known.
func (*StaticToken) Revoke(context.Context, int, tokens.Secret) error {
	return errors.ErrUnsupported
}

// readStatic reads the content of a token's file.
func readStatic(contents [][]byte) (tokens.Secret, error) {
	text := bytes.TrimSpace(contents[0])
	switch {
	case len(text) == 0:
		return "", errNoToken
	case len(text) > maxTokenBytes:
		return "", errTokenTooLong
	}
	for _, c := range text {
		if c <= ' ' || c > '~' {
			return "", errNotVisible
		}
	}
	return tokens.Secret(text), nil
}
