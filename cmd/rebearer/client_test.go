package main

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net/http"
	"testing"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/load"
)

// fetchToken gets a caller's token.
func fetchToken(t testing.TB, url string) string {
	t.Helper()
	c := clientcredentials.Config{
		ClientID: callerID, ClientSecret: callerSecret, TokenURL: url, AuthStyle: oauth2.AuthStyleInHeader,
	}
	token, err := c.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return token.AccessToken
}

// answer is what a caller got.
type answer struct {
	status int
	header http.Header
	body   string
}

// send sends one request through Envoy with the caller's token, and reads the
// whole answer. A change may do anything to the request before.
func (s *stack) send(t testing.TB, method, path string, body []byte, changes ...func(*http.Request)) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.url+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+s.token)
	for _, change := range changes {
		change(request)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{status: response.StatusCode, header: response.Header, body: string(text)}
}

// ask sends a plain GET.
func (s *stack) ask(t testing.TB) answer {
	t.Helper()
	return s.send(t, http.MethodGet, "/", nil)
}

// with sets a header, spelled as it is, to any number of values.
func with(name string, values ...string) func(*http.Request) {
	return func(r *http.Request) { r.Header[name] = values }
}

// want fails the test if the status is another one.
func (a answer) want(t testing.TB, status int) {
	t.Helper()
	if a.status != status {
		t.Errorf("status %d, want %d; header %v, body %q", a.status, status, a.header, a.body)
	}
	if a.header.Get("X-Rebearer-Retry") != "" {
		t.Errorf("the caller sees the retry header")
	}
}

// wantUnavailable fails the test if the answer is not our 503: it says when to
// come again, and never that the caller's token were to blame.
func (a answer) wantUnavailable(t testing.TB) {
	t.Helper()
	a.want(t, http.StatusServiceUnavailable)
	if a.header.Get("Retry-After") == "" {
		t.Errorf("no Retry-After in %v", a.header)
	}
	if a.header.Get("Www-Authenticate") != "" {
		t.Errorf("a challenge in %v", a.header)
	}
}

// get returns the status of a GET, or 0.
func get(t testing.TB, url string) int {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		return 0
	}
	_ = response.Body.Close()
	return response.StatusCode
}

// traffic is a load that goes on until it is ended.
type traffic struct {
	*load.Generator

	stop   context.CancelFunc
	result chan load.Result
}

// traffic sends requests through Envoy until it is ended, at the latest with
// the test. They are plain ones of the stack's caller, unless cfg has a path for
// URL or a token.
func (s *stack) traffic(t testing.TB, cfg load.Config) *traffic {
	t.Helper()
	cfg.URL = s.url + cmp.Or(cfg.URL, "/")
	if cfg.Token == nil {
		cfg.Token = func(context.Context) (string, error) { return s.token, nil }
	}
	g, err := load.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	running := &traffic{Generator: g, stop: stop, result: make(chan load.Result, 1)}
	go func() { running.result <- g.Run(ctx) }()
	return running
}

// end waits for the requests under way.
func (r *traffic) end() load.Result {
	r.stop()
	return <-r.result
}

// awaitStatus waits until so many more requests were answered like that.
func (r *traffic) awaitStatus(t testing.TB, status, more int) {
	t.Helper()
	want := r.Snapshot().ByStatus[status] + more
	await(t, http.StatusText(status), func() bool { return r.Snapshot().ByStatus[status] >= want })
}
