// Package safeyaml prints YAML that every parser reads alike: Envoy's, that of
// Kubernetes, and those that still follow YAML 1.1.
package safeyaml

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
)

// FromJSON returns a JSON value as YAML, with sorted keys: the same value always
// gives the same bytes. The error says that the text is no JSON.
func FromJSON(text []byte) ([]byte, error) {
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	return yaml.MarshalWithOptions(value, yaml.CustomMarshaler(quote), yaml.CustomMarshaler(writeOut))
}

// writeOut returns a number without an exponent, which not all would read as one.
func writeOut(number float64) ([]byte, error) {
	return strconv.AppendFloat(nil, number, 'f', -1, 64), nil
}

// quote returns a string as it is if it is plainly one, and otherwise as JSON
// does, which is YAML too. Some library's idea of what needs quotes would not do:
// YAML 1.1 takes 1e3, 0x1f, 12:30 and on for something else than strings.
func quote(s string) ([]byte, error) {
	plain := regexp.MustCompile(`^[A-Za-z/_][A-Za-z0-9/_.-]*$`)
	switch strings.ToLower(s) {
	case "y", "n", "yes", "no", "on", "off", "true", "false", "null":
		return json.Marshal(s)
	}
	if plain.MatchString(s) {
		return []byte(s), nil
	}
	return json.Marshal(s)
}
