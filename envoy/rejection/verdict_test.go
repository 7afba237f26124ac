package rejection

import (
	"fmt"
	"testing"

	"github.com/rebearer/rebearer/tokens"
)

// vector is a real system's answer.
type vector struct {
	ID              string
	System          string
	Status          int
	WWWAuthenticate []string `json:"www_authenticate"`
	ContentType     string   `json:"content_type"`
	Body            string
	Class           string
	Explicit        bool
}

func (v vector) response() Response {
	return Response{Status: v.Status, WWWAuthenticate: v.WWWAuthenticate, ContentType: v.ContentType, Body: []byte(v.Body)}
}

// isRejection reports whether the hook is asked about the answer by default.
func (v vector) isRejection() bool { return v.Status == 401 || v.Status == 403 }

func readChallenges(t testing.TB) []vector {
	t.Helper()
	var v struct{ Cases []vector }
	readVectors(t, "challenges.json", &v)
	return v.Cases
}

// chosen are the answers that do not say what they are about, with what is made
// of them and why.
func chosen() map[string]tokens.Verdict {
	return map[string]tokens.Verdict{
		"ch-001": tokens.Dead,    // a bare 401 to a token that we know was sent
		"ch-019": tokens.Dead,    // likewise; Kong says nothing else of bad tokens
		"ch-047": tokens.Dead,    // likewise
		"ch-071": tokens.Dead,    // a bare 401; Apigee says the same of bad tokens
		"ch-121": tokens.Unclear, // a bare 403, of who knows whom: probed, which evicts nothing
		"ch-123": tokens.Unclear, // a bare 403
		"ch-135": tokens.Dead,    // two challenges contradict each other; the status is 401
		"ch-139": tokens.Dead,    // a bare 401
	}
}

func (v vector) want() tokens.Verdict {
	if verdict, ok := chosen()[v.ID]; ok {
		return verdict
	}
	if v.Class == "invalid_token" {
		return tokens.Dead
	}
	return tokens.NotAllowed
}

func allPresets(t testing.TB) *Rules {
	t.Helper()
	var all []Rule
	for _, name := range Presets() {
		rules, _ := Preset(name)
		all = append(all, rules...)
	}
	rs, err := NewRules(all...)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// Rejections of real systems, with all presets.
func TestDecideRealRejections(t *testing.T) {
	t.Parallel()
	rules := allPresets(t)
	for _, v := range readChallenges(t) {
		t.Run(v.ID, func(t *testing.T) {
			t.Parallel()
			got := rules.Decide(v.response())
			switch {
			case v.isRejection() && got.Verdict != v.want():
				t.Errorf("%s (%d %q %s): %v by %s, want %v", v.System, v.Status, v.WWWAuthenticate, v.Body, got.Verdict, got.Rule, v.want())
			case !v.isRejection() && got.Verdict == tokens.Dead && v.Class != "invalid_token" && v.Status >= 400:
				t.Errorf("%s (%d %s): dead by %s", v.System, v.Status, v.Body, got.Rule)
			}
		})
	}
}

// A system that a preset does not know is never misunderstood by it, and without
// presets nothing is said to be dead that is known not to be, but by a bare 401.
func TestDecideWithOnePreset(t *testing.T) {
	t.Parallel()
	for _, name := range append(Presets(), "") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rules, _ := Preset(name)
			rs, err := NewRules(rules...)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range readChallenges(t) {
				got := rs.Decide(v.response())
				if got.ByStatus() || !v.isRejection() || got.Verdict == v.want() {
					continue
				}
				t.Errorf("%s %s (%d %s): %v by %s, want %v", v.ID, v.System, v.Status, v.Body, got.Verdict, got.Rule, v.want())
			}
		})
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	rules, err := NewRules(Rule{
		Name: "rule:code", Statuses: []int{401, 403}, Verdict: tokens.NotAllowed,
		Conditions: []Condition{{"/code", "^7$"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	body := func(r Response) Response { r.ContentType, r.Body = "application/json", []byte(`{"code":7}`); return r }
	tests := []struct {
		response Response
		want     Decision
	}{
		{Response{Status: 403}, Decision{tokens.Unclear, RuleStatus}},
		{Response{Status: 401}, Decision{tokens.Dead, RuleStatus}},
		{Response{Status: 400}, Decision{tokens.NotAllowed, RuleStatus}},
		{Response{Status: 419}, Decision{tokens.Unclear, RuleStatus}},
		{Response{Status: 200, GRPCStatus: "16"}, Decision{tokens.Dead, RuleGRPCStatus}},
		{Response{Status: 401, WWWAuthenticate: []string{`Basic realm="x"`}}, Decision{tokens.NotAllowed, RuleChallengeScheme}},
		{Response{Status: 403, WWWAuthenticate: []string{`Bearer error="invalid_token"`}}, Decision{tokens.Dead, RuleChallenge}},
		{Response{Status: 401, WWWAuthenticate: []string{`Bearer error="insufficient_scope"`}}, Decision{tokens.NotAllowed, RuleChallenge}},
		{Response{Status: 403, WWWAuthenticate: []string{`Basic error="invalid_token"`}}, Decision{tokens.Unclear, RuleStatus}},
		{Response{Status: 403, WWWAuthenticate: []string{`Bearer error_description="invalid_token"`}}, Decision{tokens.Unclear, RuleStatus}},
		{Response{Status: 401, WWWAuthenticate: []string{`Bearer error="token_expired"`}}, Decision{tokens.Dead, RuleStatus}},
		{Response{Status: 403, WWWAuthenticate: []string{`Bearer error="token_expired"`}}, Decision{tokens.Unclear, RuleStatus}},
		{Response{Status: 401, WWWAuthenticate: []string{`Bearer error="insufficient_user_authentication"`}}, Decision{tokens.NotAllowed, RuleChallenge}},
		{Response{Status: 401, WWWAuthenticate: []string{`Bearer error="odd", Bearer error="invalid_token"`}}, Decision{tokens.Dead, RuleChallenge}},
		{body(Response{Status: 401}), Decision{tokens.NotAllowed, "rule:code"}},
		{body(Response{Status: 401, WWWAuthenticate: []string{`Bearer error="odd"`}}), Decision{tokens.NotAllowed, "rule:code"}},
		{body(Response{Status: 401, WWWAuthenticate: []string{`Bearer error="invalid_token"`}}), Decision{tokens.Dead, RuleChallenge}},
		{body(Response{Status: 401, WWWAuthenticate: []string{`Basic realm="x"`}}), Decision{tokens.NotAllowed, "rule:code"}},
		{body(Response{Status: 419}), Decision{tokens.Unclear, RuleStatus}},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%+v", tt.response), func(t *testing.T) {
			t.Parallel()
			if got := rules.Decide(tt.response); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}
