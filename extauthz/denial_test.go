package extauthz_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/rebearer/rebearer/extauthz"
	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
	"github.com/rebearer/rebearer/tokens"
)

func TestTroubleIsNotTheCallersFault(t *testing.T) {
	t.Parallel()
	good := verifierFunc(func(context.Context, string) (caller.Identity, error) { return caller.Identity{}, nil })
	failing := func(err error) verifierFunc {
		return func(context.Context, string) (caller.Identity, error) { return caller.Identity{}, err }
	}
	tests := []struct {
		name       string
		callers    extauthz.Verifier
		credential *credential
		reason     string
		retryAfter string
	}{
		{"no backend token", good, &credential{err: &tokens.UnavailableError{RetryAfter: 1500 * time.Millisecond, Err: errors.New("x")}}, "backend_token_unavailable", "2"},
		{"no backend token, ask at once", good, &credential{err: &tokens.UnavailableError{Err: errors.New("x")}}, "backend_token_unavailable", "0"},
		{"no backend token for long", good, &credential{err: fmt.Errorf("x: %w", &tokens.UnavailableError{RetryAfter: time.Hour})}, "backend_token_unavailable", "300"},
		{"deadline", good, &credential{err: context.DeadlineExceeded}, "deadline", "1"},
		{"unforeseen", good, &credential{err: errors.New("x")}, "internal", "1"},
		{"panic", good, &credential{fault: true}, "internal", "1"},
		{"empty token", good, &credential{}, "internal", "1"},
		{"token with a line break", good, &credential{value: backendToken + "\r\nx-admin: 1"}, "internal", "1"},
		{"token that is not UTF-8", good, &credential{value: backendToken + "\xff"}, "internal", "1"},
		{"no keys", failing(&caller.UnavailableError{Reason: caller.ReasonKeys, RetryAfter: 10 * time.Second, Err: errors.New("x")}), &credential{}, "caller_keys_unavailable", "10"},
		{"a verifier that does not say why", failing(&caller.UnavailableError{Err: errors.New("x")}), &credential{}, "caller_unavailable", "1"},
		{"unforeseen in the verifier", failing(errors.New("x")), &credential{}, "internal", "1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.setPolicies(t, extauthz.Policy{Name: "default", Callers: tt.callers, Credential: tt.credential})
			got := f.check(t, extauthztest.NewRequest(extauthztest.WithBearer("x")))
			want := answer{Code: codes.Unavailable, Status: 503, Headers: map[string]string{
				"content-type": "application/problem+json", "cache-control": "no-store",
				"x-ext-auth-reason": tt.reason, "retry-after": tt.retryAfter,
			}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
			f.mustNotLog(t)
		})
	}
}

// A token that its provider does not exchange is the caller's trouble, whatever
// else is wrong.
func TestRefusedSubjectIsTheCallers401(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	good := verifierFunc(func(context.Context, string) (caller.Identity, error) { return caller.Identity{}, nil })
	refused := &tokens.SubjectError{Err: errors.New("x")}
	for _, err := range []error{refused, fmt.Errorf("x: %w", refused), &tokens.UnavailableError{Err: refused}} {
		f.setPolicies(t, extauthz.Policy{Name: "default", Callers: good, Credential: &credential{err: err}})
		got := f.check(t, extauthztest.NewRequest(extauthztest.WithBearer("x")))
		want := answer{Code: codes.Unauthenticated, Status: 401, Headers: map[string]string{
			"content-type": "application/problem+json", "cache-control": "no-store", "x-ext-auth-reason": "subject_refused",
			"www-authenticate": `Bearer realm="rebearer", error="invalid_token", ` +
				`error_description="token refused by its provider when it was to be exchanged for the backend's"`,
		}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v: answer (-want +got):\n%s", err, diff)
		}
	}
}

func TestIssuerDownIs503AndRecovers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fixture{
			issuer: extauthztest.NewIssuer(t), credential: &credential{value: backendToken},
			metrics: prometheus.NewPedanticRegistry(), log: &logBuffer{},
		}
		f.issuer.SetDown(true)
		f.setUp(t, caller.NewKeySet(f.issuer, slog.New(slog.DiscardHandler)))
		request := extauthztest.NewRequest(extauthztest.WithBearer(f.issuer.Token("alice", nil)))
		for _, down := range []bool{true, false} {
			f.issuer.SetDown(down)
			response, err := f.server.Check(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			got := read(t, response)
			if down && (got.Status != 503 || got.Headers["retry-after"] == "") || !down && got.Code != codes.OK {
				t.Errorf("down %t: got %+v", down, got)
			}
			time.Sleep(2 * time.Second)
		}
	})
}

// security.md B13: everybody gets what his protocol can show. Envoy makes a gRPC
// status of a denial, and its message of the body.
func TestFormsOfDenials(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const (
		problem = `{"title":"Unauthorized","status":401,"detail":"bearer token missing","reason":"token_missing"}`
		page    = "<!doctype html>\n<html lang=\"en\"><title>401 Unauthorized</title><h1>Unauthorized</h1><p>bearer token missing (token_missing)</p></html>\n"
		text    = "bearer token missing"
	)
	for _, tt := range []struct{ name, contentType, accept, kind, body string }{
		{"anybody", "", "", "application/problem+json", problem},
		{"a program", "application/json", "application/json, */*", "application/problem+json", problem},
		{"a browser that navigates", "", "text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8", page},
		{"a browser's fetch", "text/plain", "*/*", "application/problem+json", problem},
		{"gRPC", "application/grpc", "", "text/plain; charset=utf-8", text},
		{"gRPC with a codec", "application/grpc+proto", "text/html", "text/plain; charset=utf-8", text},
		{"gRPC with a parameter", "Application/gRPC;x=y", "", "text/plain; charset=utf-8", text},
		{"gRPC-Web, which is HTTP", "application/grpc-web", "", "application/problem+json", problem},
	} {
		t.Run(tt.name, func(t *testing.T) {
			response, err := f.client.Check(t.Context(), extauthztest.NewRequest(
				extauthztest.WithHeader("content-type", tt.contentType), extauthztest.WithHeader("accept", tt.accept)))
			if err != nil {
				t.Fatal(err)
			}
			got := read(t, response)
			if body := response.GetDeniedResponse().GetBody(); got.Headers["content-type"] != tt.kind || body != tt.body {
				t.Errorf("got %s:\n%s", got.Headers["content-type"], body)
			}
			if got.Status != 401 || got.Headers["x-ext-auth-reason"] != "token_missing" || got.Headers["www-authenticate"] == "" {
				t.Errorf("got %+v", got)
			}
		})
	}
}
