package extauthz_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rebearer/rebearer/extauthz"
	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

// readVectors reads a file of cases of package caller, where they are tested
// one by one; here they go the whole way of a request.
func readVectors(t testing.TB, name string, file any) {
	t.Helper()
	text, err := os.ReadFile("caller/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, file); err != nil {
		t.Fatal(err)
	}
}

// decidedOtherwise lists the cases that are not decided as their files say, and
// what is decided where a file leaves it open, with the reason.
func decidedOtherwise() map[string]string {
	const (
		pinned = "a key is used with its own alg only, as the file's quirks allow"
		empty  = "an empty payload is no claims set, and refused before the signature is looked at"
		short  = "a coordinate of the key is too short (RFC 7518 section 6.2.1.2): go-jose does not read it"
		roca   = "keys are not tested for ROCA, as the file's quirks allow: no provider of today makes them"
	)
	return map[string]string{
		// jwt_attack_cases.json: those that may be either and are accepted.
		"atk-107": "no kid and many keys: the few that fit the algorithm are tried",
		"atk-241": "an ID token with our audience: nothing in it says what it is",
		// jws_cases.json.
		"wp-signature-346": pinned, "wp-signature-350": pinned,
		"wp-signature-347": pinned, "wp-signature-351": pinned,
		"wp-signature-259": empty, "wp-signature-264": empty, "wp-signature-268": empty,
		"wp-signature-272": empty, "wp-signature-320": empty, "wp-signature-325": empty,
		"jvl-jwk_ec-JwtES512Text": short,
		"wp-key-7":                roca,
		// introspection_cases.json: those that may be either and are accepted.
		"in-023": "a scope that is a list: some providers do that, and nothing in it can be read in two ways",
	}
}

// staticKeys is a key set that never changes.
type staticKeys []byte

func (k staticKeys) JWKS(context.Context) ([]byte, error) { return k, nil }

// newServer returns a server with one policy, that gives out a token.
func newServer(t testing.TB, callers extauthz.Verifier) *extauthz.Server {
	t.Helper()
	server, err := extauthz.New(slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	policy := extauthz.Policy{Name: "default", Callers: callers, Credential: steady{tokens.Token{Value: backendToken, Issued: time.Now()}}}
	if err := server.SetPolicies([]extauthz.Policy{policy}); err != nil {
		t.Fatal(err)
	}
	return server
}

// verdict checks a token and returns the status, 0 if it passes, and why.
func verdict(t *testing.T, server *extauthz.Server, token string) (status int, reason string) {
	t.Helper()
	response, err := server.Check(t.Context(), extauthztest.NewRequest(extauthztest.WithBearer(token)))
	if err != nil {
		t.Fatal(err)
	}
	reason, _ = metadataOf(t, response)["reason"].(string)
	return read(t, response).Status, reason
}

func newJWT(t testing.TB, keys caller.KeySource, issuer, audience string) *caller.JWT {
	t.Helper()
	verifier, err := caller.NewJWT(caller.NewKeySet(keys, slog.New(slog.DiscardHandler)), caller.JWTConfig{
		Issuer: issuer, Audiences: []string{audience}, ClockSkew: 30 * time.Second, CacheBytes: 1 << 10,
	})
	if err != nil {
		t.Fatal(err)
	}
	return verifier
}

type attackCases struct {
	Issuer   string                     `json:"issuer"`
	Audience string                     `json:"audience"`
	Now      int64                      `json:"now"`
	Count    int                        `json:"count"`
	Keysets  map[string]json.RawMessage `json:"keysets"`
	Cases    []struct {
		ID     string `json:"id"`
		Name   string `json:"name"`
		Keyset string `json:"keyset"`
		Token  string `json:"token"`
		Repeat *struct {
			Prefix, Unit, Suffix string
			Count                int
		} `json:"repeat"`
		Expect string `json:"expect"`
	} `json:"cases"`
}

// refusal is the status of a token that is not accepted. One with a comma, such as
// the JSON serialisation of a JWS, cannot be told from several headers that were
// joined.
func refusal(token string) int {
	if strings.Contains(token, ",") {
		return 400
	}
	return 401
}

// security.md C16, C17, C19, C20, C26, C27.
func TestCheckAttackCases(t *testing.T) {
	t.Parallel()
	var file attackCases
	readVectors(t, "jwt_attack_cases.json", &file)
	if len(file.Cases) != file.Count || file.Count == 0 {
		t.Fatalf("got %d cases, want %d", len(file.Cases), file.Count)
	}
	for _, tt := range file.Cases {
		t.Run(tt.ID+" "+tt.Name, func(t *testing.T) {
			t.Parallel()
			token := tt.Token
			if tt.Repeat != nil {
				token = tt.Repeat.Prefix + strings.Repeat(tt.Repeat.Unit, tt.Repeat.Count) + tt.Repeat.Suffix
			}
			_, otherwise := decidedOtherwise()[tt.ID]
			want := refusal(token)
			if tt.Expect == "accept" || tt.Expect == "either" && otherwise {
				want = 0
			}
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(time.Unix(file.Now, 0)))
				verifier := newJWT(t, staticKeys(file.Keysets[tt.Keyset]), file.Issuer, file.Audience)
				defer verifier.Close()
				server := newServer(t, verifier)
				for range 2 { // the second time the token may be known
					if got, reason := verdict(t, server, token); got != want {
						t.Errorf("got %d %q, want %d", got, reason, want)
					}
				}
			})
		})
	}
}

// The payloads of these cases are mostly not claims, so that none passes; a good
// signature shows in the reason, which is about the claims then.
func TestCheckSignatureCases(t *testing.T) {
	t.Parallel()
	var file struct {
		Count int `json:"count"`
		Cases []struct {
			ID    string          `json:"id"`
			Name  string          `json:"name"`
			JWKS  json.RawMessage `json:"jwks"`
			Token string          `json:"token"`
			Valid bool            `json:"valid_if_asymmetric_only"`
		} `json:"cases"`
	}
	readVectors(t, "jws_cases.json", &file)
	if len(file.Cases) != file.Count || file.Count == 0 {
		t.Fatalf("got %d cases, want %d", len(file.Cases), file.Count)
	}
	for _, tt := range file.Cases {
		t.Run(tt.ID+" "+tt.Name, func(t *testing.T) {
			t.Parallel()
			verifier := newJWT(t, staticKeys(tt.JWKS), "https://issuer.example", "api://orders")
			defer verifier.Close()
			status, reason := verdict(t, newServer(t, verifier), tt.Token)
			if refused := refusal(tt.Token); status != refused {
				t.Errorf("got %d %q, want %d", status, reason, refused)
			}
			_, otherwise := decidedOtherwise()[tt.ID]
			want := []string{"token_missing", "authorization_repeated", "token_malformed", "token_type", "token_algorithm", "token_key", "token_signature"}
			if tt.Valid != otherwise {
				want = []string{"token_claims", "token_issuer", "token_expired", "token_audience"}
				if !holdsClaims(tt.Token) {
					want = []string{"token_malformed"}
				}
			}
			if !slices.Contains(want, reason) {
				t.Errorf("got %q, want one of %q", reason, want)
			}
		})
	}
}

// holdsClaims reports whether a token's payload is a JSON object.
func holdsClaims(token string) bool {
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims map[string]any
	return err == nil && json.Unmarshal(payload, &claims) == nil
}

// security.md D28, D31, D32.
func TestCheckIntrospectionCases(t *testing.T) {
	t.Parallel()
	var file struct {
		Count int `json:"count"`
		Cases []struct {
			ID          string `json:"id"`
			Name        string `json:"name"`
			Status      int    `json:"status"`
			ContentType string `json:"content_type"`
			Body        string `json:"body"`
			Expect      string `json:"expect"`
		} `json:"cases"`
	}
	readVectors(t, "introspection_cases.json", &file)
	if len(file.Cases) != file.Count || file.Count == 0 {
		t.Fatalf("got %d cases, want %d", len(file.Cases), file.Count)
	}
	for _, tt := range file.Cases {
		t.Run(tt.ID+" "+tt.Name, func(t *testing.T) {
			t.Parallel()
			const token = "opaque-caller-token"
			provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if r.Method != http.MethodPost || strings.Contains(r.RequestURI, token) || !strings.Contains(string(body), token) {
					t.Errorf("%s %s, body %q", r.Method, r.RequestURI, body)
				}
				w.Header().Set("Content-Type", tt.ContentType)
				w.WriteHeader(tt.Status)
				_, _ = io.WriteString(w, tt.Body)
			}))
			defer provider.Close()
			verifier := newOpaque(t, provider.URL)
			defer verifier.Close()
			server := newServer(t, verifier)
			_, otherwise := decidedOtherwise()[tt.ID]
			want := map[string]int{"active": 0, "inactive": 401, "deny": 401, "error": 503, "either": 401}[tt.Expect]
			if otherwise {
				want = 0
			}
			for range 2 {
				if got, reason := verdict(t, server, token); got != want {
					t.Errorf("got %d %q, want %d", got, reason, want)
				}
			}
		})
	}
}

func newOpaque(t testing.TB, introspectionURL string) *caller.Opaque {
	t.Helper()
	provider, err := oauth.NewProvider(oauth.ProviderConfig{
		Name: "shop", Issuer: "https://issuer.example", IntrospectionURL: introspectionURL,
	})
	if err != nil {
		t.Fatal(err)
	}
	source, err := oauth.NewClient(provider, oauth.ClientConfig{
		ID: "gw", Secret: func() (tokens.Secret, error) { return "s3cr3t", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := caller.NewOpaque(source, slog.New(slog.DiscardHandler), caller.OpaqueConfig{
		Issuer: "https://issuer.example", Audiences: []string{"api://orders"}, ClockSkew: 30 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	return verifier
}

// FuzzCheckToken looks for a token that passes though nobody signed it, in every
// place where tokens may be.
func FuzzCheckToken(f *testing.F) {
	var file attackCases
	readVectors(f, "jwt_attack_cases.json", &file)
	good := map[string]bool{}
	for _, c := range file.Cases {
		if len(c.Token) < 4<<10 { // longer ones only make for slow minimizing
			f.Add(c.Token, "Bearer "+c.Token)
		}
		good[c.Token] = c.Expect != "reject"
	}
	for _, value := range []string{"Bearer", "bearer  x", "Bearer\tx", "Basic YTpi, Bearer x", "s=x; s=y", `s="x`, "a=1,s=x", "\xff", "s=;;=;s"} {
		f.Add("x", value)
	}
	verifier := newJWT(f, staticKeys(file.Keysets["main"]), file.Issuer, file.Audience)
	f.Cleanup(verifier.Close)
	watched := verifierFunc(func(ctx context.Context, token string) (caller.Identity, error) {
		who, err := verifier.Verify(ctx, token)
		// One of the attacks is that a token expires in 2027, long before the
		// time of the cases, and rightly passes today.
		if err == nil && !good[token] && who.Expires.Year() >= 2028 {
			f.Errorf("accepted: %s", token)
		}
		return who, err
	})
	server := newServer(f, watched)
	policies := []extauthz.Policy{}
	for name, place := range map[string]extauthz.Place{"default": {}, "header": {Header: "x-token"}, "cookie": {Cookie: "s"}} {
		policies = append(policies, extauthz.Policy{
			Name: name, Callers: watched, Credential: steady{tokens.Token{Value: backendToken}}, TokenFrom: place,
			Forward: extauthz.Forward{Subject: "x-subject", Token: "x-out"},
		})
	}
	if err := server.SetPolicies(policies); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, token, value string) {
		for _, policy := range policies {
			request := extauthztest.NewRequest(extauthztest.WithPolicy(policy.Name), extauthztest.WithRawHeaders(
				"authorization", value, "x-token", token, "cookie", value, "origin", value))
			response, err := server.Check(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			checkResponse(t, response, token, value)
		}
	})
}

// checkResponse checks what holds for every answer.
func checkResponse(t *testing.T, response *authv3.CheckResponse, secrets ...string) {
	t.Helper()
	got := read(t, response)
	for name, value := range got.Headers {
		if slices.Contains(got.Remove, name) {
			t.Errorf("%s is set and removed", name)
		}
		if name != "cookie" && strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%s: %q", name, value)
		}
	}
	for _, secret := range secrets {
		if body := response.GetDeniedResponse().GetBody(); len(secret) > 20 && strings.Contains(body, secret) {
			t.Errorf("the body shows %q", secret)
		}
	}
}
