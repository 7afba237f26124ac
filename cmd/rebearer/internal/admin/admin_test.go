package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/admin"
	"github.com/rebearer/rebearer/tokens"
)

const (
	backendToken = "very-secret-backend-token"
	adminToken   = "very-secret-admin-token"
)

// source gives numbered tokens, or fails.
type source struct {
	mu   sync.Mutex
	n    int
	fail error
}

func (s *source) Grant(context.Context, tokens.GrantRequest) (tokens.Grant, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	return tokens.Grant{AccessToken: tokens.Secret(fmt.Sprint(backendToken, s.n)), ExpiresIn: time.Hour}, s.fail
}

// fixture is an API with two credentials, "orders" and "stock".
type fixture struct {
	url         string
	address     string
	credentials map[string]*tokens.Credential
	level       *slog.LevelVar
	log         *bytes.Buffer
	issued      chan tokens.Event
}

func newFixture(t *testing.T, change ...func(*admin.Config)) *fixture {
	t.Helper()
	cache, err := tokens.NewCache(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{
		credentials: map[string]*tokens.Credential{}, level: &slog.LevelVar{}, log: &bytes.Buffer{},
		issued: make(chan tokens.Event, 100),
	}
	for _, name := range []string{"orders", "stock"} {
		c, err := tokens.NewCredential(cache, tokens.Config{
			Name: name, Provider: "shop", Key: name, Source: &source{}, Observer: func(ev tokens.Event) {
				if ev.Kind == tokens.EventIssued {
					f.issued <- ev
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		f.credentials[name] = c
	}
	server := httptest.NewUnstartedServer(nil)
	f.address = server.Listener.Addr().String()
	cfg := admin.Config{
		Credentials: func() map[string]*tokens.Credential { return f.credentials },
		Level:       f.level, Logger: slog.New(slog.NewTextHandler(f.log, nil)), Address: f.address,
	}
	for _, c := range change {
		c(&cfg)
	}
	server.Config.Handler = admin.New(cfg)
	server.Start()
	f.url = server.URL
	t.Cleanup(func() {
		server.Close()
		for _, c := range f.credentials {
			c.Close()
		}
		cache.Close()
	})
	return f
}

// guarded asks for the admin token, for changes or for everything.
func guarded(t *testing.T, everything bool) (func(*admin.Config), string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(adminToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(c *admin.Config) { c.TokenFile, c.Guarded = file, everything }, file
}

type request struct {
	method, path, body string
	host               string
	header             map[string]string
}

type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends a request, as JSON unless its header says otherwise.
func (f *fixture) ask(t *testing.T, r request) answer {
	t.Helper()
	made, err := http.NewRequestWithContext(t.Context(), r.method, f.url+r.path, strings.NewReader(r.body))
	if err != nil {
		t.Fatal(err)
	}
	made.Host = r.host
	made.Header.Set("Content-Type", "application/json")
	for name, value := range r.header {
		made.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(made)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{backendToken, adminToken} {
		if strings.Contains(string(body)+fmt.Sprint(response.Header), secret) {
			t.Errorf("%s %s shows a token: %s", r.method, r.path, body)
		}
	}
	return answer{status: response.StatusCode, header: response.Header, body: string(body)}
}

// warm fetches the first token of each credential.
func (f *fixture) warm(t *testing.T) {
	t.Helper()
	for _, c := range f.credentials {
		if _, err := c.Token(t.Context(), tokens.Request{}); err != nil {
			t.Fatal(err)
		}
		<-f.issued
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var before admin.List
	if got := f.ask(t, request{method: "GET", path: "/v1/credentials"}); json.Unmarshal([]byte(got.body), &before) != nil {
		t.Fatalf("got %+v", got)
	}
	want := admin.List{Credentials: []admin.Credential{
		{Name: "orders", Provider: "shop", State: "none", Cache: "cached", Trials: 5},
		{Name: "stock", Provider: "shop", State: "none", Cache: "cached", Trials: 5},
	}}
	if diff := cmp.Diff(want, before); diff != "" {
		t.Errorf("before (-want +got):\n%s", diff)
	}
	f.warm(t)
	got := f.ask(t, request{method: "GET", path: "/v1/credentials"})
	var after admin.List
	if err := json.Unmarshal([]byte(got.body), &after); err != nil {
		t.Fatal(err)
	}
	if got.status != http.StatusOK || got.header.Get("Content-Type") != "application/json" ||
		got.header.Get("Cache-Control") != "no-store" || got.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("got %d %v", got.status, got.header)
	}
	orders := after.Credentials[0]
	if orders.State != "alive" || orders.Generation != 1 || orders.Uses != 1 || orders.Expires == nil || orders.Issued == nil ||
		orders.Renewal == nil || orders.Fingerprint != string(tokens.FingerprintOf(backendToken+"1")) {
		t.Errorf("got %+v", orders)
	}
}

func TestListShowsFailures(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	failing := &source{fail: &tokens.PermanentError{Err: errors.New("status 401, error invalid_client")}}
	cache, err := tokens.NewCache(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	c, err := tokens.NewCredential(cache, tokens.Config{Name: "broken", Key: "b", Source: failing})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f.credentials = map[string]*tokens.Credential{"broken": c}
	_, _ = c.Token(t.Context(), tokens.Request{})
	list, err := admin.NewClient(f.address, "").List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := admin.List{Credentials: []admin.Credential{
		{Name: "broken", State: "none", Cache: "cached", Trials: 5, Failures: 1, Error: "status 401, error invalid_client"},
	}}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFlush(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.warm(t)
	client := admin.NewClient(f.address, "")
	got, err := client.Flush(t.Context(), admin.FlushRequest{Credential: "orders"})
	if diff := cmp.Diff(admin.FlushAnswer{Flushed: []string{"orders"}, Paused: []string{}}, got); err != nil || diff != "" {
		t.Errorf("one: %v (-want +got):\n%s", err, diff)
	}
	if ev := <-f.issued; ev.Credential != "orders" || ev.Generation != 2 || ev.Reason != tokens.ReasonFlush {
		t.Errorf("issued %+v", ev)
	}
	if s := f.credentials["stock"].Status(); s.Token.Generation != 1 {
		t.Errorf("the other was flushed too: %+v", s)
	}
	f.credentials["stock"].Pause()
	got, err = client.Flush(t.Context(), admin.FlushRequest{All: true})
	if diff := cmp.Diff(admin.FlushAnswer{Flushed: []string{"orders"}, Paused: []string{"stock"}}, got); err != nil || diff != "" {
		t.Errorf("all: %v (-want +got):\n%s", err, diff)
	}
	_, err = client.Flush(t.Context(), admin.FlushRequest{Credential: "stock"})
	if err == nil || !strings.Contains(err.Error(), "resume first") {
		t.Errorf("a paused one: got %v", err)
	}
	if !strings.Contains(f.log.String(), "admin: flush") {
		t.Errorf("log: %s", f.log)
	}
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.warm(t)
	client := admin.NewClient(f.address, "")
	for range 2 {
		got, err := client.Pause(t.Context(), "orders")
		if err != nil || !got.Paused || got.Name != "orders" || got.State != "alive" {
			t.Errorf("paused: got %+v, %v", got, err)
		}
	}
	if f.credentials["stock"].Status().Paused {
		t.Error("the other is paused too")
	}
	for range 2 {
		if got, err := client.Resume(t.Context(), "orders"); err != nil || got.Paused {
			t.Errorf("resumed: got %+v, %v", got, err)
		}
	}
}

// What operators do is in the log, with the credential's name.
func TestChangesAreLogged(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, r := range []request{
		{method: "POST", path: "/v1/flush", body: `{"credential": "orders"}`},
		{method: "POST", path: "/v1/credentials/orders/pause", body: `{}`},
		{method: "POST", path: "/v1/credentials/orders/resume", body: `{}`},
		{method: "PUT", path: "/v1/log-level", body: `{"level": "debug"}`},
	} {
		before := f.log.Len()
		if got := f.ask(t, r); got.status != http.StatusOK {
			t.Errorf("got %+v", got)
		}
		if f.log.Len() == before {
			t.Errorf("%s %s is not logged", r.method, r.path)
		}
	}
}

func TestLogLevel(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	if got := f.ask(t, request{method: "GET", path: "/v1/log-level"}); !strings.Contains(got.body, `"INFO"`) {
		t.Errorf("got %+v", got)
	}
	for text, want := range map[string]slog.Level{
		"debug": slog.LevelDebug, "INFO": slog.LevelInfo, "Warn": slog.LevelWarn, "error": slog.LevelError,
	} {
		got := f.ask(t, request{method: "PUT", path: "/v1/log-level", body: fmt.Sprintf(`{"level": %q}`, text)})
		if got.status != http.StatusOK || f.level.Level() != want {
			t.Errorf("%s: got %+v, level %v", text, got, f.level)
		}
	}
	f.level.Set(slog.LevelWarn)
	for _, body := range []string{`{"level": "loud"}`, `{"level": ""}`, `{}`} {
		got := f.ask(t, request{method: "PUT", path: "/v1/log-level", body: body})
		if got.status != http.StatusBadRequest || !strings.Contains(got.body, "debug, info, warn or error") || f.level.Level() != slog.LevelWarn {
			t.Errorf("%s: got %+v, level %v", body, got, f.level)
		}
	}
}

// Every problem is a problem document that says what to do.
func TestProblems(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		request request
		status  int
		detail  string
	}{
		"flush neither":        {request{method: "POST", path: "/v1/flush", body: `{}`}, 400, `"all": true`},
		"flush both":           {request{method: "POST", path: "/v1/flush", body: `{"all": true, "credential": "orders"}`}, 400, `"all": true`},
		"flush an unknown one": {request{method: "POST", path: "/v1/flush", body: `{"credential": "order"}`}, 404, `no credential "order"; there are orders, stock`},
		"flush nothing":        {request{method: "POST", path: "/v1/flush"}, 400, "the body"},
		"an unknown field":     {request{method: "POST", path: "/v1/flush", body: `{"everything": true}`}, 400, "everything"},
		"no JSON":              {request{method: "POST", path: "/v1/flush", body: `all`}, 400, "the body"},
		"a large body": {
			request{method: "POST", path: "/v1/flush", body: `{"credential": "` + strings.Repeat("x", 65<<10) + `"}`}, 400, "too large",
		},
		"pause an unknown one":  {request{method: "POST", path: "/v1/credentials/nobody/pause", body: "{}"}, 404, "there are orders, stock"},
		"resume an unknown one": {request{method: "POST", path: "/v1/credentials/nobody/resume", body: "{}"}, 404, "there are orders, stock"},
		"a form": {
			request{method: "POST", path: "/v1/flush", body: "all=true", header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}},
			415, "application/json",
		},
		"text that is JSON": {
			request{method: "POST", path: "/v1/flush", body: `{"all": true}`, header: map[string]string{"Content-Type": "text/plain"}},
			415, "application/json",
		},
		"a type that begins like JSON": {
			request{method: "POST", path: "/v1/flush", body: `{"all": true}`, header: map[string]string{"Content-Type": "application/jsonp"}},
			415, "application/json",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			got := f.ask(t, tt.request)
			var problem admin.Problem
			if err := json.Unmarshal([]byte(got.body), &problem); err != nil {
				t.Fatalf("got %+v", got)
			}
			if got.status != tt.status || problem.Status != tt.status || problem.Title != http.StatusText(tt.status) ||
				!strings.Contains(problem.Detail, tt.detail) || got.header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("got %d %+v", got.status, problem)
			}
			for name, c := range f.credentials {
				if s := c.Status(); s.Fetching || s.Token.Generation > 0 || s.Paused {
					t.Errorf("%s changed: %+v", name, s)
				}
			}
		})
	}
	f := newFixture(t)
	got := f.ask(t, request{method: "POST", path: "/v1/flush", body: `{"credential": "stock"}`, header: map[string]string{
		"Content-Type": "Application/JSON; charset=utf-8",
	}})
	if got.status != http.StatusOK {
		t.Errorf("JSON with a charset: got %+v", got)
	}
	for _, r := range []request{
		{method: "DELETE", path: "/v1/credentials"}, {method: "POST", path: "/v1/credentials"}, {method: "PUT", path: "/v1/flush"},
	} {
		if got := f.ask(t, r); got.status != http.StatusMethodNotAllowed {
			t.Errorf("%s %s: got %d", r.method, r.path, got.status)
		}
	}
	if got := f.ask(t, request{method: "GET", path: "/v2/credentials"}); got.status != http.StatusNotFound {
		t.Errorf("an unknown path: got %d", got.status)
	}
	// A GET must not change anything.
	for _, path := range []string{
		"/v1/flush", "/v1/credentials/orders/pause", "/v1/credentials/orders/resume", "/v1/credentials/orders/void",
	} {
		if got := f.ask(t, request{method: "GET", path: path}); got.status != http.StatusMethodNotAllowed {
			t.Errorf("GET %s: got %d", path, got.status)
		}
	}
}

// A foreign page can have the browser ask any address under a name of its own.
func TestHostIsChecked(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for host, want := range map[string]int{
		"":                       http.StatusOK, // the listener's own
		"localhost":              http.StatusOK,
		"LocalHost:9002":         http.StatusOK,
		"127.0.0.1":              http.StatusOK,
		"127.0.0.1:1":            http.StatusOK,
		"[::1]:9002":             http.StatusOK,
		"[::1]":                  http.StatusOK,
		"10.1.2.3:9002":          http.StatusOK,
		"evil.example":           http.StatusForbidden,
		"evil.example:9002":      http.StatusForbidden,
		"127.0.0.1.evil.example": http.StatusForbidden,
		"localhost.evil.example": http.StatusForbidden,
		"localhost.":             http.StatusForbidden,
		"rebearer":               http.StatusForbidden,
	} {
		if got := f.ask(t, request{method: "GET", path: "/v1/credentials", host: host}); got.status != want {
			t.Errorf("%q: got %d, want %d", host, got.status, want)
		}
	}
}

func TestTokenGuards(t *testing.T) {
	t.Parallel()
	list := request{method: "GET", path: "/v1/credentials"}
	flush := request{method: "POST", path: "/v1/flush", body: `{"all": true}`}
	for name, tt := range map[string]struct {
		everything bool
		request    request
		header     string
		want       int
	}{
		"loopback, GET without":         {false, list, "", 200},
		"loopback, change without":      {false, flush, "", 401},
		"loopback, change with":         {false, flush, "Bearer " + adminToken, 200},
		"loopback, change, bearer":      {false, flush, "bearer " + adminToken, 200},
		"loopback, change with another": {false, flush, "Bearer " + adminToken + "x", 401},
		"loopback, change with a start": {false, flush, "Bearer very", 401},
		"loopback, change with nothing": {false, flush, "Bearer ", 401},
		"loopback, change with Basic":   {false, flush, "Basic " + adminToken, 401},
		"loopback, change, no scheme":   {false, flush, adminToken, 401},
		"elsewhere, GET without":        {true, list, "", 401},
		"elsewhere, GET with":           {true, list, "Bearer " + adminToken, 200},
		"elsewhere, change without":     {true, flush, "", 401},
		"elsewhere, change with":        {true, flush, "Bearer " + adminToken, 200},
		"elsewhere, HEAD without":       {true, request{method: "HEAD", path: "/v1/credentials"}, "", 401},
		"elsewhere, unknown path":       {true, request{method: "GET", path: "/"}, "", 401},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			guard, _ := guarded(t, tt.everything)
			f := newFixture(t, guard)
			r := tt.request
			if tt.header != "" {
				r.header = map[string]string{"Authorization": tt.header}
			}
			got := f.ask(t, r)
			if got.status != tt.want {
				t.Errorf("got %+v, want %d", got, tt.want)
			}
			if tt.want == 401 && !strings.HasPrefix(got.header.Get("WWW-Authenticate"), "Bearer") {
				t.Errorf("challenge: %q", got.header.Get("WWW-Authenticate"))
			}
			if tt.everything && tt.header != "" {
				r.host = "rebearer.example"
				if got := f.ask(t, r); got.status != tt.want {
					t.Errorf("by name: got %d", got.status)
				}
			}
			if strings.Contains(f.log.String(), adminToken) {
				t.Errorf("the log shows the token: %s", f.log)
			}
		})
	}
}

// The token file is read for each request: it can be changed, and one that is
// gone lets nobody in.
func TestTokenFileIsReadAnew(t *testing.T) {
	t.Parallel()
	guard, file := guarded(t, false)
	f := newFixture(t, guard)
	flush := func(token string) int {
		return f.ask(t, request{
			method: "POST", path: "/v1/flush", body: `{"all": true}`, header: map[string]string{"Authorization": "Bearer " + token},
		}).status
	}
	if got := flush(adminToken); got != 200 {
		t.Errorf("got %d", got)
	}
	if err := os.WriteFile(file, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	if before, after := flush(adminToken), flush("another"); before != 401 || after != 200 {
		t.Errorf("after the change: got %d with the old, %d with the new", before, after)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if empty, old := flush(""), flush("another"); empty != 401 || old != 401 {
		t.Errorf("with an empty file: got %d, %d", empty, old)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if empty, old := flush(""), flush("another"); empty != 401 || old != 401 {
		t.Errorf("without the file: got %d, %d", empty, old)
	}
	if !strings.Contains(f.log.String(), "the admin token cannot be read") {
		t.Errorf("log: %s", f.log)
	}
}

func TestClient(t *testing.T) {
	t.Parallel()
	guard, file := guarded(t, true)
	f := newFixture(t, guard)
	f.warm(t)
	client := admin.NewClient(f.address, file)
	list, err := client.List(t.Context())
	if err != nil || len(list.Credentials) != 2 {
		t.Errorf("got %+v, %v", list, err)
	}
	odd := "a/b c?d"
	f.credentials = map[string]*tokens.Credential{odd: f.credentials["orders"]}
	if _, err := client.Pause(t.Context(), odd); err != nil {
		t.Errorf("an odd name: %v", err)
	}
}

// What the client says is for people.
func TestClientErrors(t *testing.T) {
	t.Parallel()
	guard, file := guarded(t, true)
	f := newFixture(t, guard)
	nobody := httptest.NewServer(http.NotFoundHandler())
	nobody.Close()
	another := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(another.Close)
	garbage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }))
	t.Cleanup(garbage.Close)
	at := func(s *httptest.Server) string { return s.Listener.Addr().String() }
	for name, tt := range map[string]struct {
		client *admin.Client
		want   string
	}{
		"no token":        {admin.NewClient(f.address, ""), "the bearer token of server.admin.token_file is needed"},
		"no token file":   {admin.NewClient(f.address, file+".gone"), "no such file"},
		"an unknown one":  {admin.NewClient(f.address, file), `no credential "nobody"; there are orders, stock`},
		"nobody listens":  {admin.NewClient(at(nobody), ""), "is the service running?"},
		"another service": {admin.NewClient(at(another), ""), "admin API at " + at(another) + ": 404 Not Found"},
		"garbage":         {admin.NewClient(at(garbage), ""), "admin API at " + at(garbage)},
		"an odd address":  {admin.NewClient("a b", ""), "admin API at a b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := tt.client.Pause(context.Background(), "nobody")
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func (s *source) Revoke(context.Context, int, tokens.Secret) error { return errors.ErrUnsupported }
