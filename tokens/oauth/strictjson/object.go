// Package strictjson reads JSON objects that decide about security: tokens, key
// sets and providers' answers. It refuses whatever two readers might understand
// differently, and gives each member only as the type that is asked for.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// maxDepth bounds how deeply an object may be nested.
const maxDepth = 32

// ErrInvalid says that a text is not one object, or not a strict one.
var ErrInvalid = errors.New("not a strict JSON object")

// Object is a JSON object whose members are read one by one. Names are
// compared exactly, unlike those of the fields of a struct in encoding/json.
type Object map[string]json.RawMessage

// Parse reads text as one JSON object: UTF-8, nothing after it, 32 levels deep
// at most, and no member twice at any depth, since two readers might take
// different ones (RFC 7515 section 4, RFC 7519 section 4). Its error is
// [ErrInvalid].
func Parse(text []byte) (Object, error) {
	var members Object
	if !utf8.Valid(text) || json.Unmarshal(text, &members) != nil || members == nil {
		return nil, ErrInvalid
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := checkUnique(decoder, maxDepth); err != nil {
		return nil, err
	}
	return members, nil
}

// checkUnique reads one value from decoder and refuses members that come twice
// and nesting beyond depth.
func checkUnique(decoder *json.Decoder, depth int) error {
	token, err := decoder.Token()
	if err != nil {
		return ErrInvalid
	}
	open, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	if depth == 0 {
		return ErrInvalid
	}
	seen := map[json.Token]struct{}{}
	for decoder.More() {
		if open == '{' {
			name, err := decoder.Token()
			if _, twice := seen[name]; err != nil || twice {
				return ErrInvalid
			}
			seen[name] = struct{}{}
		}
		if err := checkUnique(decoder, depth-1); err != nil {
			return err
		}
	}
	if _, err := decoder.Token(); err != nil {
		return ErrInvalid
	}
	return nil
}

// Has reports whether there is a member of that name, whatever its value.
func (o Object) Has(name string) bool { _, ok := o[name]; return ok }

// HasValue reports whether there is a member of that name that is not null.
func (o Object) HasValue(name string) bool {
	member, ok := o[name]
	return ok && string(member) != "null"
}

// Text returns a member that is a string; ok is false for any other type, and
// true with an empty text for a member that is not there.
func (o Object) Text(name string) (text string, ok bool) {
	member, found := o[name]
	if !found {
		return "", true
	}
	return readText(member)
}

func readText(member json.RawMessage) (text string, ok bool) {
	if len(member) == 0 || member[0] != '"' {
		return "", false
	}
	return text, json.Unmarshal(member, &text) == nil
}

// Texts returns a member that is a string or a list of strings; ok is false for
// any other type, and true with no texts for a member that is not there.
func (o Object) Texts(name string) (texts []string, ok bool) {
	member, found := o[name]
	if !found {
		return nil, true
	}
	if text, ok := readText(member); ok {
		return []string{text}, true
	}
	var list []json.RawMessage
	if member[0] != '[' || json.Unmarshal(member, &list) != nil {
		return nil, false
	}
	for _, item := range list {
		text, ok := readText(item)
		if !ok {
			return nil, false
		}
		texts = append(texts, text)
	}
	return texts, true
}

// maxDate is the last second of the year 9999: beyond it there is no date.
const maxDate = 253402300799

// Date returns a member that is a NumericDate (RFC 7519 section 2); ok is false
// for any other type and for dates before 1970 or after 9999, and true with the
// zero time for a member that is not there.
func (o Object) Date(name string) (date time.Time, ok bool) {
	member, found := o[name]
	if !found {
		return time.Time{}, true
	}
	// The text is a JSON value, so what can be parsed and begins like a number
	// is a JSON number: neither "NaN" nor a hexadecimal one.
	if strings.IndexByte("-0123456789", member[0]) < 0 {
		return time.Time{}, false
	}
	seconds, err := strconv.ParseFloat(string(member), 64)
	if err != nil || seconds < 0 || seconds > maxDate {
		return time.Time{}, false
	}
	whole, fraction := math.Modf(seconds)
	return time.Unix(int64(whole), int64(fraction*float64(time.Second))), true
}

// Value returns a member as encoding/json decodes it into an any, but numbers
// as [json.Number], as they were sent. It returns nil for a member that is not
// there.
func (o Object) Value(name string) any {
	member, found := o[name]
	if !found {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(member))
	decoder.UseNumber()
	var value any
	if decoder.Decode(&value) != nil {
		return nil // it was parsed as a part of the object: does not happen
	}
	return value
}
