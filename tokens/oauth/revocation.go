package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/rebearer/rebearer/tokens"
)

// Revoke asks the provider to void an access or refresh token that this client
// got (RFC 7009). It blocks until ctx ends or the provider's timeout at most. A
// token that the provider does not know is revoked already: no error.
//
// The error wraps [errors.ErrUnsupported] where the provider has no revocation
// endpoint or does not revoke tokens of this kind, [tokens.PermanentError] where
// it refused for another reason, and is transient otherwise.
func (c *Client) Revoke(ctx context.Context, token tokens.Secret) error {
	address, err := c.endpoint(ctx, RevocationEndpoint)
	if err != nil {
		return err
	}
	// There is no token_type_hint: the provider must look further than the hint
	// anyway, and we revoke tokens of both types.
	answer, err := c.post(ctx, address, url.Values{"token": {token.Reveal()}})
	if err == nil {
		err = answer.revocation()
	}
	if err != nil {
		return fmt.Errorf("provider %q: revocation at %s: %w", c.provider.name, address, err)
	}
	return nil
}

// revocation reads an answer to a revocation. Its body says nothing (RFC 7009
// section 2.2).
func (a answer) revocation() error {
	switch {
	case a.status == http.StatusOK, a.status == http.StatusNoContent:
		return nil
	case a.code() == unsupportedTokenType:
		return fmt.Errorf("%w: %w", errors.ErrUnsupported, &ResponseError{Status: a.status, Code: unsupportedTokenType})
	}
	return a.refused()
}
