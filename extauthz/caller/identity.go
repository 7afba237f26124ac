package caller

import (
	"slices"
	"strings"
	"time"

	"github.com/rebearer/rebearer/tokens"
)

// Identity is who calls, as a verified token says. It is a value that many
// requests share: nothing that it refers to may be changed.
type Identity struct {
	// Issuer is the configured issuer, which the token names.
	Issuer string
	// Subject is the sub claim; it may be empty where ClientID is not.
	Subject string
	// ClientID is the client_id claim (RFC 9068), or else azp.
	ClientID string
	// Scopes are those of the scope claim, or else of scp.
	Scopes Scopes
	// Claims has those claims that the verifier was told to keep and the token
	// has, as encoding/json decodes them, but numbers as [json.Number]. It is
	// nil where there are none.
	Claims map[string]any
	// JTI is the token's own name; empty if it has none.
	JTI string
	// IssuedAt is the iat claim; zero if there is none.
	IssuedAt time.Time
	// Expires is the exp claim, without the clock skew. It is zero only for a
	// token without a stated end, which its provider is asked about.
	Expires time.Time

	fingerprint tokens.Fingerprint
}

// Fingerprint tells callers apart without naming them. It is the same for all
// tokens of a caller.
func (i Identity) Fingerprint() tokens.Fingerprint { return i.fingerprint }

// named reports whether it is known who calls.
func (i Identity) named() bool { return i.Subject != "" || i.ClientID != "" }

// identify computes the fingerprint of an issuer's caller. Neither issuers nor
// accepted subjects hold control characters, so the parts cannot be confused.
func identify(issuer, subject, clientID string) tokens.Fingerprint {
	if subject == "" {
		return tokens.FingerprintOf(issuer + "\x00\x00" + clientID)
	}
	return tokens.FingerprintOf(issuer + "\x00" + subject)
}

// Scopes is a set of scopes (RFC 6749 section 3.3): sorted, and each once.
type Scopes []string

// newScopes reads lists of scopes that are parted by spaces.
func newScopes(lists []string) Scopes {
	scopes := strings.Fields(strings.Join(lists, " "))
	slices.Sort(scopes)
	return slices.Compact(scopes)
}

// Has reports whether scope is in the set.
func (s Scopes) Has(scope string) bool {
	_, found := slices.BinarySearch(s, scope)
	return found
}

// and returns the scopes that are in both sets.
func (s Scopes) and(other Scopes) Scopes {
	if slices.Equal(s, other) {
		return s
	}
	both := Scopes{}
	for _, scope := range s {
		if other.Has(scope) {
			both = append(both, scope)
		}
	}
	return both
}
