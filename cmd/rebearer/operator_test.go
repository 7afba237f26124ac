package main

import (
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// What an operator sees of the first replica.

// metric returns the value of a series, and 0 if there is none.
func (s *stack) metric(t testing.TB, series string) float64 {
	t.Helper()
	response, err := http.Get(s.status[0] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), series+" "); ok {
			number, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return number
		}
	}
	return 0
}

// wantMetrics fails the test if a series has another value.
func (s *stack) wantMetrics(t testing.TB, want map[string]float64) {
	t.Helper()
	for series, value := range want {
		if got := s.metric(t, series); got != value {
			t.Errorf("%s is %v, want %v", series, got, value)
		}
	}
}

// rebearer runs a command and returns what it prints.
func rebearer(t testing.TB, arguments ...string) string {
	t.Helper()
	out, err := exec.Command("rebearer", arguments...).CombinedOutput()
	if err != nil {
		t.Fatalf("rebearer %s: %v\n%s", strings.Join(arguments, " "), err, out)
	}
	return string(out)
}

// clients returns the lines of `rebearer tokens list` about the clients of a
// credential, by the names of their providers: the fields in their order.
func (s *stack) clients(t testing.TB, credential string) map[string][]string {
	t.Helper()
	_, table, _ := strings.Cut(rebearer(t, "tokens", "list", "--admin", s.admin[0]), "\nCREDENTIAL  CLIENT")
	lines := map[string][]string{}
	for line := range strings.Lines(table) {
		if fields := strings.Fields(line); len(fields) > 3 && fields[0] == credential {
			lines[fields[2]] = fields
		}
	}
	return lines
}
