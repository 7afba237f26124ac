package caller

import (
	"fmt"
	"time"
)

// Reason says why a token was refused, or could not be judged. There are as many
// as there are errors and reasons below, so a reason may label a metric.
type Reason string

// Why a token could not be judged.
const (
	// ReasonKeys: the keys of its issuer cannot be had.
	ReasonKeys Reason = "caller_keys_unavailable"
	// ReasonIntrospection: its provider gives no answer that could be used.
	ReasonIntrospection Reason = "caller_introspection_unavailable"
	// ReasonLimited: its provider would be asked about too many unknown tokens.
	ReasonLimited Reason = "caller_introspection_limited"
)

// InvalidError refuses a token: the caller must bring another one. The errors
// of this type are those below, to be compared with [errors.Is].
type InvalidError struct {
	// Reason is for our own logs and metrics.
	Reason Reason
	// Description may be told to the caller. It is the same for every check
	// that comes before a signature has been found good.
	Description string
}

// Error implements error.
func (e *InvalidError) Error() string { return e.Description + " (" + string(e.Reason) + ")" }

// Undisclosed is the description of tokens whose reason is not told.
const Undisclosed = "token invalid"

// Refusals before the signature is known to be good, of tokens that the provider
// does not call active, and of tokens that no honest issuer makes.
var (
	// ErrMalformed: not a JWT in compact form, too long, or not strict.
	ErrMalformed = &InvalidError{"token_malformed", Undisclosed}
	// ErrType: another kind of JWT, or one with critical extensions.
	ErrType = &InvalidError{"token_type", Undisclosed}
	// ErrAlgorithm: an algorithm that is not allowed.
	ErrAlgorithm = &InvalidError{"token_algorithm", Undisclosed}
	// ErrIssuer: not the issuer's token.
	ErrIssuer = &InvalidError{"token_issuer", Undisclosed}
	// ErrKey: no key of the issuer can have signed it.
	ErrKey = &InvalidError{"token_key", Undisclosed}
	// ErrSignature: not signed by the key that it names.
	ErrSignature = &InvalidError{"token_signature", Undisclosed}
	// ErrClaims: a claim is missing, of the wrong type, or contradicts what the
	// provider says.
	ErrClaims = &InvalidError{"token_claims", Undisclosed}
	// ErrInactive: the provider says that the token is not active: expired,
	// revoked or none of its own.
	ErrInactive = &InvalidError{"token_inactive", Undisclosed}
)

// Refusals of genuine tokens.
var (
	// ErrExpired: exp has passed.
	ErrExpired = &InvalidError{"token_expired", "token expired"}
	// ErrNotYetValid: nbf or iat lies in the future.
	ErrNotYetValid = &InvalidError{"token_not_yet_valid", "token not yet valid"}
	// ErrAudience: meant for someone else.
	ErrAudience = &InvalidError{"token_audience", "token is for another audience"}
	// ErrBound: bound to a key that the caller would have to show.
	ErrBound = &InvalidError{"token_bound", "token is bound to a key"}
	// ErrRevoked: one of the [Revocations] covers it.
	ErrRevoked = &InvalidError{"token_revoked", "token revoked"}
)

// UnavailableError says that a token could not be judged, because of trouble of
// ours or of its provider. It is not the caller's fault.
type UnavailableError struct {
	// Reason is for our own logs and metrics.
	Reason Reason
	// RetryAfter is when asking again may help; zero means soon.
	RetryAfter time.Duration
	// Err is the cause. It holds no token.
	Err error
}

// Error implements error.
func (e *UnavailableError) Error() string {
	return fmt.Sprintf("caller's token cannot be judged: %v", e.Err)
}

// Unwrap returns the cause.
func (e *UnavailableError) Unwrap() error { return e.Err }
