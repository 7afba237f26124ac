package config

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write the errors that Parse gives into testdata/errors")

// TestErrors compares the exact errors. Each archive in testdata/errors holds
// configurations, NAME.yaml, each followed by what Parse says, NAME.txt.
func TestErrors(t *testing.T) {
	t.Parallel()
	archives, err := filepath.Glob("testdata/errors/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no archives: %v", err)
	}
	for _, archive := range archives {
		t.Run(filepath.Base(archive), func(t *testing.T) {
			t.Parallel()
			checkArchive(t, archive)
		})
	}
}

func checkArchive(t *testing.T, name string) {
	t.Helper()
	archive, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, file := range archive.Files {
		want[file.Name] = string(file.Data)
	}
	out := &txtar.Archive{Comment: archive.Comment}
	for _, file := range archive.Files {
		base, ok := strings.CutSuffix(file.Name, ".yaml")
		if !ok {
			continue
		}
		_, err := Parse(file.Data, "rebearer.yaml")
		got := errorText(err) + "\n"
		if diff := cmp.Diff(want[base+".txt"], got); diff != "" && !*update {
			t.Errorf("%s: (-want +got)\n%s", base, diff)
		}
		out.Files = append(out.Files, file, txtar.File{Name: base + ".txt", Data: []byte(got)})
	}
	if *update {
		if err := os.WriteFile(name, txtar.Format(out), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPlainValues: what YAML 1.1 or 1.2 does not read as text is refused as
// text, everywhere and as a key.
func TestPlainValues(t *testing.T) {
	t.Parallel()
	refused := strings.Fields(`yes Yes YES no No NO on On ON off Off OFF y Y n N true True TRUE false False FALSE
		0 1 -1 +1 007 012 0o7 0x1F 0b11 1_000 12:30 190:20:30 1.5 1. .5 -.5 1e3 1.2e-3 685_230.15
		.inf -.inf +.INF .nan .NaN 2001-12-14 2001-12-14T21:59:43.10-05:00 =`)
	accepted := strings.Fields(`yess noo onn a 1a 1.2.3 10.0.0.1 v1 12:75 0xg api://orders a=b <b - nullx -a _1
		2001-12 1e 1e3s 08:00:00Z0 truefalse`)
	const id = "version: 1\nproviders: {p: {issuer: \"https://idp.example\"}}\ncredentials: {c: {clients: [{provider: p, secret_file: s, id: %s}]}}\n"
	const key = "version: 1\nproviders: {p: {issuer: \"https://idp.example\"}}\ncredentials: {c: {clients: [{provider: p, secret_file: s, id: i}], params: {%s: x}}}\n"
	for _, value := range refused {
		for _, form := range []string{id, key} {
			_, err := Parse(fmt.Appendf(nil, form, value), "rebearer.yaml")
			if err == nil || !strings.Contains(err.Error(), "quote it") {
				t.Errorf("%s: got error %v, want one that says to quote it", value, err)
			}
			mustParse(t, fmt.Sprintf(form, "'"+value+"'"))
			mustParse(t, fmt.Sprintf(form, `"`+value+`"`))
		}
	}
	for _, value := range accepted {
		if value == "-" {
			continue
		}
		cfg := mustParse(t, fmt.Sprintf(id, value))
		if got := cfg.Credentials["c"].Clients[0].ID; got != value {
			t.Errorf("%s was read as %q", value, got)
		}
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	var bomb strings.Builder
	bomb.WriteString("version: 1\nx-0: &a0 [lol]\n")
	for i := 1; i < 40; i++ {
		fmt.Fprintf(&bomb, "x-%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 9), ", "))
	}
	var merges strings.Builder
	merges.WriteString("version: 1\nx-0: &a0 {k: v}\n")
	for i := 1; i < 2000; i++ {
		fmt.Fprintf(&merges, "x-%d: &a%d {<<: *a%d, k%d: v}\n", i, i, i-1, i)
	}
	var square strings.Builder
	square.WriteString("version: 1\nx-l: &l [" + strings.TrimSuffix(strings.Repeat("a, ", 5000), ", ") + "]\npolicies:\n")
	for i := range 2000 {
		fmt.Fprintf(&square, "  p%d: {callers: *l, credential: c}\n", i)
	}
	tests := map[string]struct{ text, want string }{
		"text":           {"# " + strings.Repeat("x", 1<<20), "rebearer.yaml: the file is larger than 1 MiB"},
		"tokens":         {strings.Repeat("- a\n", 30_000), "rebearer.yaml: the file is too large: it has more than 50000 YAML tokens"},
		"flow nesting":   {strings.Repeat("[", 40_000), "rebearer.yaml:1:33: nested too deeply"},
		"block nesting":  {strings.Repeat("- ", 1000) + "a", "rebearer.yaml:1:67: nested too deeply"},
		"merge chain":    {merges.String(), "rebearer.yaml: the file is too large: it expands to more than 100000 values"},
		"aliased list":   {square.String(), "rebearer.yaml: the file is too large: it expands to more than 100000 values"},
		"not text":       {"version: 1\n# \xff\n", "rebearer.yaml: the file is not UTF-8 text"},
		"bomb elsewhere": {bomb.String() + "server: *a39\n", "rebearer.yaml:42:1: server: expected a mapping, found a list"},
		"bomb as text":   {bomb.String() + "providers: {p: {issuer: *a39}}\n", "rebearer.yaml:42:17: providers.p.issuer: expected a single value, found a list"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse([]byte(tt.text), "rebearer.yaml")
			if got := errorText(err); got != tt.want {
				t.Errorf("got %.300q\nwant %q", got, tt.want)
			}
		})
	}
	mustParse(t, bomb.String())
}

// TestManyProblems: a file that is wrong everywhere gives a bounded error.
func TestManyProblems(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	text.WriteString("version: 1\n")
	for i := range 1000 {
		fmt.Fprintf(&text, "key%d: 1\n", i)
	}
	_, err := Parse([]byte(text.String()), "rebearer.yaml")
	lines := strings.Split(errorText(err), "\n")
	if len(lines) != maxProblems+1 || lines[maxProblems] != "rebearer.yaml: and 950 more" {
		t.Errorf("got %d lines, the last %q", len(lines), lines[len(lines)-1])
	}
}

func errorText(err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()
}

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	cfg, err := Parse([]byte(text), "rebearer.yaml")
	if err != nil {
		t.Fatalf("Parse(%.300s): %v", text, err)
	}
	return cfg
}

func readTestFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
