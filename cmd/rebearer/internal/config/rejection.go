package config

import (
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rebearer/rebearer/envoy/rejection"
)

// Bounds of the cool-down. Below, it would not protect the provider; above, a
// restart that follows a real 403 would be an outage again.
const (
	minCoolDown = time.Second
	maxCoolDown = time.Hour
)

// maxRejection is the last status that tells a client that it is at fault.
const maxRejection = 499

// Action is what a rejection leads to.
type Action string

// The actions, each with all of the one before.
const (
	// ActionObserve counts and logs the rejection.
	ActionObserve Action = "observe"
	// ActionEvict evicts a dead token, so that the next request passes.
	ActionEvict Action = "evict"
	// ActionRetry has Envoy repeat the request with a fresh token.
	ActionRetry Action = "retry"
)

// Verdict is what a body rule says about our token.
type Verdict string

// The verdicts of body rules.
const (
	// VerdictDead is a token that the provider voided: another may pass.
	VerdictDead Verdict = "dead"
	// VerdictNotAllowed is a token that is good, but not for this.
	VerdictNotAllowed Verdict = "not_allowed"
)

// Rejection says what a backend's rejection leads to.
type Rejection struct {
	// Action is what happens: observe, evict or retry. Default retry.
	Action Action `yaml:"action"`
	// Statuses are the HTTP statuses that are rejections, from 400 to 499; 400
	// is one only where a rule or challenge says so. The gRPC status 16 always
	// is one. Default 401 and 403.
	Statuses []int `yaml:"statuses"`
	// Methods are the HTTP methods that may be retried, in capitals. A
	// rejected request of another method evicts, and the caller is told to
	// come again. Default none named: all may be retried.
	Methods []string `yaml:"methods"`
	// CoolDown is how long after a probe that did not help no other is made
	// for the same caller and route, and the time in which the credential's
	// budget gains one token request. From 1s to 1h. Default 10s.
	CoolDown time.Duration `yaml:"cool_down"`
	// Presets name rules for the answers of well-known systems, such as wso2,
	// or all for every one. Some systems say it with another status, which
	// then has to be one of Statuses: facebook and zoom 400, arcgis 498 and
	// 499. Default none.
	Presets []string `yaml:"presets"`
	// Rules are rules of your own for the bodies of rejections, tried in order
	// and before the presets. Default none.
	Rules []Rule `yaml:"rules"`
	// Introspect asks the provider about our own token where neither a
	// challenge nor a rule tells (RFC 7662), at most once a second a token.
	// Default false.
	Introspect bool `yaml:"introspect"`
}

// UnaskedStatuses returns the statuses, sorted, whose requests Envoy may send again
// without having been told so: those that every credential retries, for all methods.
// 400 is none of them, which is about the request as a rule.
func (c *Config) UnaskedStatuses() []int {
	var common []int
	for i, name := range slices.Sorted(maps.Keys(c.Credentials)) {
		r := c.Credentials[name].Rejection
		if r.Action != ActionRetry || r.Methods != nil {
			return nil
		}
		if i == 0 {
			common = slices.Sorted(slices.Values(r.Statuses))
		}
		common = slices.DeleteFunc(common, func(status int) bool {
			return status == http.StatusBadRequest || !slices.Contains(r.Statuses, status)
		})
	}
	return slices.Compact(common)
}

// Rule is evidence in the body of a rejection. At most 8 KiB of a body are
// read, and only where its content type and length are declared.
type Rule struct {
	// Name stands in metrics, logs and events. Required.
	Name string `yaml:"name"`
	// Statuses are those that the rule looks at. Default those of the
	// rejection.
	Statuses []int `yaml:"statuses"`
	// ContentTypes are the media types that it looks at, in lower case and
	// without parameters; application/json includes all that end in +json.
	// Default application/json.
	ContentTypes []string `yaml:"content_types"`
	// Pointer is the JSON pointer (RFC 6901) of the value that is compared: a
	// text as it is, anything else as JSON. Default none: the whole body is.
	Pointer string `yaml:"pointer"`
	// Matches is the regular expression (RE2) that must match somewhere in it:
	// use ^ and $ for all of it. Required.
	Matches string `yaml:"matches"`
	// Verdict is what a match means: dead or not_allowed. Required.
	Verdict Verdict `yaml:"verdict"`
}

func (j Rejection) check(r *report, at string) {
	oneOf(r, join(at, "action"), j.Action, ActionObserve, ActionEvict, ActionRetry)
	if len(j.Statuses) == 0 {
		r.fail(join(at, "statuses"), "is empty: name 401, 403 or both")
	}
	for i, status := range j.Statuses {
		within(r, item(at+".statuses", i), int64(status), http.StatusBadRequest, maxRejection)
	}
	unique(r, join(at, "statuses"), j.Statuses)
	if j.Methods != nil && len(j.Methods) == 0 {
		r.fail(join(at, "methods"), "is empty: to retry nothing say action: %s", ActionEvict)
	}
	r.list(join(at, "methods"), j.Methods)
	for i, method := range j.Methods {
		if method != "" && (!tokenPattern.MatchString(method) || strings.ToUpper(method) != method) {
			r.fail(item(at+".methods", i), "%s is not a method: write it in capitals, such as POST", quote(method))
		}
	}
	within(r, join(at, "cool_down"), j.CoolDown, minCoolDown, maxCoolDown)
	j.checkPresets(r, join(at, "presets"))
	names := map[string]bool{}
	for i, rule := range j.Rules {
		here := item(at+".rules", i)
		rule.check(r, here, j.Statuses)
		if names[rule.Name] {
			r.fail(join(here, "name"), "%s is another rule's already", quote(rule.Name))
		}
		names[rule.Name] = true
	}
}

// unique reports numbers that are repeated.
func unique(r *report, at string, values []int) {
	for i, value := range values {
		if slices.Contains(values[:i], value) {
			r.fail(item(at, i), "%d is there already", value)
		}
	}
}

// mediaPattern matches a media type without parameters (RFC 6838 section 4.2).
var mediaPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*$`)

func (u Rule) check(r *report, at string, possible []int) {
	switch {
	case u.Name == "":
		r.fail(join(at, "name"), "is required")
	case !namePattern.MatchString(u.Name):
		r.fail(join(at, "name"), "%s", nameRule)
	}
	if u.Statuses != nil && len(u.Statuses) == 0 {
		r.fail(join(at, "statuses"), "is empty: leave it out to look at all rejections")
	}
	for i, status := range u.Statuses {
		if !slices.Contains(possible, status) {
			r.fail(item(at+".statuses", i), "%d is none of rejection.statuses, so the rule would never see it", status)
		}
	}
	unique(r, join(at, "statuses"), u.Statuses)
	if len(u.ContentTypes) == 0 {
		r.fail(join(at, "content_types"), "is empty: no body would be read")
	}
	r.list(join(at, "content_types"), u.ContentTypes)
	for i, kind := range u.ContentTypes {
		if kind != "" && !mediaPattern.MatchString(kind) {
			r.fail(item(at+".content_types", i), "%s is not a media type: write it in lower case and without parameters, such as application/json", quote(kind))
		}
	}
	if u.Pointer != "" && !rejection.IsPointer(u.Pointer) {
		r.fail(join(at, "pointer"), "%s is not a JSON pointer: write it like /error/code (RFC 6901)", quote(u.Pointer))
	}
	if _, err := regexp.Compile(u.Matches); err != nil {
		r.fail(join(at, "matches"), "is not a regular expression (RE2): %s", syntaxOf(err))
	}
	required(r, join(at, "matches"), u.Matches)
	oneOf(r, join(at, "verdict"), u.Verdict, VerdictDead, VerdictNotAllowed)
}

// checkPresets reports names of no preset.
func (j Rejection) checkPresets(r *report, at string) {
	r.list(at, j.Presets)
	known := append([]string{PresetAll}, rejection.Presets()...)
	for i, name := range j.Presets {
		if name != "" {
			oneOf(r, item(at, i), name, known...)
		}
	}
	if slices.Contains(j.Presets, PresetAll) && len(j.Presets) > 1 {
		r.fail(at, "%s is every preset: name no other beside it", PresetAll)
	}
}

// PresetAll stands for every preset.
const PresetAll = "all"
