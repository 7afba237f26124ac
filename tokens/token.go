package tokens

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"time"
)

// Secret is text that must never be printed: a token or a client secret.
// Every way of formatting, logging or encoding it shows "[redacted]";
// [Secret.Reveal] is the one way to the text.
type Secret string

const redacted = "[redacted]"

// Reveal returns the text itself. Call it only where the text goes onto the
// wire to the party it is meant for.
func (s Secret) Reveal() string { return string(s) }

// String implements [fmt.Stringer] without the text.
func (Secret) String() string { return redacted }

// Format implements [fmt.Formatter], so that no verb shows the text.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue implements [slog.LogValuer] without the text.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements [encoding.TextMarshaler] without the text.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Fingerprint is the start of a token's SHA-256 in hexadecimal: the only form
// of a token that logs, metrics, pages and events show. The zero value means
// that no token is known.
type Fingerprint string

// fingerprintBytes is long enough that two living tokens never share one, and
// short enough that nobody mistakes it for a token.
const fingerprintBytes = 8

// FingerprintOf returns the fingerprint of a token. The fingerprint of the
// empty text is the zero value.
func FingerprintOf(value string) Fingerprint {
	if value == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(value))
	return Fingerprint(hex.EncodeToString(sum[:fingerprintBytes]))
}

// Token is a backend token as rebearer holds it. It is a value: copies are
// independent, and none may be changed.
type Token struct {
	// Value is what the backend sees after the scheme.
	Value Secret
	// Fingerprint is that of Value.
	Fingerprint Fingerprint
	// Generation counts the tokens of one key from 1; every new token is a
	// new generation.
	Generation uint64
	// Requested is when the provider was asked for it. A token is newer than
	// a rejection only if it was requested after that rejection was seen.
	Requested time.Time
	// Issued is when the provider's answer arrived.
	Issued time.Time
	// Expires is when it must no longer be used. It is never zero in a token
	// that was issued.
	Expires time.Time
}

// aliveAt reports whether the token may still be handed out.
func (t Token) aliveAt(now time.Time) bool { return t.Value != "" && now.Before(t.Expires) }

// LogValue implements [slog.LogValuer] with the generation and fingerprint.
func (t Token) LogValue() slog.Value {
	return slog.GroupValue(
		slog.Uint64("generation", t.Generation),
		slog.String("fingerprint", string(t.Fingerprint)),
	)
}

// Grant is a provider's answer to a token request (RFC 6749 section 5.1).
type Grant struct {
	// AccessToken is the token. It is never empty in a Grant without error.
	AccessToken Secret
	// ExpiresIn is the lifetime that the provider states; zero means that it
	// states none, and the credential's default applies.
	ExpiresIn time.Duration
}

// Source gets one new token from a provider. Implementations are safe for
// concurrent use, do not cache, and give up when ctx ends.
type Source interface {
	Grant(ctx context.Context) (Grant, error)
}

// UnavailableError says that no backend token can be had now, and when asking
// again may help. It is trouble of ours or of the provider, never the caller's:
// the answer to the caller is 503.
type UnavailableError struct {
	// Credential is the name of the credential.
	Credential string
	// RetryAfter is how long to wait before asking again; zero means at once.
	RetryAfter time.Duration
	// Err is the cause. It holds no token and no secret.
	Err error
}

// Error implements error.
func (e *UnavailableError) Error() string {
	return fmt.Sprintf("no token for credential %q: %v", e.Credential, e.Err)
}

// Unwrap returns the cause.
func (e *UnavailableError) Unwrap() error { return e.Err }

// PermanentError marks a failure of a token request that asking again soon
// cannot mend: the provider understood the request and refused it (RFC 6749
// section 5.2, such as invalid_client). A Source wraps such failures in it.
type PermanentError struct {
	// Err is the cause. It holds no token and no secret.
	Err error
}

// Error implements error.
func (e *PermanentError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *PermanentError) Unwrap() error { return e.Err }
