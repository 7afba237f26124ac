package config

import (
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// decoder writes nodes into structs. It knows strings, booleans, integers,
// durations, and structs, pointers, lists and maps of these. A struct's fields
// are known by their yaml tags; a file tag marks the name of a file (see
// fileRef). A value that is already there is the default: only what the file
// says is overwritten, and lists and maps are replaced whole.
type decoder struct {
	*report
	// dir is where relative file names start.
	dir string
	// presets are the defaults of types that stand in lists and maps.
	presets map[reflect.Type]reflect.Value
	files   []fileRef
	// nodes counts what was decoded, against maxNodes: an alias is counted
	// every time it is used.
	nodes int
}

// decodeConfig decodes the whole file. Problems are in the report.
func decodeConfig(root *node, dir string, r *report) *Config {
	d := &decoder{report: r, dir: dir, presets: presets()}
	cfg := defaultConfig()
	// The file's own defaults come first, since all credentials lie over them.
	rest := *root
	rest.pairs = nil
	for _, p := range root.pairs {
		if p.key.text == "defaults" {
			d.named(p, "defaults", reflect.ValueOf(&cfg.Defaults).Elem())
			continue
		}
		rest.pairs = append(rest.pairs, p)
	}
	d.preset(cfg.Defaults.Credential)
	d.structure(&rest, "", reflect.ValueOf(cfg).Elem())
	cfg.files = d.files
	cfg.complete()
	return cfg
}

// preset sets the default for values of v's type.
func (d *decoder) preset(v any) { d.presets[reflect.TypeOf(v)] = reflect.ValueOf(v) }

// fresh returns a settable value of the type that holds its default.
func (d *decoder) fresh(t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	if preset, ok := d.presets[t]; ok {
		v.Set(preset)
	}
	return v
}

// named decodes the value of a key. The place of a mapping or list is that of
// its key, which is where a reader looks for what is missing in it.
func (d *decoder) named(p pair, path string, v reflect.Value) {
	d.positions[path] = p.value.at
	if p.value.kind != scalarNode {
		d.positions[path] = p.key.at
	}
	d.value(p.value, path, v)
}

// spend counts one value, and says whether the file may hold more.
func (d *decoder) spend() bool {
	d.nodes++
	if d.nodes == maxNodes+1 {
		d.add(position{}, "%s", expandsTooMuch)
	}
	return d.nodes <= maxNodes
}

// value decodes a node into v.
func (d *decoder) value(n *node, path string, v reflect.Value) {
	if !d.spend() {
		return
	}
	if n.kind == nullNode {
		d.fail(path, "has no value: write one or remove the key")
		return
	}
	if v.Kind() == reflect.Pointer {
		pointed := d.fresh(v.Type().Elem())
		if !v.IsNil() {
			pointed.Set(v.Elem())
		}
		v.Set(pointed.Addr())
		v = pointed
	}
	want := scalarNode
	switch v.Kind() {
	case reflect.Struct, reflect.Map:
		want = mappingNode
	case reflect.Slice:
		want = listNode
	}
	if n.kind != want {
		d.fail(path, "expected %s, found %s", want, n.kind)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, path, v)
	case reflect.Map:
		d.table(n, path, v)
	case reflect.Slice:
		d.list(n, path, v)
	default:
		d.scalar(n, path, v)
	}
}

func (d *decoder) structure(n *node, path string, v reflect.Value) {
	fields := fieldsOf(v.Type())
	for _, p := range n.pairs {
		key := p.key.text
		field, ok := fields[key]
		switch {
		case ok:
			at := v.FieldByIndex(field.Index)
			d.named(p, join(path, key), at)
			d.file(field, join(path, key), at)
		case path == "" && strings.HasPrefix(key, "x-"):
		default:
			d.unknownKey(p.key, path, fields)
		}
	}
}

// file joins a relative file name with the folder, and notes the file.
func (d *decoder) file(field reflect.StructField, path string, v reflect.Value) {
	kind, ok := field.Tag.Lookup("file")
	if !ok || v.String() == "" {
		return
	}
	name := v.String()
	if !filepath.IsAbs(name) {
		name = filepath.Join(d.dir, name)
	}
	v.SetString(name)
	d.files = append(d.files, fileRef{path: path, file: name, kind: kind})
}

func (d *decoder) table(n *node, path string, v reflect.Value) {
	out := reflect.MakeMapWithSize(v.Type(), len(n.pairs))
	for _, p := range n.pairs {
		key := p.key.text
		at := join(path, printable(key))
		if p.key.plain && notPlainText(key) {
			d.add(p.key.at, "%s: YAML does not read the key %s as text: quote it", path, key)
			continue
		}
		value := d.fresh(v.Type().Elem())
		d.named(p, at, value)
		out.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), value)
	}
	v.Set(out)
}

func (d *decoder) list(n *node, path string, v reflect.Value) {
	out := reflect.MakeSlice(v.Type(), 0, len(n.items))
	for i, item := range n.items {
		value := d.fresh(v.Type().Elem())
		at := fmt.Sprintf("%s[%d]", path, i)
		d.positions[at] = item.at
		d.value(item, at, value)
		out = reflect.Append(out, value)
	}
	v.Set(out)
}

func (d *decoder) scalar(n *node, path string, v reflect.Value) {
	switch {
	case v.Type() == reflect.TypeFor[time.Duration]():
		d.duration(n, path, v)
	case v.Kind() == reflect.String:
		d.text(n, path, v)
	case v.Kind() == reflect.Bool:
		d.boolean(n, path, v)
	case v.CanInt():
		d.integer(n, path, v)
	default:
		d.fail(path, "rebearer cannot read a %s", v.Type())
	}
}

// text accepts a plain scalar only where every version of YAML reads text. In
// many parsers no, on or 012 would silently be something else.
func (d *decoder) text(n *node, path string, v reflect.Value) {
	if n.plain && notPlainText(n.text) {
		d.fail(path, "YAML does not read %s as text: quote it", n.text)
		return
	}
	v.SetString(n.text)
}

func (d *decoder) boolean(n *node, path string, v reflect.Value) {
	if !n.plain || n.text != "true" && n.text != "false" {
		d.fail(path, "%s is not possible: write true or false, without quotes", quote(n.text))
		return
	}
	v.SetBool(n.text == "true")
}

func (d *decoder) integer(n *node, path string, v reflect.Value) {
	number, err := strconv.ParseInt(n.text, 10, 64)
	// What is not its own canonical form may be octal elsewhere.
	if err != nil || !n.plain || strconv.FormatInt(number, 10) != n.text || v.OverflowInt(number) {
		d.fail(path, "%s is not possible: write a whole number, without quotes", quote(n.text))
		return
	}
	v.SetInt(number)
}

func (d *decoder) duration(n *node, path string, v reflect.Value) {
	if _, err := strconv.ParseFloat(n.text, 64); err == nil {
		d.fail(path, "%s has no unit: write a duration like 30s, 5m or 1h30m", quote(n.text))
		return
	}
	duration, err := time.ParseDuration(n.text)
	if err != nil {
		d.fail(path, "%s is not a duration: write it like 30s, 5m or 1h30m", quote(n.text))
		return
	}
	if duration < 0 {
		d.fail(path, "%s is negative", quote(n.text))
		return
	}
	v.SetInt(int64(duration))
}

// unknownKey refuses a key, and says what was probably meant.
func (d *decoder) unknownKey(key *node, path string, fields map[string]reflect.StructField) {
	if !d.spend() || d.full() {
		d.dropped++
		return
	}
	where := ""
	if path != "" {
		where = " in " + path
	}
	known := make([]string, 0, len(fields))
	for name := range sorted(fields) {
		known = append(known, name)
	}
	d.add(key.at, "unknown key %s%s%s", quote(key.text), where, hint(key.text, known))
}

// hint says what an unknown key was probably meant to be. A secret in the file
// itself is the mistake most worth a sentence.
func hint(key string, known []string) string {
	const secretFile = "secret_file"
	if slices.Contains([]string{"secret", "client_secret", "password"}, key) && slices.Contains(known, secretFile) {
		return "; secrets come from files: use " + secretFile
	}
	if file := key + "_file"; slices.Contains(known, file) {
		return "; it comes from a file: use " + file
	}
	return didYouMean(key, known)
}

// fieldsOf returns a struct's fields by the keys that the file uses. Those of an
// embedded struct are the struct's own.
func fieldsOf(t reflect.Type) map[string]reflect.StructField {
	fields := make(map[string]reflect.StructField, t.NumField())
	for _, field := range reflect.VisibleFields(t) {
		if key, ok := field.Tag.Lookup("yaml"); ok {
			fields[key] = field
		}
	}
	return fields
}

// notText matches what YAML 1.1 or YAML 1.2 reads as a boolean, a number
// (also in octal and base 60), a date or nothing.
var notText = regexp.MustCompile(`^(?:` + strings.Join([]string{
	`~|[nN]ull|NULL|`,
	`[yYnN]|[yY]es|YES|[nN]o|NO|[oO]n|ON|[oO]ff|OFF|true|True|TRUE|false|False|FALSE`,
	`[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+)`,
	`[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?`,
	`[-+]?\.(?:[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[iI]nf|INF)|\.(?:nan|NaN|NAN)`,
	`[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt \t].*)?`,
	`=|<<`,
}, "|") + `)$`)

// notPlainText says that a plain scalar is not text in every version of YAML.
func notPlainText(s string) bool { return notText.MatchString(s) }

// join appends a key to a path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// printable returns a name as it stands in paths: quoted if it is not one
// that rebearer accepts.
func printable(name string) string {
	if namePattern.MatchString(name) {
		return name
	}
	return quote(name)
}
