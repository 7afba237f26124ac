package main

import (
	"encoding/base64"
	"maps"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/api"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/provider"
)

// Whatever a caller sends, the backend sees one authorization value, and it is
// ours, on every try.
func TestBackendSeesOurTokenOnly(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		s := newStack(t, newest(), stackOptions{way: w, rejection: api.Challenge, record: 100})
		theirs := "Bearer " + s.token
		basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("someone:secret"))
		tests := []struct {
			name   string
			change []func(*http.Request)
			want   int
			push   int // where that is another: Envoy reads headers in its own way
		}{
			{"as it should be", nil, http.StatusOK, 0},
			{"mixed case", []func(*http.Request){without("Authorization"), with("aUtHoRiZaTiOn", theirs)}, http.StatusOK, 0},
			{"scheme in lower case", []func(*http.Request){with("Authorization", "bearer "+s.token)}, http.StatusOK, 0},
			{"underscore beside it", []func(*http.Request){with("authorization_", theirs), with("Author_ization", theirs)}, http.StatusOK, 0},
			{"underscore instead", []func(*http.Request){without("Authorization"), with("authorization_", theirs)}, http.StatusUnauthorized, 0},
			{"twice", []func(*http.Request){with("Authorization", theirs, theirs)}, http.StatusBadRequest, http.StatusUnauthorized},
			{"twice in two cases", []func(*http.Request){with("authorization", theirs)}, http.StatusBadRequest, http.StatusUnauthorized},
			{"twice, one empty", []func(*http.Request){with("Authorization", theirs, "")}, http.StatusOK, 0},
			{"joined by a comma", []func(*http.Request){with("Authorization", theirs+", "+theirs)}, http.StatusBadRequest, http.StatusUnauthorized},
			{"Basic before Bearer", []func(*http.Request){with("Authorization", basic, theirs)}, http.StatusUnauthorized, http.StatusOK},
			{"Bearer before Basic", []func(*http.Request){with("Authorization", theirs, basic)}, http.StatusBadRequest, http.StatusUnauthorized},
			{"Basic joined to Bearer", []func(*http.Request){with("Authorization", theirs+","+basic)}, http.StatusBadRequest, http.StatusUnauthorized},
			{"Basic alone", []func(*http.Request){with("Authorization", basic)}, http.StatusUnauthorized, 0},
			{"named by Connection", []func(*http.Request){with("Connection", "authorization")}, http.StatusUnauthorized, 0},
			{"in the query", []func(*http.Request){without("Authorization"), withQuery("access_token=" + s.token)}, http.StatusUnauthorized, 0},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				if w == pushed && tt.push != 0 {
					tt.want = tt.push
				}
				before := s.api.Counts().Requests
				s.restart(t)
				for range 2 { // with a dead token and with a living one
					a := s.send(t, http.MethodGet, api.EchoPath, nil, tt.change...)
					a.want(t, tt.want)
					if tt.want != http.StatusOK {
						continue
					}
					for name := range a.echo(t).Headers {
						if strings.Contains(name, "_") {
							t.Errorf("the backend sees %s", name)
						}
					}
				}
				least, most := 3, 3
				switch {
				case tt.want != http.StatusOK:
					least, most = 0, 0
				case w == pushed:
					most = 4 // Envoy may be told of the new token after the second request
				}
				if got := s.api.Counts().Requests - before; got < least || got > most {
					t.Errorf("%d tries reached the backend, want %d to %d", got, least, most)
				}
			})
		}
		for _, try := range s.api.Tries() {
			switch {
			case len(try.Authorization) != 1:
				t.Errorf("a try with %d authorization values", len(try.Authorization))
			case !strings.HasPrefix(try.Authorization[0], "Bearer "), strings.Contains(try.Authorization[0], s.token),
				strings.ContainsAny(try.Authorization[0], ", \t") && strings.Count(try.Authorization[0], " ") > 1:
				t.Error("a try with another value than our token")
			}
		}
		s.checkLogs(t)
	})
}

func without(name string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Del(name) }
}

func withQuery(query string) func(*http.Request) {
	return func(r *http.Request) { r.URL.RawQuery = query }
}

// A caller whose own token is not good is told so, and only what it may know.
func TestCallersToken(t *testing.T) {
	t.Parallel()
	s := newStack(t, newest(), stackOptions{})
	stranger, _ := newProvider(t, provider.JWT)
	now := time.Now()
	sign := func(by *provider.Provider, changes map[string]any) string {
		claims := map[string]any{
			"iss": s.callers.Issuer(), "sub": callerID, "client_id": callerID, "aud": audience,
			"iat": now.Add(-time.Hour).Unix(), "exp": now.Add(time.Hour).Unix(),
		}
		maps.Copy(claims, changes)
		token, err := by.Sign(claims)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	good := sign(s.callers, nil)
	const invalid = "token invalid"
	tests := []struct {
		name, token, description string // no description means a good token
	}{
		{"good", good, ""},
		{"expired", sign(s.callers, map[string]any{"exp": now.Add(-time.Minute).Unix()}), "token expired"},
		{"not yet valid", sign(s.callers, map[string]any{"nbf": now.Add(time.Hour).Unix()}), "token not yet valid"},
		{"wrong audience", sign(s.callers, map[string]any{"aud": "api://others"}), "token is for another audience"},
		{"wrong issuer", sign(s.callers, map[string]any{"iss": "https://issuer.example"}), invalid},
		{"strange key", sign(stranger, nil), invalid},
		{"claims changed", changePart(good, 1), invalid},
		{"signature changed", changePart(good, 2), invalid},
		{"no signature", good[:strings.LastIndex(good, ".")+1], invalid},
		{"garbage", "garbage", invalid},
		{"unsigned", "eyJhbGciOiJub25lIn0.e30.", invalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := s.send(t, http.MethodGet, "/", nil, with("Authorization", "Bearer "+tt.token))
			if tt.description == "" {
				a.want(t, http.StatusOK)
				return
			}
			a.want(t, http.StatusUnauthorized)
			want := `Bearer realm="rebearer", error="invalid_token", error_description="` + tt.description + `"`
			if got := a.header.Get("Www-Authenticate"); got != want {
				t.Errorf("challenge %s, want %s", got, want)
			}
			if !strings.Contains(a.body, tt.description) || strings.Contains(a.body, tt.token) {
				t.Errorf("body %q, want %q and no token", a.body, tt.description)
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		a := s.send(t, http.MethodGet, "/", nil, without("Authorization"))
		a.want(t, http.StatusUnauthorized)
		if got, want := a.header.Get("Www-Authenticate"), `Bearer realm="rebearer"`; got != want {
			t.Errorf("challenge %s, want %s", got, want)
		}
	})
	if seen := s.api.Counts().Requests; seen != 1 {
		t.Errorf("%d requests reached the backend, want only the good one", seen)
	}
	s.checkLogs(t)
}

// changePart changes a character in the middle of a part of a JWT.
func changePart(token string, part int) string {
	parts := strings.Split(token, ".")
	text := []byte(parts[part])
	middle := len(text) / 2
	if text[middle] == 'A' {
		text[middle] = 'B'
	} else {
		text[middle] = 'A'
	}
	parts[part] = string(text)
	return strings.Join(parts, ".")
}

// A changed configuration is taken while requests pass. A route whose policy is
// gone is closed, a configuration that is wrong changes nothing, and the
// backend's token is kept.
func TestReload(t *testing.T) {
	t.Parallel()
	s := newStack(t, newest(), stackOptions{})
	content, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	good := string(content)
	become := func(text string, status int) {
		t.Helper()
		write(t, s.config, text)
		await(t, http.StatusText(status), func() bool { return s.ask(t).status == status })
	}
	s.ask(t).want(t, http.StatusOK)

	become(strings.Replace(good, "  default: {callers", "  other: {callers", 1), http.StatusServiceUnavailable)
	s.ask(t).wantUnavailable(t)
	become(good, http.StatusOK)

	write(t, s.config, good+"typo: 1\n")
	await(t, "the refusal", func() bool { return strings.Contains(s.logs.String(), "is refused; the old one stays") })
	s.ask(t).want(t, http.StatusOK)

	become(strings.Replace(good, audience, "api://others", 1), http.StatusUnauthorized)
	become(good, http.StatusOK)
	if asked := s.backend.Counts().TokenRequests; asked != 1 {
		t.Errorf("%d token requests, want 1", asked)
	}
}
