package rejection

import (
	"strings"
	"testing"

	"github.com/rebearer/rebearer/tokens"
)

// What a single condition makes of a body.
func TestCondition(t *testing.T) {
	t.Parallel()
	const document = `{"a":{"b":[10,{"c":"x y"}],"":"empty"},"n":1.50e1,"t":true,"z":null,"s/l":"slash","t~e":"tilde","~1":"both","é":"ü"}`
	tests := map[string]struct {
		body      string
		condition Condition
		want      bool
	}{
		"a text":                    {document, Condition{"/a/b/1/c", "^x y$"}, true},
		"somewhere in a text":       {document, Condition{"/a/b/1/c", "y"}, true},
		"another text":              {document, Condition{"/a/b/1/c", "^x$"}, false},
		"a number":                  {document, Condition{"/a/b/0", "^10$"}, true},
		"a number, as it was sent":  {document, Condition{"/n", `^1\.50e1$`}, true},
		"true":                      {document, Condition{"/t", "^true$"}, true},
		"null":                      {document, Condition{"/z", "^null$"}, true},
		"a list":                    {document, Condition{"/a/b", `^\[10,\{"c":"x y"\}\]$`}, true},
		"an escaped slash":          {document, Condition{"/s~1l", "^slash$"}, true},
		"an escaped tilde":          {document, Condition{"/t~0e", "^tilde$"}, true},
		"both escapes":              {document, Condition{"/~01", "^both$"}, true},
		"an empty name":             {document, Condition{"/a/", "^empty$"}, true},
		"not ASCII":                 {document, Condition{"/é", "^ü$"}, true},
		"names are compared whole":  {document, Condition{"/A", ""}, false},
		"no such member":            {document, Condition{"/a/x", ""}, false},
		"no such item":              {document, Condition{"/a/b/2", ""}, false},
		"an item that is none yet":  {document, Condition{"/a/b/-", ""}, false},
		"a leading zero":            {document, Condition{"/a/b/01", ""}, false},
		"a sign":                    {document, Condition{"/a/b/+1", ""}, false},
		"a huge index":              {document, Condition{"/a/b/99999999999999999999", ""}, false},
		"a step into a text":        {document, Condition{"/s~1l/0", ""}, false},
		"the body as text":          {document, Condition{"", `^\{"a":`}, true},
		"a list at the top":         {`["x"]`, Condition{"/0", "^x$"}, true},
		"a text at the top":         {`"x"`, Condition{"/0", ""}, false},
		"a member twice":            {`{"a":1,"a":1}`, Condition{"/a", ""}, false},
		"a member twice, elsewhere": {`{"a":1,"b":{"c":1,"\u0063":2}}`, Condition{"/a", ""}, false},
		"something behind":          {`{"a":1} x`, Condition{"/a", ""}, false},
		"cut off":                   {`{"a":1`, Condition{"/a", ""}, false},
		"not UTF-8":                 {"{\"a\":\"\xff\"}", Condition{"/a", ""}, false},
		"not JSON, as text":         {`{"a":1} x`, Condition{"", "x$"}, true},
		"nothing":                   {"", Condition{"", ""}, false},
		"deep":                      {strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100), Condition{"/a", ""}, false},
		"as long as is read":        {strings.Repeat("x", MaxBody), Condition{"", ""}, true},
		"longer":                    {strings.Repeat("x", MaxBody+1), Condition{"", ""}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rs, err := NewRules(Rule{Name: "it", Conditions: []Condition{tt.condition}, Verdict: tokens.Dead})
			if err != nil {
				t.Fatal(err)
			}
			d := rs.Decide(Response{Status: 403, ContentType: "application/json", Body: []byte(tt.body)})
			if got := d.Rule == "it"; got != tt.want {
				t.Errorf("matches: got %t, want %t", got, tt.want)
			}
		})
	}
}

// Which bodies are asked for, and which rule decides.
func TestRules(t *testing.T) {
	t.Parallel()
	yes := []Condition{{"", "."}}
	rs, err := NewRules(
		Rule{Name: "first", Statuses: []int{401}, Conditions: yes, Verdict: tokens.NotAllowed},
		Rule{Name: "second", ContentTypes: []string{"application/json", "text/plain"}, Conditions: yes, Verdict: tokens.Dead},
		Rule{
			Name: "third", Statuses: []int{403}, ContentTypes: []string{"text/html"}, Verdict: tokens.Dead,
			Conditions: []Condition{{"", "a"}, {"", "b"}},
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		status      int
		contentType string
		body        string
		wants       bool
		rule        string
	}{
		"in order":                 {401, "application/json", "x", true, "first"},
		"another status":           {403, "application/json", "x", true, "second"},
		"with parameters":          {403, "Application/JSON ; charset=utf-8", "x", true, "second"},
		"a type made of JSON":      {401, "application/problem+json", "x", true, "first"},
		"a type that begins alike": {403, "application/json-seq", "x", false, RuleStatus},
		"text":                     {401, "text/plain;charset=x", "x", true, "second"},
		"all conditions":           {403, "text/html", "ba", true, "third"},
		"not all conditions":       {403, "text/html", "b", true, RuleStatus},
		"not of that status":       {401, "text/html", "ba", false, RuleStatus},
		"another type":             {401, "image/png", "x", false, RuleStatus},
		"no type":                  {401, "", "x", false, RuleStatus},
		"nothing read":             {401, "text/plain", "", true, RuleStatus},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := Response{Status: tt.status, ContentType: tt.contentType, Body: []byte(tt.body)}
			if got := rs.WantsBody(r); got != tt.wants {
				t.Errorf("wants the body: got %t, want %t", got, tt.wants)
			}
			if got := rs.Decide(r); got.Rule != tt.rule {
				t.Errorf("got %+v, want %s", got, tt.rule)
			}
			r.WWWAuthenticate = []string{`Bearer error="insufficient_scope"`}
			if rs.WantsBody(r) {
				t.Error("wants the body although a challenge has decided")
			}
		})
	}
	if (*Rules)(nil).WantsBody(Response{Status: 401, ContentType: "application/json"}) {
		t.Error("no rules want a body")
	}
}

func TestNewRules(t *testing.T) {
	t.Parallel()
	good := Rule{Name: "good", Conditions: []Condition{{"/a", "x"}}, Verdict: tokens.Dead}
	bad := map[string]func(*Rule){
		"no name":              func(r *Rule) { r.Name = "" },
		"no condition":         func(r *Rule) { r.Conditions = nil },
		"no verdict":           func(r *Rule) { r.Verdict = tokens.Unclear },
		"no pointer":           func(r *Rule) { r.Conditions = []Condition{{"a", "x"}} },
		"a tilde alone":        func(r *Rule) { r.Conditions = []Condition{{"/a~", "x"}} },
		"a tilde with another": func(r *Rule) { r.Conditions = []Condition{{"/a~2", "x"}} },
		"no pattern":           func(r *Rule) { r.Conditions = []Condition{{"/a", "("}} },
	}
	for name, spoil := range bad {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := good
			spoil(&r)
			rs, err := NewRules(good, r)
			if err == nil || rs != nil {
				t.Fatalf("got %v, %v", rs, err)
			}
			if !strings.Contains(err.Error(), `"`+r.Name+`"`) {
				t.Errorf("the error does not name the rule: %v", err)
			}
		})
	}
}
