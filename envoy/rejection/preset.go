package rejection

import (
	"maps"
	"slices"

	"github.com/rebearer/rebearer/tokens"
)

// presetPrefix goes before the names of presets.
const presetPrefix = "preset:"

// Presets returns the names of all presets, sorted.
func Presets() []string { return slices.Sorted(maps.Keys(presets())) }

// Preset returns the rules of a preset, if there is one of that name.
func Preset(name string) ([]Rule, bool) {
	rules, ok := presets()[name]
	for i := range rules {
		rules[i].Name = presetPrefix + name
	}
	return rules, ok
}

// at is a condition on a value of a JSON body, and text one on the body itself.
func at(pointer, pattern string) Condition { return Condition{pointer, pattern} }
func text(pattern string) Condition        { return Condition{"", pattern} }

func dead(statuses []int, c ...Condition) Rule {
	return Rule{Statuses: statuses, Conditions: c, Verdict: tokens.Dead}
}

func notAllowed(statuses []int, c ...Condition) Rule {
	return Rule{Statuses: statuses, Conditions: c, Verdict: tokens.NotAllowed}
}

// in says in which media types other than JSON the body of a rule comes.
func (r Rule) in(contentTypes ...string) Rule {
	r.ContentTypes = contentTypes
	return r
}

// presets are the rules for systems whose rejections the challenge and the
// status do not tell apart, or tell wrong. Rules are written so that they can be
// used together: each names something that only its system says. Where a system
// says the same of dead tokens and of missing rights there is no rule, and a
// probe finds out.
func presets() map[string][]Rule {
	all := map[string][]Rule{}
	maps.Copy(all, gatewayPresets())
	maps.Copy(all, cloudPresets())
	maps.Copy(all, platformPresets())
	maps.Copy(all, servicePresets())
	return all
}
