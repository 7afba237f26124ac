package config

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"time"
	"unicode"
)

// Rules that several sections share. Each reports to r what is wrong with the
// value at a path.

// namePattern matches the names of providers, callers, credentials and
// policies: they travel in routes, paths and metric labels.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// nameRule is namePattern in words.
const nameRule = "must be at most 64 letters, digits, dots, underscores and hyphens, and start with a letter or digit"

// name returns the path of a named entry, and reports a name that is not
// possible.
func (r *report) name(section, name string) string {
	at := join(section, printable(name))
	if !namePattern.MatchString(name) {
		r.fail(at, "the name %s", nameRule)
	}
	return at
}

// required reports text that is missing.
func required(r *report, at, value string) {
	if value == "" {
		r.fail(at, "is required")
	}
}

// text reports control characters, which no protocol carries.
func text(r *report, at, value string) {
	if strings.ContainsFunc(value, unicode.IsControl) {
		r.fail(at, "holds control characters")
	}
}

// list reports entries that are empty, repeated or not printable.
func (r *report) list(at string, values []string) {
	seen := make(map[string]bool, len(values))
	for i, value := range values {
		switch {
		case value == "":
			r.fail(item(at, i), "is empty")
		case seen[value]:
			r.fail(item(at, i), "%s is there already", quote(value))
		}
		text(r, item(at, i), value)
		seen[value] = true
	}
}

// lookUp returns what a name stands for, and reports a name that stands for
// nothing.
func lookUp[V any](r *report, at, kind, name string, known map[string]V) (V, bool) {
	value, ok := known[name]
	switch {
	case name == "":
		r.fail(at, "is required: name a %s", kind)
	case !ok:
		unknown(r, at, kind, name, known)
	}
	return value, ok && name != ""
}

// positive reports a duration that is zero.
func positive(r *report, at string, value time.Duration) {
	if value <= 0 {
		r.fail(at, "must be more than 0s")
	}
}

// within reports a number outside of its bounds.
func within[N time.Duration | int64](r *report, at string, value, least, most N) {
	if value < least || value > most {
		r.fail(at, "%v is not possible: it must be from %v to %v", value, least, most)
	}
}

// words lists values in a sentence: "a, b or c".
func words[V any](values []V, last string) string {
	var out strings.Builder
	for i, v := range values {
		switch {
		case i > 0 && i == len(values)-1:
			out.WriteString(" " + last + " ")
		case i > 0:
			out.WriteString(", ")
		}
		fmt.Fprint(&out, v)
	}
	return out.String()
}

// syntaxOf returns what is wrong with a regular expression.
func syntaxOf(err error) string {
	var bad *syntax.Error
	if errors.As(err, &bad) {
		return string(bad.Code) + ": " + quote(bad.Expr)
	}
	return "it cannot be read"
}

// item is the path of a list's entry.
func item(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// unused returns the names of a map that are not in use, in order.
func unused[V any](all map[string]V, inUse map[string]bool) []string {
	var names []string
	for name := range sorted(all) {
		if !inUse[name] {
			names = append(names, name)
		}
	}
	return names
}
