//go:build unix

package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/api"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/load"
)

// callersToken returns a caller's token of the callers' provider, always the same
// for the same subject.
func (s *stack) callersToken(t testing.TB, subject string) string {
	t.Helper()
	if s.others[subject] != "" {
		return s.others[subject]
	}
	token, err := s.callers.Sign(map[string]any{
		"iss": s.callers.Issuer(), "sub": subject, "aud": audience, "jti": subject,
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.others[subject] = token
	return token
}

// trafficOf is what one caller sends: to a path that says whose it is.
func (s *stack) trafficOf(t testing.TB, subject string) *traffic {
	t.Helper()
	token := s.callersToken(t, subject)
	return s.traffic(t, load.Config{
		URL: "/" + subject, Connections: 2, Rate: 20,
		Token: func(context.Context) (string, error) { return token, nil },
	})
}

// asSubject sends one request of a caller.
func (s *stack) asSubject(t testing.TB, subject string) answer {
	t.Helper()
	return s.send(t, http.MethodGet, "/"+subject, nil, with("Authorization", "Bearer "+s.callersToken(t, subject)))
}

const exchangeGrant = "urn:ietf:params:oauth:grant-type:token-exchange"

// exchangeStack is a stack whose backend tokens a real provider gives for those of
// callers, but for some callers.
func exchangeStack(t *testing.T, w way, rejection api.Rejection, refused ...string) (*stack, *realProvider, *oidcSetup, *introspection) {
	t.Helper()
	newest().Require(t)
	setup := &oidcSetup{Clients: []oidcClient{
		machine(gatewayID, gatewaySecret, oidcClient{"grant_types": []string{exchangeGrant}}), machine(apiID, apiSecret, nil),
	}}
	p := newOIDCProvider(t, setup)
	asks := p.oidcIntrospection()
	s := newStack(t, newest(), stackOptions{
		way: w, backendURL: p.issuer, valid: asks.valid, credential: "grant: token_exchange", rejection: rejection, record: 100_000,
		before: func(s *stack) {
			setup.Subjects = &oidcSubjects{Issuer: s.callers.Issuer(), JWKS: s.callers.Issuer() + "/jwks", Refused: refused}
			p.start(t)
		},
	})
	return s, p, setup, asks
}

// Every caller's requests go with a token on behalf of that caller, also when
// the provider is started again and all of them are void.
func TestOnBehalfOfCallers(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		s, p, _, asks := exchangeStack(t, w, api.BareForbidden)
		subjects := []string{"alice", "bob", "carol", "dave", "erin", "frank"}
		var all []*traffic
		for _, subject := range subjects {
			all = append(all, s.trafficOf(t, subject))
		}
		everybody := func() {
			t.Helper()
			before := map[*traffic]int{}
			for _, requests := range all {
				before[requests] = requests.Snapshot().ByStatus[http.StatusOK]
			}
			await(t, "answers to everybody", func() bool {
				return !slices.ContainsFunc(all, func(requests *traffic) bool {
					return requests.Snapshot().ByStatus[http.StatusOK] < before[requests]+20
				})
			})
		}
		everybody()
		const asked = `rebearer_token_requests_total{outcome="ok",provider="backend"}`
		s.wantMetrics(t, map[string]float64{asked: float64(len(subjects)), `rebearer_credential_subjects{credential="orders"}`: float64(len(subjects))})
		p.kill(t)
		everybody()
		p.start(t)
		await(t, "a fresh token for each caller", func() bool { return s.metric(t, asked) >= float64(2*len(subjects)) })
		everybody()
		for i, requests := range all {
			if got := requests.end(); got.Failed() > 0 {
				t.Errorf("%d of %s's %d requests failed: %v, %q", got.Failed(), subjects[i], got.Requests, got.ByStatus, got.Failures)
			}
		}
		for _, try := range s.api.Tries() {
			token := strings.TrimPrefix(strings.Join(try.Authorization, ","), "Bearer ")
			if owner := asks.about(token).Subject; "/"+owner != try.Path {
				t.Fatalf("a request of %s came with a token of %q", try.Path, owner)
			}
		}
		t.Logf("%v token requests", s.metric(t, asked))
		s.checkLogs(t, s.callersToken(t, "alice"))
	}, nested, lean)
}

// wantRefusedSubject fails the test if the answer does not tell the caller that
// its own token was refused.
func (a answer) wantRefusedSubject(t testing.TB) {
	t.Helper()
	a.want(t, http.StatusUnauthorized)
	challenge := a.header.Get("Www-Authenticate")
	if !strings.HasPrefix(challenge, "Bearer ") || !strings.Contains(challenge, `error="invalid_token"`) ||
		!strings.Contains(challenge, "refused by its provider") {
		t.Errorf("challenge %q, want one that says that the provider refused the token", challenge)
	}
	if got := a.header.Get("X-Ext-Auth-Reason"); got != "subject_refused" {
		t.Errorf("reason %q, want subject_refused", got)
	}
}

// A caller whose token the provider does not exchange is told so, and it is no
// trouble of the others, nor of our client.
func TestRefusedSubject(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		s, _, _, _ := exchangeStack(t, w, api.Challenge, "mallory")
		const times = 10
		for range times {
			s.asSubject(t, "mallory").wantRefusedSubject(t)
			s.asSubject(t, "alice").want(t, http.StatusOK)
		}
		s.wantMetrics(t, map[string]float64{
			series("rebearer_client_failures", gatewayID, "backend", ""):                                                       0,
			series("rebearer_client_refused", gatewayID, "backend", ""):                                                        0,
			fmt.Sprintf(`rebearer_client_breaker{client=%q,credential="orders",provider="backend",state="closed"}`, gatewayID): 1,
		})
		for _, try := range s.api.Tries() {
			if try.Path != "/alice" {
				t.Errorf("the backend saw %s", try.Path)
			}
		}
		s.checkLogs(t, s.callersToken(t, "mallory"))
	}, nested, lean)
}

// A caller whose token was exchanged before and is refused now, when the backend's
// is dead, is told the same.
func TestSubjectRefusedLater(t *testing.T) {
	everyWay(t, func(t *testing.T, w way) {
		s, p, setup, _ := exchangeStack(t, w, api.Challenge)
		s.asSubject(t, "alice").want(t, http.StatusOK)
		s.asSubject(t, "bob").want(t, http.StatusOK)
		p.kill(t)
		setup.Subjects.Refused = []string{"bob"}
		p.start(t)
		if w == lean { // a retried request does not pass the check again: the next one does
			s.asSubject(t, "bob").wantUnavailable(t)
		}
		for range 3 {
			s.asSubject(t, "bob").wantRefusedSubject(t)
			s.asSubject(t, "alice").want(t, http.StatusOK)
		}
	}, nested, lean)
}
