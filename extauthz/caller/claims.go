package caller

import (
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rebearer/rebearer/tokens/oauth/strictjson"
)

// claims are what is said about a token, by the token itself or by its
// provider, read and not yet judged.
type claims struct {
	members   strictjson.Object
	issuer    string
	audiences []string
	subject   string
	clientID  string
	jti       string
	scopes    Scopes // nil if nothing is said about them
	issued    time.Time
	validity  validity
}

// validity is when a token is good.
type validity struct {
	expires   time.Time // zero if it has no end
	notBefore time.Time // the later of nbf and iat; zero if it has neither
}

// readClaims reports false if one of the claims that it knows has another type
// than RFC 7519 section 4.1, RFC 8693 section 4 or RFC 7662 section 2.2 say.
func readClaims(members strictjson.Object) (claims, bool) {
	said, good := claims{members: members}, true
	text := func(name string) string {
		value, ok := members.Text(name)
		good = good && ok
		return value
	}
	date := func(name string) time.Time {
		value, ok := members.Date(name)
		good = good && ok
		return value
	}
	texts := func(name string) []string {
		value, ok := members.Texts(name)
		good = good && ok
		return value
	}
	said.issuer, said.subject, said.jti = text("iss"), text("sub"), text("jti")
	said.clientID = text(either(members, "client_id", "azp"))
	said.audiences = texts("aud")
	if scope := either(members, "scope", "scp"); members.Has(scope) {
		said.scopes = newScopes(texts(scope))
	}
	said.issued = date("iat")
	said.validity = validity{expires: date("exp"), notBefore: date("nbf")}
	if said.issued.After(said.validity.notBefore) {
		said.validity.notBefore = said.issued
	}
	return said, good
}

// either returns first if there is a member of that name, and second otherwise.
func either(members strictjson.Object, first, second string) string {
	if members.Has(first) {
		return first
	}
	return second
}

// otherKind reports whether the claims say that this is no access token.
// Neither of them is standardised: typ is Keycloak's, token_use that of Cognito
// and Hydra. Where both are missing, nothing tells an ID token apart whose
// audience is ours.
func (c claims) otherKind() bool {
	for _, name := range []string{"typ", "token_use"} {
		kind, _ := c.members.Text(name)
		switch strings.ToLower(kind) {
		case "id", "id_token", "refresh", "refresh_token", "offline", "logout":
			return true
		}
	}
	return false
}

// isName reports whether text may name a caller: without control characters,
// and without the mark that stands for text that could not be read.
func isName(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool {
		return r < ' ' || r == 0x7f || r == utf8.RuneError
	})
}
