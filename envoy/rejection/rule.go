package rejection

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth/strictjson"
)

// MaxBody is how many bytes a body has at most that rules look at. A longer one
// matches none.
const MaxBody = 8 << 10

// Rule is evidence in the bodies of rejections.
type Rule struct {
	// Name goes into the decision as it is: see [Decision.Rule]. Rules may
	// share one.
	Name string
	// Statuses are those that the rule looks at. Nil means every one that is a
	// rejection.
	Statuses []int
	// ContentTypes are the media types that it looks at, in lower case and
	// without parameters. "application/json" includes every type that ends in
	// +json (RFC 6839 section 3.1). Nil means that one.
	ContentTypes []string
	// Conditions must all hold. At least one.
	Conditions []Condition
	// Verdict is what then is known: [tokens.Dead] or [tokens.NotAllowed].
	Verdict tokens.Verdict
}

// Condition is about one value in a body.
type Condition struct {
	// Pointer is the JSON pointer (RFC 6901) of the value: a text, or a number,
	// true, false or null as it was sent, or a list or object as JSON without
	// white space. Nothing matches in a body that is not JSON, that names a
	// member twice anywhere, or that does not hold the value. Empty means the
	// body itself, as text.
	Pointer string
	// Pattern is the regular expression (RE2) that must match somewhere in it.
	Pattern string
}

// CustomPrefix goes before the names of configured rules, so that they are not
// taken for other evidence.
const CustomPrefix = "rule:"

// Rules are tried in order; the first that matches decides. It is safe for
// concurrent use.
type Rules struct {
	rules []rule
}

type rule struct {
	Rule

	conditions []condition
}

type condition struct {
	steps   []string // of the pointer, unescaped; nil for the body itself
	pattern *regexp.Regexp
}

// NewRules returns rules in that order. Its error names each rule that is wrong
// and what is wrong with it.
func NewRules(rules ...Rule) (*Rules, error) {
	rs := &Rules{}
	var errs []error
	for _, r := range rules {
		ready, err := newRule(r)
		if err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", r.Name, err))
		}
		rs.rules = append(rs.rules, ready)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return rs, nil
}

func newRule(r Rule) (rule, error) {
	switch {
	case r.Name == "":
		return rule{}, errors.New("a rule needs a name")
	case len(r.Conditions) == 0:
		return rule{}, errors.New("a rule needs a condition")
	case r.Verdict != tokens.Dead && r.Verdict != tokens.NotAllowed:
		return rule{}, fmt.Errorf("%v is not known from a body", r.Verdict)
	}
	ready := rule{Rule: r}
	if r.ContentTypes == nil {
		ready.ContentTypes = []string{jsonType}
	}
	for _, c := range r.Conditions {
		steps, err := readPointer(c.Pointer)
		if err != nil {
			return rule{}, err
		}
		pattern, err := regexp.Compile(c.Pattern)
		if err != nil {
			return rule{}, err
		}
		ready.conditions = append(ready.conditions, condition{steps, pattern})
	}
	return ready, nil
}

// readPointer returns the reference tokens of a JSON pointer (RFC 6901 section
// 4).
func readPointer(pointer string) ([]string, error) {
	if pointer == "" {
		return nil, nil
	}
	if !IsPointer(pointer) {
		return nil, fmt.Errorf("%q is not a JSON pointer", pointer)
	}
	steps := strings.Split(pointer[1:], "/")
	for i, step := range steps {
		steps[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
	}
	return steps, nil
}

// IsPointer reports whether text is a JSON pointer to something inside a document
// (RFC 6901 section 3).
func IsPointer(text string) bool { return pointerPattern.MatchString(text) }

var pointerPattern = regexp.MustCompile(`^(?:/(?:[^~/]|~[01])*)+$`)

const jsonType = "application/json"

// mediaType returns a Content-Type without its parameters.
func mediaType(field string) string {
	kind, _, _ := strings.Cut(field, ";")
	return strings.ToLower(strings.TrimSpace(kind))
}

// looksAt reports whether the rule is about answers of that kind.
func (r *rule) looksAt(status int, kind string) bool {
	if r.Statuses != nil && !slices.Contains(r.Statuses, status) {
		return false
	}
	return slices.Contains(r.ContentTypes, kind) ||
		strings.HasSuffix(kind, "+json") && slices.Contains(r.ContentTypes, jsonType)
}

// reads reports whether any rule is about answers of that kind.
func (rs *Rules) reads(r Response) bool {
	if rs == nil {
		return false
	}
	kind := mediaType(r.ContentType)
	return slices.ContainsFunc(rs.rules, func(u rule) bool { return u.looksAt(r.Status, kind) })
}

// byBody returns the decision of the first rule that matches.
func (rs *Rules) byBody(r Response) (Decision, bool) {
	if len(r.Body) == 0 || len(r.Body) > MaxBody || !rs.reads(r) {
		return Decision{}, false
	}
	kind := mediaType(r.ContentType)
	b := newBody(r.Body)
	for _, u := range rs.rules {
		if u.looksAt(r.Status, kind) && u.matches(b) {
			return Decision{u.Verdict, u.Name}, true
		}
	}
	return Decision{}, false
}

func (r *rule) matches(b body) bool {
	for _, c := range r.conditions {
		text, ok := b.at(c.steps)
		if !ok || !c.pattern.MatchString(text) {
			return false
		}
	}
	return true
}

// body is a body with what it is as JSON.
type body struct {
	text   string
	value  any
	isJSON bool
}

func newBody(text []byte) body {
	value, err := strictjson.ParseValue(text)
	return body{text: string(text), value: value, isJSON: err == nil}
}

// at returns the value that a pointer leads to, as text.
func (b body) at(steps []string) (string, bool) {
	if steps == nil {
		return b.text, true
	}
	if !b.isJSON {
		return "", false
	}
	value := b.value
	for _, step := range steps {
		var ok bool
		if value, ok = member(value, step); !ok {
			return "", false
		}
	}
	switch v := value.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	}
	text, err := json.Marshal(value)
	return string(text), err == nil
}

// member takes one step of a pointer. Lists have no member "-", which is the one
// after the last.
func member(value any, step string) (any, bool) {
	switch v := value.(type) {
	case map[string]any:
		m, ok := v[step]
		return m, ok
	case []any:
		i, err := strconv.Atoi(step)
		if err != nil || i < 0 || i >= len(v) || strconv.Itoa(i) != step {
			return nil, false
		}
		return v[i], true
	}
	return nil, false
}
