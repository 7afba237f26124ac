package extauthz

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	authorization = "authorization"
	cookie        = "cookie"
	bearer        = "Bearer"
)

// Place is where the caller's token is read from: one header, or one cookie, and
// never the query, which ends up in logs and in Referer headers (RFC 9700
// section 4.3.2). The zero value is authorization with the scheme Bearer.
type Place struct {
	// Header is the header's name. Empty means authorization, unless Cookie is
	// set.
	Header string
	// Scheme stands before the token, parted by a space, compared without
	// regard to case. Empty means Bearer in authorization, and elsewhere that
	// the token stands alone.
	Scheme string
	// Cookie is the cookie's name, compared exactly. Whatever comes of the
	// request, a backend does not see this cookie.
	Cookie string
}

// validate checks a place and fills in its defaults.
func (p Place) validate() (Place, error) {
	if p.Cookie != "" {
		if p.Header != "" || p.Scheme != "" || !isToken(p.Cookie) {
			return p, fmt.Errorf("token from cookie %q: not a cookie's name, or beside a header", p.Cookie)
		}
		return p, nil
	}
	if p.Header == "" {
		p.Header = authorization
	}
	p.Header = strings.ToLower(p.Header)
	if p.Header == authorization && p.Scheme == "" {
		p.Scheme = bearer
	}
	if p.Header == cookie {
		return p, errors.New("token from header cookie: name the cookie")
	}
	if err := (Header{Name: p.Header, Scheme: p.Scheme}).validate(); err != nil {
		return p, fmt.Errorf("token from header: %w", err)
	}
	return p, nil
}

// read returns the caller's token, and for a cookie the pairs of the cookie
// header without it. Another scheme, or the scheme alone, is no token. A comma
// is in no token: it means that several values were joined, of which none is
// taken.
func (p Place) read(r request) (token, otherCookies string, err error) {
	if p.Cookie != "" {
		token, otherCookies, err = p.readCookie(r)
	} else {
		token, err = p.readHeader(r)
	}
	switch {
	case err != nil:
		return "", "", err
	case token == "":
		return "", otherCookies, errNoToken
	case strings.Contains(token, ","):
		return "", "", errRepeated
	}
	return token, otherCookies, nil
}

func (p Place) readHeader(r request) (string, error) {
	value, count := r.header(p.Header)
	if count > 1 {
		return "", errRepeated
	}
	if p.Scheme == "" {
		return strings.Trim(value, " "), nil
	}
	scheme, rest, _ := strings.Cut(value, " ")
	if !strings.EqualFold(scheme, p.Scheme) {
		return "", nil
	}
	return strings.Trim(rest, " "), nil
}

// readCookie reads cookie headers (RFC 6265 section 4.2.1). HTTP/2 allows
// several of them.
func (p Place) readCookie(r request) (token, others string, err error) {
	var kept []string
	found := false
	for value := range r.headers(cookie) {
		for pair := range strings.SplitSeq(value, ";") {
			pair = strings.Trim(pair, " \t")
			name, content, _ := strings.Cut(pair, "=")
			switch {
			case strings.Trim(name, " \t") == p.Cookie && found, p.hidden(pair):
				return "", "", errRepeated
			case strings.Trim(name, " \t") == p.Cookie:
				found, token = true, strings.Trim(content, ` "`)
			case isSendable(pair):
				kept = append(kept, pair)
			}
		}
	}
	return token, strings.Join(kept, "; "), nil
}

// isSendable reports whether a cookie can be sent on in a message of ours.
func isSendable(pair string) bool {
	return pair != "" && utf8.ValidString(pair) && !strings.ContainsFunc(pair, unicode.IsControl)
}

// hidden reports a cookie header that was joined to another by a comma so that
// ours is within a value.
func (p Place) hidden(pair string) bool {
	pieces := strings.Split(pair, ",")
	return slices.ContainsFunc(pieces[1:], func(piece string) bool {
		return strings.HasPrefix(strings.Trim(piece, " \t"), p.Cookie+"=")
	})
}
