package rejection

import "strings"

// Challenge is one challenge of a WWW-Authenticate field (RFC 9110 section
// 11.6.1).
type Challenge struct {
	// Scheme is the authentication scheme as sent. It is empty where a server
	// sent parameters without one.
	Scheme string
	// Token68 is the token68 form of the challenge's data, if it has that form.
	Token68 string
	// Params are the parameters by name in lower case; of several with one
	// name, the first.
	Params map[string]string
}

// What is read of the fields at most; the rest is ignored.
const (
	maxFieldBytes = 8 << 10
	maxChallenges = 32
	maxParams     = 64
)

// ParseChallenges reads the challenges of all WWW-Authenticate field lines. It
// accepts what servers really send beyond the grammar: parameters separated by
// spaces, values that lack their quotes, parameters without a scheme. What
// cannot be read is skipped.
func ParseChallenges(fields []string) []Challenge {
	var all []Challenge
	for _, field := range fields {
		p := parser{rest: field[:min(len(field), maxFieldBytes)]}
		p.run()
		all = append(all, p.challenges...)
		if len(all) >= maxChallenges {
			return all[:maxChallenges]
		}
	}
	return all
}

// parser reads one field line.
type parser struct {
	rest       string
	challenges []Challenge
}

func (p *parser) run() {
	for len(p.challenges) <= maxChallenges {
		p.skip(" \t,")
		if p.rest == "" {
			return
		}
		name := p.token()
		switch {
		case name == "":
			p.junk()
		case p.equals():
			p.param(name, p.value())
		default:
			p.challenges = append(p.challenges, Challenge{Scheme: name, Token68: p.token68(), Params: map[string]string{}})
		}
	}
}

// skip drops leading bytes of the given set.
func (p *parser) skip(set string) { p.rest = strings.TrimLeft(p.rest, set) }

// take cuts n bytes off.
func (p *parser) take(n int) string {
	s := p.rest[:n]
	p.rest = p.rest[n:]
	return s
}

// token reads a token (RFC 9110 section 5.6.2), or nothing.
func (p *parser) token() string {
	n := 0
	for n < len(p.rest) && isTokenByte(p.rest[n]) {
		n++
	}
	return p.take(n)
}

func isTokenByte(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// equals reads "=" with white space around it, or nothing.
func (p *parser) equals() bool {
	after := strings.TrimLeft(p.rest, " \t")
	if !strings.HasPrefix(after, "=") {
		return false
	}
	p.rest = strings.TrimLeft(after[1:], " \t")
	return true
}

// value reads a quoted-string or, leniently, everything up to the next comma or
// white space.
func (p *parser) value() string {
	if strings.HasPrefix(p.rest, `"`) {
		return p.quoted()
	}
	n := strings.IndexAny(p.rest, ", \t")
	if n < 0 {
		n = len(p.rest)
	}
	return p.take(n)
}

// quoted reads a quoted-string (RFC 9110 section 5.6.4). One that is not closed
// ends with the field.
func (p *parser) quoted() string {
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '"':
			p.take(i + 1)
			return b.String()
		case c == '\\' && i+1 < len(p.rest):
			i++
			b.WriteByte(p.rest[i])
		default:
			b.WriteByte(c)
		}
	}
	p.rest = ""
	return b.String()
}

// token68 reads the token68 form of a challenge's data: the only thing between
// the scheme and the next comma or the end. It reads nothing otherwise.
func (p *parser) token68() string {
	data := strings.TrimLeft(p.rest, " \t")
	if len(data) == len(p.rest) { // at least one space goes before
		return ""
	}
	n := 0
	for n < len(data) && (isTokenByte(data[n]) || data[n] == '/') {
		n++
	}
	body := n
	for n < len(data) && data[n] == '=' {
		n++
	}
	after := strings.TrimLeft(data[n:], " \t")
	if body == 0 || after != "" && after[0] != ',' {
		return ""
	}
	p.rest = after
	return data[:n]
}

// param adds a parameter to the last challenge.
func (p *parser) param(name, value string) {
	if len(p.challenges) == 0 {
		p.challenges = append(p.challenges, Challenge{Params: map[string]string{}})
	}
	params := p.challenges[len(p.challenges)-1].Params
	name = strings.ToLower(name)
	if _, twice := params[name]; !twice && len(params) < maxParams {
		params[name] = value
	}
}

// junk skips what no rule reads: to the next comma or white space, and at least
// one byte.
func (p *parser) junk() {
	if strings.HasPrefix(p.rest, `"`) {
		p.quoted()
		return
	}
	n := strings.IndexAny(p.rest[1:], ", \t")
	if n < 0 {
		n = len(p.rest) - 1
	}
	p.take(n + 1)
}
