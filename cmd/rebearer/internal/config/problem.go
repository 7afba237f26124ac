package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"
)

// maxProblems bounds how many problems one error tells.
const maxProblems = 50

// position is a place in the file, counted from 1. The zero value means that
// no place is known.
type position struct{ line, column int }

// problem is one thing that is wrong with the file.
type problem struct {
	file string
	at   position
	text string
}

// Error is "file:line:column: text", as compilers write it.
func (p *problem) Error() string {
	if p.at.line == 0 {
		return p.file + ": " + p.text
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.file, p.at.line, p.at.column, p.text)
}

// failAt returns a problem whose file is filled in later.
func failAt(at position, format string, args ...any) error {
	return &problem{at: at, text: fmt.Sprintf(format, args...)}
}

// report collects the problems of one file.
type report struct {
	file string
	// positions are the places of the paths that the file holds.
	positions map[string]position
	problems  []*problem
	// dropped counts the problems above maxProblems.
	dropped int
}

// add records a problem at a place.
func (r *report) add(at position, format string, args ...any) {
	if r.full() {
		r.dropped++
		return
	}
	r.problems = append(r.problems, &problem{r.file, at, fmt.Sprintf(format, args...)})
}

// fail records a problem of the value at path, such as "server.grpc.address".
func (r *report) fail(path, format string, args ...any) {
	r.add(r.locate(path), "%s: %s", path, fmt.Sprintf(format, args...))
}

// full says that more problems are only counted.
func (r *report) full() bool { return len(r.problems) >= maxProblems }

// err returns all problems in the order of the file, or nil.
func (r *report) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(r.problems, func(a, b *problem) int {
		if a.at.line != b.at.line {
			return a.at.line - b.at.line
		}
		return a.at.column - b.at.column
	})
	errs := make([]error, 0, len(r.problems)+1)
	for _, p := range r.problems {
		errs = append(errs, p)
	}
	if r.dropped > 0 {
		errs = append(errs, fmt.Errorf("%s: and %d more", r.file, r.dropped))
	}
	return errors.Join(errs...)
}

// has says that the file holds a path.
func (r *report) has(path string) bool {
	_, ok := r.positions[path]
	return ok
}

// locate returns the place of a path. What the file does not hold is looked
// for in the defaults, then in what is around it.
func (r *report) locate(path string) position {
	for path != "" {
		if at, ok := r.positions[path]; ok {
			return at
		}
		if at, ok := r.locateDefault(path); ok {
			return at
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return position{1, 1}
}

// locateDefault returns the place of a credential's value in the defaults. The
// name of the credential may hold dots itself, so every dot is tried.
func (r *report) locateDefault(path string) (position, bool) {
	rest, found := strings.CutPrefix(path, "credentials.")
	for found {
		_, rest, found = strings.Cut(rest, ".")
		if at, ok := r.positions["defaults.credential."+rest]; ok && found {
			return at, true
		}
	}
	return position{}, false
}

// unknown records that nothing of a kind has the name that stands at path.
func unknown[V any](r *report, path, kind, name string, known map[string]V) {
	if r.full() {
		r.dropped++
		return
	}
	names := make([]string, 0, len(known))
	for n := range sorted(known) {
		names = append(names, n)
	}
	r.fail(path, "no %s is called %s%s", kind, quote(name), didYouMean(name, names))
}

// oneOf records a value that is not one of those allowed.
func oneOf[S ~string](r *report, path string, value S, allowed ...S) {
	if slices.Contains(allowed, value) {
		return
	}
	words := make([]string, 0, len(allowed))
	for _, a := range allowed {
		words = append(words, string(a))
	}
	must := "one of " + strings.Join(words, ", ")
	if len(words) == 1 {
		must = words[0]
	}
	r.fail(path, "%s is not possible: it must be %s%s", quote(string(value)), must, didYouMean(string(value), words))
}

// didYouMean returns "; did you mean "word"?" for the nearest candidate, or
// nothing if none is near.
func didYouMean(word string, candidates []string) string {
	const longest = 64 // the distance costs the product of both lengths
	if len(word) > longest {
		return ""
	}
	best, distance := "", (len(word)+2)/3+1
	for _, candidate := range candidates {
		if len(candidate) > longest {
			continue
		}
		if d := levenshtein.ComputeDistance(word, candidate); d < distance {
			best, distance = candidate, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + quote(best) + "?"
}

// quote makes text from the file safe to print: quoted, escaped and short.
func quote(s string) string {
	const longest = 80
	if len(s) > longest {
		s = strings.ToValidUTF8(s[:longest], "") + "..."
	}
	return strconv.Quote(s)
}
