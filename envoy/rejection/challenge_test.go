package rejection

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// readVectors decodes a file of testdata into v.
func readVectors(t testing.TB, name string, v any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

type parseVectors struct {
	Cases []struct {
		ID         string
		Fields     []string `json:"field_values"`
		Valid      bool     `json:"valid_by_grammar"`
		Challenges []Challenge
	}
}

func TestParseChallenges(t *testing.T) {
	t.Parallel()
	var v parseVectors
	readVectors(t, "www_authenticate_parse.json", &v)
	for _, c := range v.Cases {
		t.Run(c.ID, func(t *testing.T) {
			t.Parallel()
			got := ParseChallenges(c.Fields)
			if !c.Valid {
				return // any answer will do, and it came
			}
			if diff := cmp.Diff(got, c.Challenges, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("ParseChallenges(%q), -got +want:\n%s", c.Fields, diff)
			}
		})
	}
}

// What servers send beyond the grammar.
func TestParseLeniently(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		field string
		want  []Challenge
	}{
		{
			"space-separated parameters", `Bearer scope="" error="invalid_token" error_description="a b"`,
			[]Challenge{{Scheme: "Bearer", Params: map[string]string{"scope": "", "error": "invalid_token", "error_description": "a b"}}},
		},
		{
			"no scheme", `error="invalid_token", realm="x"`,
			[]Challenge{{Params: map[string]string{"error": "invalid_token", "realm": "x"}}},
		},
		{
			"an unquoted URL", `Bearer realm=https://a.example/b?c=d, error="invalid_token"`,
			[]Challenge{{Scheme: "Bearer", Params: map[string]string{"realm": "https://a.example/b?c=d", "error": "invalid_token"}}},
		},
		{
			"a quote that is not closed", `Bearer error="invalid_token`,
			[]Challenge{{Scheme: "Bearer", Params: map[string]string{"error": "invalid_token"}}},
		},
		{
			"Facebook", `OAuth "Facebook Platform" "invalid_token" "Error validating access token"`,
			[]Challenge{{Scheme: "OAuth", Params: map[string]string{}}},
		},
		{
			"a parameter twice", `Bearer error="invalid_token", error="insufficient_scope"`,
			[]Challenge{{Scheme: "Bearer", Params: map[string]string{"error": "invalid_token"}}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(ParseChallenges([]string{tt.field}), tt.want); diff != "" {
				t.Errorf("ParseChallenges(%q), -got +want:\n%s", tt.field, diff)
			}
		})
	}
}

func FuzzParseChallenges(f *testing.F) {
	var v parseVectors
	readVectors(f, "www_authenticate_parse.json", &v)
	for _, c := range v.Cases {
		f.Add(strings.Join(c.Fields, ","))
	}
	f.Add(strings.Repeat("a=b,", 10000))
	f.Add(strings.Repeat("A,", 10000))
	f.Add(strings.Repeat(`"`, 10000))
	f.Fuzz(func(t *testing.T, field string) {
		got := ParseChallenges([]string{field})
		if len(got) > maxChallenges {
			t.Errorf("%d challenges", len(got))
		}
		for _, c := range got {
			if len(c.Params) > maxParams {
				t.Errorf("%d parameters", len(c.Params))
			}
		}
	})
}
