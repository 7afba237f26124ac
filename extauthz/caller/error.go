package caller

import (
	"fmt"
	"time"
)

// Reason says why a token was refused. There are as many as there are errors
// below, so a reason may label a metric.
type Reason string

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

// Refusals before the signature is known to be good, and of tokens that no
// honest issuer makes.
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
	// ErrClaims: a claim is missing or of the wrong type.
	ErrClaims = &InvalidError{"token_claims", Undisclosed}
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
)

// UnavailableError says that a token could not be judged, because the keys of
// its issuer cannot be had now. It is not the caller's fault.
type UnavailableError struct {
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
