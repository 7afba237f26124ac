package safeyaml

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
)

// Whatever a string looks like, it is read as the same string.
func TestStrings(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"on", "Off", "YES", "no", "y", "N", "True", "false", "null", "~", "", " ", "0x1f", "0X1F", "1e3", "-2E+05", "1234567890123e45",
		"0o7", "017", "08", "1_000", "12:30:45", "0b1", "=", ".inf", "-.Inf", ".NaN", "2020-01-01", "%REQ(x)%", "a: b", "a #b", "a:",
		"- a", "-", "?", "? a", "<<", "!x", "&x", "*", "@type", "`x", "{a}", "[2-9]|[1-9][0-9]+", "'a'", `"a"`, `\d`, "a\nb\n", "\n a", "a ",
		"\ta", "\u2028", "\u0085", "\ufeff", "\x01", "\x7f", "---", "...", "a\r\nb", "(?i)(?:a|b)(?::[0-9]+)?", "30s", "é", "😀", "<&>",
	} {
		for _, value := range []any{map[string]any{"a": s}, map[string]any{s: "a"}, []any{s, s}} {
			text, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			out, err := FromJSON(text)
			if err != nil {
				t.Fatalf("%q: %v", s, err)
			}
			var got any
			if err := yaml.Unmarshal(out, &got); err != nil || !cmp.Equal(got, value) {
				t.Errorf("%s is printed as %q, which reads %v (%v)", text, out, got, err)
			}
		}
	}
}

// What YAML 1.1 would take for something else stands in quotes, and what can only
// be a string does not.
func TestQuotes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`["on","1e3","0x1f","12:30","30s","2020-01-01","y",".inf"]`: `["on" "1e3" "0x1f" "12:30" "30s" "2020-01-01" "y" ".inf"]`,
		`["x-rebearer-retry","/pki/ca.pem","api.example","yes.no"]`: `[x-rebearer-retry /pki/ca.pem api.example yes.no]`,
		`[10000,1e9,1.5,-1,true,null]`:                              `[10000 1000000000 1.5 -1 true null]`,
	} {
		out, err := FromJSON([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(string(out)) {
			got = append(got, strings.TrimPrefix(strings.TrimSpace(line), "- "))
		}
		if fmt.Sprint(got) != want {
			t.Errorf("got %s, want %s", fmt.Sprint(got), want)
		}
	}
}

func TestOrder(t *testing.T) {
	t.Parallel()
	out, err := FromJSON([]byte(`{"b":{"d":[{"z":1,"@type":"x"},[],[[1]]],"c":{}},"a":"1"}`))
	if err != nil {
		t.Fatal(err)
	}
	const want = `a: "1"
b:
  c: {}
  d:
  - "@type": x
    z: 1
  - []
  - - - 1
`
	if diff := cmp.Diff(want, string(out)); diff != "" {
		t.Error(diff)
	}
}

func TestNotJSON(t *testing.T) {
	t.Parallel()
	if out, err := FromJSON([]byte("a: b")); err == nil {
		t.Errorf("got %q", out)
	}
}
