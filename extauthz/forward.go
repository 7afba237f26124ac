package extauthz

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/rebearer/rebearer/extauthz/caller"
)

// maxForwarded bounds the value of a header that tells who calls, in bytes.
const maxForwarded = 8 << 10

var errUnforwardable = errors.New("the token holds what cannot be told to the backend")

// Forward says in which request headers the backend is told who calls. An empty
// name means that it is not told. What a token does not have is not told either;
// the caller's own headers of these names never get through, to whichever policy
// he talks.
//
// A value is percent-encoded (RFC 3986 section 2.1) but for visible ASCII other
// than % and the comma, so that every text has one spelling and stays one value.
// Several values of a claim are parted by commas, scopes by spaces. Text with
// control characters, or a value over 8 KiB, is refused.
type Forward struct {
	// Subject is the header of the sub claim.
	Subject string
	// Client is the header of the client id.
	Client string
	// Scopes is the header of all scopes of the token.
	Scopes string
	// Claims are further claims with their headers. Objects are not told. The
	// verifier must be told to keep the claims.
	Claims map[string]string
	// Token is the header of the caller's token itself. It may be
	// authorization, where Bearer goes before it, if the backend token goes
	// elsewhere.
	Token string
}

// withDefaults returns a copy whose names are in lower case.
func (f Forward) withDefaults() Forward {
	f.Subject, f.Client = strings.ToLower(f.Subject), strings.ToLower(f.Client)
	f.Scopes, f.Token = strings.ToLower(f.Scopes), strings.ToLower(f.Token)
	claims := make(map[string]string, len(f.Claims))
	for claim, header := range f.Claims {
		claims[claim] = strings.ToLower(header)
	}
	f.Claims = claims
	return f
}

// headers returns the names of all headers, sorted.
func (f Forward) headers() []string {
	names := []string{f.Subject, f.Client, f.Scopes, f.Token}
	for _, header := range f.Claims {
		names = append(names, header)
	}
	names = slices.DeleteFunc(names, func(name string) bool { return name == "" })
	slices.Sort(names)
	return names
}

// validate reports headers that mean something else. given is the one of the
// backend token.
func (f Forward) validate(given string) error {
	names := f.headers()
	for i, name := range names {
		if err := (Header{Name: name}).validate(); err != nil {
			return err
		}
		switch {
		case name == given, name == cookie, name == authorization && f.Token != authorization:
			return fmt.Errorf("header %q is in use", name)
		case i > 0 && names[i-1] == name:
			return fmt.Errorf("header %q is given twice", name)
		}
	}
	for claim, header := range f.Claims {
		if claim == "" || header == "" {
			return fmt.Errorf("claim %q has no name or no header", claim)
		}
	}
	return nil
}

// tell appends the headers that tell who calls.
func (f *Forward) tell(set []*corev3.HeaderValueOption, who *caller.Identity, token string) ([]*corev3.HeaderValueOption, error) {
	var err error
	add := func(header, separator string, values ...string) {
		value, ok := encode(values, separator)
		switch {
		case header == "" || value == "":
		case !ok:
			err = errUnforwardable
		default:
			set = append(set, overwrite(header, value))
		}
	}
	add(f.Subject, "", who.Subject)
	add(f.Client, "", who.ClientID)
	add(f.Scopes, " ", who.Scopes...)
	for claim, header := range f.Claims {
		add(header, ",", claimTexts(who.Claims[claim])...)
	}
	if err != nil || f.Token == "" || token == "" {
		return set, err
	}
	if !isVisible(token) {
		return set, errUnforwardable
	}
	if f.Token == authorization {
		token = bearer + " " + token
	}
	return append(set, overwrite(f.Token, token)), nil
}

// encode joins values in the form that [Forward] describes.
func encode(values []string, separator string) (text string, ok bool) {
	const hex = "0123456789ABCDEF"
	ok = true
	var b strings.Builder
	for i, value := range values {
		if i > 0 {
			b.WriteString(separator)
		}
		for _, c := range []byte(value) {
			switch {
			case c < ' ', c == 0x7f:
				ok = false
			case c == ' ', c > '~', c == '%', c == ',':
				b.Write([]byte{'%', hex[c>>4], hex[c&15]})
				continue
			}
			b.WriteByte(c)
		}
	}
	return b.String(), ok && b.Len() <= maxForwarded
}

// isVisible reports whether text is visible ASCII, and not empty.
func isVisible(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}

// overwrite sets a header, whatever the caller sent: appended, his own value
// would reach the backend.
func overwrite(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{
		Header:       &corev3.HeaderValue{Key: name, Value: value},
		AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}
