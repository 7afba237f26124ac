package oauth

import (
	"errors"
	"fmt"
)

// Check reports a secret, key or certificate that the client could not use now.
// It reads the files, and asks nobody.
func (c *Client) Check() error {
	var err error
	switch {
	case c.key != nil:
		_, err = c.key.get()
	case c.tls != nil:
		_, err = c.tls.get()
	case c.cfg.AuthMethod != None:
		_, err = c.cfg.Secret()
	}
	if err != nil {
		return fmt.Errorf("client %q: %w", c.cfg.ID, err)
	}
	return nil
}

// Check reports a secret, key or certificate that the client or its assertions
// could not use now. It reads the files, and asks nobody.
func (s *TokenSource) Check() error {
	err := s.client.Check()
	if s.key == nil {
		return err
	}
	if _, bad := s.key.get(); bad != nil {
		err = errors.Join(err, fmt.Errorf("assertion: %w", bad))
	}
	return err
}
