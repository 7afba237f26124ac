package extauthz

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

var errHost = errors.New("the policy does not serve this host")

// hosts are the hosts that a policy serves, in lower case: exact ones, and
// suffixes that begin with a dot. None at all means every host.
type hosts struct{ exact, suffixes []string }

// newHosts reads host patterns: a name or an IP address (IPv6 in brackets),
// without a port, or "*." before a name, which stands for one label or more.
func newHosts(patterns []string) (hosts, error) {
	var h hosts
	for _, pattern := range patterns {
		name := strings.ToLower(pattern)
		suffix, wild := strings.CutPrefix(name, "*")
		switch {
		case wild && strings.HasPrefix(suffix, ".") && isName(suffix[1:]):
			h.suffixes = append(h.suffixes, suffix)
		case !wild && isHost(name):
			h.exact = append(h.exact, name)
		default:
			return hosts{}, fmt.Errorf("host %q cannot be matched", pattern)
		}
	}
	return h, nil
}

// serve reports whether a request's authority, as Envoy gives it, is one of the
// hosts. Its port says nothing about whom the request is for.
func (h hosts) serve(authority string) bool {
	if len(h.exact)+len(h.suffixes) == 0 {
		return true
	}
	host := strings.ToLower(withoutPort(authority))
	return isHost(host) && (slices.Contains(h.exact, host) || slices.ContainsFunc(h.suffixes, func(suffix string) bool {
		return len(host) > len(suffix) && strings.HasSuffix(host, suffix)
	}))
}

// withoutPort cuts the port off an authority.
func withoutPort(authority string) string {
	colon := strings.LastIndexByte(authority, ':')
	if colon < 0 || strings.ContainsFunc(authority[colon+1:], func(r rune) bool { return r < '0' || r > '9' }) {
		return authority
	}
	return authority[:colon]
}

// isHost reports whether text, in lower case, is a name or an IP address: nothing
// that another reader could part differently.
func isHost(text string) bool {
	if inner, ok := strings.CutPrefix(text, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		return ok && inner != "" && strings.Trim(inner, "0123456789abcdef:.") == ""
	}
	return isName(text)
}

// isName reports whether text, in lower case, is labels that are not empty.
func isName(text string) bool {
	for label := range strings.SplitSeq(text, ".") {
		if label == "" || strings.ContainsFunc(label, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
		}) {
			return false
		}
	}
	return true
}
