package caller

import (
	"time"

	"github.com/rebearer/rebearer/tokens"
)

// Identity is who calls, as a verified token says. It is a value that many
// requests share: its Scopes must not be changed.
type Identity struct {
	// Issuer is the iss claim, which is the configured issuer.
	Issuer string
	// Subject is the sub claim; it may be empty where ClientID is not.
	Subject string
	// ClientID is the client_id claim (RFC 9068), or else azp.
	ClientID string
	// Scopes are those of the scope claim, or else of scp.
	Scopes []string
	// Expires is the exp claim, without the clock skew.
	Expires time.Time

	fingerprint tokens.Fingerprint
}

// Fingerprint tells callers apart without naming them. It is the same for all
// tokens of a caller.
func (i Identity) Fingerprint() tokens.Fingerprint { return i.fingerprint }

// identify computes the fingerprint of an issuer's caller. Neither issuers nor
// accepted subjects hold control characters, so the parts cannot be confused.
func identify(issuer, subject, clientID string) tokens.Fingerprint {
	if subject == "" {
		return tokens.FingerprintOf(issuer + "\x00\x00" + clientID)
	}
	return tokens.FingerprintOf(issuer + "\x00" + subject)
}
