package strictjson

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// ParseValue reads text as one JSON value of any kind, as strictly as [Parse]
// reads an object, and returns it as encoding/json decodes it into an any, but
// numbers as [json.Number], as they were sent. Its error is [ErrInvalid].
func ParseValue(text []byte) (any, error) {
	if !utf8.Valid(text) || !json.Valid(text) {
		return nil, ErrInvalid
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := checkUnique(decoder, maxDepth); err != nil {
		return nil, err
	}
	decoder = json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var value any
	if decoder.Decode(&value) != nil {
		return nil, ErrInvalid // it is valid: does not happen
	}
	return value, nil
}
