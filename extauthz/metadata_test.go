package extauthz_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/rebearer/rebearer/extauthz"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
	"github.com/rebearer/rebearer/tokens"
)

// security.md B14: what access logs get, and that it holds no token and no claim
// but the subject, where the backend is told that too.
func TestMetadata(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	secret := map[string]any{"sub": "canary-subject", "tenant": "canary-tenant", "jti": "canary-jti", "client_id": "canary-client"}
	good := f.issuer.Token("", secret)
	who := string(tokens.FingerprintOf(f.issuer.URL + "\x00canary-subject"))
	allowed := func(more map[string]any) map[string]any {
		want := map[string]any{
			"policy": "default", "credential": "orders", "generation": 7.0, "age_ms": 3000.0,
		}
		for name, value := range more {
			want[name] = value
		}
		return want
	}
	denied := func(verdict, reason string, more ...string) map[string]any {
		want := map[string]any{"policy": "default", "verdict": verdict, "reason": reason}
		for i := 0; i < len(more); i += 2 {
			want[more[i]] = more[i+1]
		}
		return want
	}
	tests := map[string]struct {
		change func(*extauthz.Policy)
		option extauthztest.RequestOption
		want   map[string]any
	}{
		"allowed": {
			func(*extauthz.Policy) {}, extauthztest.WithBearer(good),
			allowed(map[string]any{"caller": who}),
		},
		"subject told": {
			func(p *extauthz.Policy) { p.Forward.Subject = "x-subject" }, extauthztest.WithBearer(good),
			allowed(map[string]any{"caller": who, "subject": "canary-subject"}),
		},
		"on behalf of the caller": {
			func(p *extauthz.Policy) { p.Credential = &credential{value: backendToken, subject: "hash"} }, extauthztest.WithBearer(good),
			allowed(map[string]any{"caller": who, "subject_key": "hash"}),
		},
		"for this request alone": {
			func(p *extauthz.Policy) { p.Credential = &credential{value: backendToken, single: true} }, extauthztest.WithBearer(good),
			allowed(map[string]any{"caller": who, "generation": 0.0, "bypass": true}),
		},
		"anonymous": {
			func(p *extauthz.Policy) { p.Anonymous, p.Forward.Subject = true, "x-subject" }, extauthztest.WithHeader("x", "y"),
			allowed(map[string]any{"reason": "anonymous"}),
		},
		"no token": {func(*extauthz.Policy) {}, extauthztest.WithHeader("x", "y"), denied("deny", "token_missing")},
		"bad signature": {
			func(*extauthz.Policy) {}, extauthztest.WithBearer(good[:len(good)-8] + "AAAAAAAA"), denied("deny", "token_signature"),
		},
		"expired": {
			func(*extauthz.Policy) {}, extauthztest.WithBearer(f.issuer.Token("", map[string]any{"exp": 1, "sub": "canary-subject"})),
			denied("deny", "token_expired"),
		},
		"scope": {
			func(p *extauthz.Policy) { p.Require.Scopes, p.Forward.Subject = []string{"more"}, "x-subject" }, extauthztest.WithBearer(good),
			denied("deny", "insufficient_scope", "caller", who),
		},
		"no backend token": {
			func(p *extauthz.Policy) { p.Credential = &credential{err: &tokens.UnavailableError{Err: errCanary}} }, extauthztest.WithBearer(good),
			denied("unavailable", "backend_token_unavailable", "caller", who),
		},
		"unknown policy": {
			func(*extauthz.Policy) {}, extauthztest.WithPolicy("made-up-policy"),
			map[string]any{"policy": "unknown", "verdict": "unavailable", "reason": "policy_unknown"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f.setDefault(t, tt.change)
			response, err := f.client.Check(t.Context(), extauthztest.NewRequest(tt.option))
			if err != nil {
				t.Fatal(err)
			}
			got := metadataOf(t, response)
			if age, ok := got["age_ms"].(float64); ok && age >= 3000 && age < 60_000 {
				got["age_ms"] = 3000.0
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("metadata (-want +got):\n%s", diff)
			}
			subject := tt.want["subject"]
			if response.GetOkResponse() != nil {
				response.HttpResponse = nil // which has the backend token, and what the backend is told
			}
			text := protojson.Format(response)
			for _, canary := range []string{"canary-tenant", "canary-jti", "canary-client", "made-up-policy", backendToken, good} {
				if strings.Contains(text, canary) {
					t.Errorf("the answer shows %s", canary)
				}
			}
			if subject == nil && strings.Contains(text, "canary-subject") {
				t.Error("the answer shows the subject")
			}
		})
	}
	f.mustNotLog(t, good, "canary-subject", "canary-tenant", "canary-jti", "canary-client")
}

// Whoever sees the backend's answer reads from the metadata what was given.
func TestMetadataHoldTheUse(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	caller := tokens.FingerprintOf(f.issuer.URL + "\x00alice")
	for name, tt := range map[string]struct {
		given *credential
		want  tokens.Use
	}{
		"our own token":   {&credential{value: backendToken}, tokens.Use{Generation: 7}},
		"on behalf":       {&credential{value: backendToken, subject: "hash"}, tokens.Use{Generation: 7, Subject: "hash"}},
		"for one request": {&credential{value: backendToken, single: true}, tokens.Use{Bypass: true}},
	} {
		t.Run(name, func(t *testing.T) {
			f.setDefault(t, func(p *extauthz.Policy) { p.Credential = tt.given })
			response, err := f.client.Check(t.Context(), extauthztest.NewRequest(extauthztest.WithBearer(f.issuer.Token("alice", nil))))
			if err != nil {
				t.Fatal(err)
			}
			got := tokens.UseFromFields(metadataOf(t, response))
			if got.Age < 3*time.Second || got.Age > time.Minute {
				t.Errorf("age %v", got.Age)
			}
			tt.want.Policy, tt.want.Credential, tt.want.Caller, got.Age = "default", "orders", caller, 0
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

var errCanary = errors.New("trouble")
