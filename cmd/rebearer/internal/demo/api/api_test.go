package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const living = "living"

func newAPI(t *testing.T, cfg Config) *API {
	t.Helper()
	a, err := New(func(token string) bool { return token == living }, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// send calls the API with the authorization values.
func send(t *testing.T, a *API, path, body string, authorization ...string) *http.Response {
	t.Helper()
	request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(body))
	request.Header["Authorization"] = authorization
	recorder := httptest.NewRecorder()
	a.ServeHTTP(recorder, request)
	return recorder.Result()
}

func TestDecision(t *testing.T) {
	t.Parallel()
	const good = "Bearer " + living
	tests := map[string]struct {
		path          string
		authorization []string
		wantStatus    int
		want          Counts
	}{
		"living":          {path: "/", authorization: []string{good}, wantStatus: 200},
		"scheme in lower": {path: "/", authorization: []string{"bearer " + living}, wantStatus: 200},
		"dead":            {path: "/", authorization: []string{"Bearer dead"}, wantStatus: 403, want: Counts{Rejected: 1}},
		"none":            {path: "/", wantStatus: 403, want: Counts{Rejected: 1}},
		"no scheme":       {path: "/", authorization: []string{living}, wantStatus: 403, want: Counts{Rejected: 1}},
		"basic":           {path: "/", authorization: []string{"Basic " + living}, wantStatus: 403, want: Counts{Rejected: 1}},
		"twice":           {path: "/", authorization: []string{good, good}, wantStatus: 403, want: Counts{Rejected: 1, Duplicates: 1}},
		"forbidden":       {path: ForbiddenPath, authorization: []string{good}, wantStatus: 403, want: Counts{Real: 1}},
		"forbidden, dead": {path: ForbiddenPath, authorization: []string{"Bearer dead"}, wantStatus: 403, want: Counts{Rejected: 1}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t, Config{Record: 1})
			response := send(t, a, test.path, "", test.authorization...)
			if response.StatusCode != test.wantStatus {
				t.Errorf("got %d, want %d", response.StatusCode, test.wantStatus)
			}
			if marked := response.Header.Get(RealHeader) == "1"; marked != (test.want.Real == 1) {
				t.Errorf("marked as real: %v", marked)
			}
			if got := response.Header.Get("WWW-Authenticate"); got != "" {
				t.Errorf("got challenge %q, want none", got)
			}
			test.want.Requests, test.want.ByStatus = 1, map[int]int{test.wantStatus: 1}
			if diff := cmp.Diff(test.want, a.Counts()); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
			want := []Try{{Method: http.MethodPost, Path: test.path, Authorization: test.authorization, Status: test.wantStatus}}
			if diff := cmp.Diff(want, a.Tries()); diff != "" {
				t.Errorf("tries (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRejection(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		rejection     Rejection
		wantStatus    int
		wantChallenge bool
	}{
		"bare 403":  {rejection: BareForbidden, wantStatus: 403},
		"bare 401":  {rejection: BareUnauthorized, wantStatus: 401},
		"challenge": {rejection: Challenge, wantStatus: 401, wantChallenge: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t, Config{})
			a.SetRejection(test.rejection)
			response := send(t, a, "/", "", "Bearer dead")
			challenged := strings.Contains(response.Header.Get("WWW-Authenticate"), `error="invalid_token"`)
			if response.StatusCode != test.wantStatus || challenged != test.wantChallenge {
				t.Errorf("got %d and challenge %v, want %d and %v", response.StatusCode, challenged, test.wantStatus, test.wantChallenge)
			}
		})
	}
}

func TestRealForbiddenShare(t *testing.T) {
	t.Parallel()
	a := newAPI(t, Config{RealForbiddenShare: 0.25})
	const requests = 4000
	for range requests {
		send(t, a, "/", "", "Bearer "+living)
	}
	// Ten standard deviations around the mean of 1000.
	if got := a.Counts().Real; got < 730 || got > 1270 {
		t.Errorf("got %d real 403s among %d requests, want about a quarter", got, requests)
	}
	a.SetRealForbiddenShare(1)
	a.SetRealForbiddenShare(2) // ignored
	if response := send(t, a, "/", "", "Bearer "+living); response.Header.Get(RealHeader) != "1" {
		t.Error("a share of 1 let a request pass")
	}
	if send(t, a, HealthPath, "").StatusCode != http.StatusOK {
		t.Error("the health path wants a token")
	}
	if got := a.Counts().Requests; got != requests+1 {
		t.Errorf("got %d requests, want %d without the health check", got, requests+1)
	}
}

func TestEcho(t *testing.T) {
	t.Parallel()
	a := newAPI(t, Config{})
	response := send(t, a, EchoPath+"?q=1", "abc", "Bearer "+living)
	var got Echo
	if err := json.NewDecoder(response.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	want := Echo{
		Method: http.MethodPost, Path: EchoPath + "?q=1", Host: "example.com", Protocol: "HTTP/1.1",
		Headers: http.Header{"Authorization": {"Bearer " + living}}, BodyLength: 3,
		BodySHA256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRetriedHeader(t *testing.T) {
	t.Parallel()
	a := newAPI(t, Config{})
	try := func(id, token string) bool {
		request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		request.Header.Set("X-Request-Id", id)
		request.Header.Set("Authorization", "Bearer "+token)
		recorder := httptest.NewRecorder()
		a.ServeHTTP(recorder, request)
		return recorder.Header().Get(RetriedHeader) == "1"
	}
	if try("1", living) || try("1", "dead") || try("", "dead") || try("", living) {
		t.Error("a request that was not refused before is marked")
	}
	if !try("1", "dead") || !try("1", living) {
		t.Error("a request that was refused before is not marked")
	}
	for i := range keptRefusals {
		try(fmt.Sprintf("other-%d", i), "dead")
	}
	if try("1", living) || !try("other-0", living) || len(a.refused) != keptRefusals || len(a.refusedIDs) != keptRefusals {
		t.Errorf("%d and %d refusals are remembered, want the last %d", len(a.refused), len(a.refusedIDs), keptRefusals)
	}
}

func TestTriesAreBounded(t *testing.T) {
	t.Parallel()
	a := newAPI(t, Config{Record: 2})
	for i := range 10 {
		send(t, a, fmt.Sprintf("/%d", i), "")
		tries := a.Tries()
		if len(tries) != min(i+1, 2) || tries[len(tries)-1].Path != fmt.Sprintf("/%d", i) {
			t.Fatalf("after request %d: got %d tries, want the last two", i, len(tries))
		}
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	valid := func(string) bool { return true }
	if _, err := New(nil, Config{}); err == nil {
		t.Error("no valid function: got no error")
	}
	for name, cfg := range map[string]Config{
		"share above 1": {RealForbiddenShare: 1.1}, "share below 0": {RealForbiddenShare: -0.1}, "record": {Record: -1},
	} {
		if _, err := New(valid, cfg); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}
