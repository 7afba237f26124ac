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

// Subject is the caller's own token, which has been verified, on whose behalf a
// backend token is asked for. The zero value is nobody's.
type Subject struct {
	// Token is the caller's token.
	Token Secret
	// Expires is when it ends; zero if that is not known.
	Expires time.Time
}

// Request is what a request that passed the check is to be given.
type Request struct {
	// Attempt is the request's try, counted from 1; 0 means 1. A retried
	// request is not given a token that is as old as the one that was just
	// refused, if a fresh one may be had.
	Attempt int
	// Subject is the caller's token. A credential that asks in its own name
	// ignores it.
	Subject Subject
	// Bypass asks for a token that nobody else is given later, whatever the
	// credential's own mode.
	Bypass bool
}

// Token is a backend token as rebearer holds it. It is a value: copies are
// independent, and none may be changed.
type Token struct {
	// Value is what the backend sees after the scheme.
	Value Secret
	// Fingerprint is that of Value.
	Fingerprint Fingerprint
	// Generation counts the tokens of one key from 1; every new token is a
	// new generation. It is 0 for one that was fetched for a single request.
	Generation uint64
	// Requested is when the provider was asked for it. A token is newer than
	// a rejection only if it was requested after that rejection was seen.
	Requested time.Time
	// Issued is when the provider's answer arrived.
	Issued time.Time
	// Expires is when it must no longer be used. It is never zero in a token
	// that was issued.
	Expires time.Time
	// Provider is the name of the provider that issued it.
	Provider string
	// Subject is what [Use.Subject] is to be; empty for a token of our own.
	Subject string
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

// GrantRequest is what a [Source] is asked for.
type GrantRequest struct {
	// Subject is the caller's token on whose behalf the new one is asked for
	// (RFC 8693 subject_token, RFC 7523 assertion). Empty where the token is
	// our own.
	Subject Secret
	// Refresh is the refresh token that came with the last token of the same
	// key, if it still lives. It is to be used before a new grant is asked for;
	// where the provider no longer takes it, a new grant is.
	Refresh Secret
	// Client is Grant.Client of the answer that Refresh came with.
	Client int
}

// Grant is a provider's answer to a token request (RFC 6749 section 5.1).
type Grant struct {
	// AccessToken is the token. It is never empty in a Grant without error.
	AccessToken Secret
	// ExpiresIn is the lifetime that the provider states; zero means that it
	// states none, and the credential's default applies.
	ExpiresIn time.Duration
	// RefreshToken is the refresh token that came with it, or the one that was
	// used for it and stays good. Empty means none.
	RefreshToken Secret
	// RefreshExpiresIn is the lifetime that the provider states for it; zero
	// means that it states none, and the credential's default applies.
	RefreshExpiresIn time.Duration
	// Client tells which of the source's clients got the token, counted from 0.
	Client int
	// Provider is the name of the provider that issued it. Empty means the
	// credential's own.
	Provider string
}

// Source gets one new token from a provider. Implementations are safe for
// concurrent use, do not cache, and give up when ctx ends.
type Source interface {
	// Grant asks for one token. Its error is a [*PermanentError] or a
	// [*SubjectError] where the provider refused; any other is transient.
	Grant(ctx context.Context, request GrantRequest) (Grant, error)
	// Revoke voids an access or refresh token (RFC 7009) at the provider of the
	// client that got it. It returns errors.ErrUnsupported where the provider
	// cannot.
	Revoke(ctx context.Context, client int, token Secret) error
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

// SubjectError says that the provider refused the caller's own token, on whose
// behalf it was asked for another. It is the caller's trouble: the answer to the
// caller is 401. A Source wraps such failures in it.
type SubjectError struct {
	// Err is the cause. It holds no token and no secret.
	Err error
}

// Error implements error.
func (e *SubjectError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *SubjectError) Unwrap() error { return e.Err }
