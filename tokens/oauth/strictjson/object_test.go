package strictjson

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// FuzzParse compares the strict parser with encoding/json.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		`{}`, `{"a":1,"a":2}`, `{"a":{"b":1,"b":2}}`, `[{"a":1}]`, `{"a":[{"b":1},{"b":1}]}`, `{"a":1}x`, `null`,
		"{\"a\":\"\xff\"}", `{"a":"\ud800"}`, `{"\u0061":1,"a":2}`, `{"exp":1e400}`, strings.Repeat(`{"a":`, 50) + "1" + strings.Repeat("}", 50),
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := Parse(text)
		if err != nil {
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(text, &want); err != nil || len(want) != len(got) {
			t.Fatalf("%d members, want %d: %v", len(got), len(want), err)
		}
		for name := range got {
			_, _ = got.Text(name)
			_, _ = got.Texts(name)
			if got.HasValue(name) != (got.Value(name) != nil) {
				t.Errorf("%q: value %v", got[name], got.Value(name))
			}
			if date, ok := got.Date(name); ok && date.Year() > 9999 {
				t.Errorf("a date beyond all dates: %v", date)
			}
		}
	})
}

func TestParse(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"nothing":           ``,
		"null":              `null`,
		"a list":            `[]`,
		"text after it":     `{} x`,
		"twice":             `{"a":1,"a":1}`,
		"twice by escape":   `{"\u0061":1,"a":2}`,
		"twice deep inside": `{"x":[{"a":{"b":1,"b":2}}]}`,
		"not UTF-8":         "{\"a\":\"\xff\"}",
		"too deep":          strings.Repeat(`{"a":`, 33) + "1" + strings.Repeat("}", 33),
	} {
		if _, err := Parse([]byte(text)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestMembers(t *testing.T) {
	t.Parallel()
	object, err := Parse([]byte(`{"text":"a","Text":1,"texts":["a","b"],"mixed":["a",1],"null":null,"date":1.5,"big":12345678901234567890,"deep":{"a":[1]}}`))
	if err != nil {
		t.Fatal(err)
	}
	type reading struct {
		Text    string
		IsText  bool
		Texts   []string
		IsTexts bool
		IsDate  bool
		Value   any
	}
	for name, want := range map[string]reading{
		"text":    {Text: "a", IsText: true, Texts: []string{"a"}, IsTexts: true, Value: "a"},
		"Text":    {IsDate: true, Value: json.Number("1")},
		"texts":   {Texts: []string{"a", "b"}, IsTexts: true, Value: []any{"a", "b"}},
		"mixed":   {Value: []any{"a", json.Number("1")}},
		"null":    {},
		"date":    {IsDate: true, Value: json.Number("1.5")},
		"big":     {Value: json.Number("12345678901234567890")},
		"deep":    {Value: map[string]any{"a": []any{json.Number("1")}}},
		"missing": {IsText: true, IsTexts: true, IsDate: true},
	} {
		var got reading
		got.Text, got.IsText = object.Text(name)
		got.Texts, got.IsTexts = object.Texts(name)
		_, got.IsDate = object.Date(name)
		got.Value = object.Value(name)
		if !got.IsTexts {
			got.Texts = nil
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if date, _ := object.Date("date"); !date.Equal(time.Unix(1, 5e8)) {
		t.Errorf("got %v", date)
	}
	if object.Has("missing") || !object.Has("null") || object.HasValue("null") || !object.HasValue("date") {
		t.Error("Has or HasValue is wrong")
	}
}
