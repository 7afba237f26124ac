package strictjson_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/tokens/oauth/strictjson"
)

func TestParseValue(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]any{
		`"a"`:                 "a",
		` 1e3 `:               json.Number("1e3"),
		`null`:                nil,
		`[1,{"a":true}]`:      []any{json.Number("1"), map[string]any{"a": true}},
		`{"a":1,"A":"\/é"}`:   map[string]any{"a": json.Number("1"), "A": "/é"},
		`[{"a":1},{"a":"b"}]`: []any{map[string]any{"a": json.Number("1")}, map[string]any{"a": "b"}},
	} {
		got, err := strictjson.ParseValue([]byte(text))
		if diff := cmp.Diff(got, want); diff != "" || err != nil {
			t.Errorf("%s: %v, -got +want:\n%s", text, err, diff)
		}
	}
	for _, text := range []string{
		``, ` `, `1 2`, `{} x`, `[1],"a":[2]`, `{"a":1,"a":1}`, `[[{"a":1,"\u0061":2}]]`, "\"\xff\"", "\ufeff{}", `nul`, `{"a":}`,
		strings.Repeat("[", 33) + strings.Repeat("]", 33),
	} {
		if got, err := strictjson.ParseValue([]byte(text)); !errors.Is(err, strictjson.ErrInvalid) {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
}
