package caller

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// maxDepth bounds how deeply the JSON of a token may be nested.
const maxDepth = 32

// object is a JSON object whose members are read one by one. Names are
// compared exactly, unlike those of the fields of a struct in encoding/json.
type object map[string]json.RawMessage

// parseObject reads text as one JSON object: UTF-8, nothing after it, and no
// member twice at any depth, since two readers might take different ones (RFC
// 7515 section 4, RFC 7519 section 4).
func parseObject(text []byte) (object, error) {
	var members object
	if !utf8.Valid(text) || json.Unmarshal(text, &members) != nil || members == nil {
		return nil, ErrMalformed
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
		return ErrMalformed
	}
	open, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	if depth == 0 {
		return ErrMalformed
	}
	seen := map[json.Token]struct{}{}
	for decoder.More() {
		if open == '{' {
			name, err := decoder.Token()
			if _, twice := seen[name]; err != nil || twice {
				return ErrMalformed
			}
			seen[name] = struct{}{}
		}
		if err := checkUnique(decoder, depth-1); err != nil {
			return err
		}
	}
	if _, err := decoder.Token(); err != nil {
		return ErrMalformed
	}
	return nil
}

// has reports whether there is a member of that name, whatever its value.
func (o object) has(name string) bool { _, ok := o[name]; return ok }

// text returns a member that is a string; ok is false for any other type, and
// true with an empty text for a member that is not there.
func (o object) text(name string) (text string, ok bool) {
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

// texts returns a member that is a string or a list of strings.
func (o object) texts(name string) (texts []string, ok bool) {
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

// date returns a member that is a NumericDate (RFC 7519 section 2), and the
// zero time for a member that is not there.
func (o object) date(name string) (date time.Time, ok bool) {
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

// isName reports whether text may name a caller: without control characters,
// and without the mark that stands for text that could not be read.
func isName(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool {
		return r < ' ' || r == 0x7f || r == utf8.RuneError
	})
}
