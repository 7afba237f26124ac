package caller

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// staticKeys is a key set that never changes.
type staticKeys []byte

func (k staticKeys) JWKS(context.Context) ([]byte, error) { return k, nil }

func readCases(t testing.TB, name string, file any) {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, file); err != nil {
		t.Fatal(err)
	}
}

type attackFile struct {
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

// openAttackCases says what is accepted of the cases that may be either; all
// others of them are rejected.
func openAttackCases() []string {
	return []string{
		"atk-107", // no kid and many keys: the few that fit the algorithm are tried
		"atk-241", // an ID token with our audience: nothing in it says what it is
	}
}

func TestAttackCases(t *testing.T) {
	t.Parallel()
	var file attackFile
	readCases(t, "jwt_attack_cases.json", &file)
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
			want := tt.Expect == "accept" || tt.Expect == "either" && slices.Contains(openAttackCases(), tt.ID)
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(time.Unix(file.Now, 0)))
				keys := NewKeySet(staticKeys(file.Keysets[tt.Keyset]), slog.New(slog.DiscardHandler))
				verifier, err := NewJWT(keys, JWTConfig{
					Issuer: file.Issuer, Audiences: []string{file.Audience}, ClockSkew: 30 * time.Second, CacheBytes: 1 << 10,
				})
				if err != nil {
					t.Fatal(err)
				}
				defer verifier.Close()
				checkAttack(t, verifier, token, want)
			})
		})
	}
}

// checkAttack verifies a token twice: the verdict must not change.
func checkAttack(t *testing.T, verifier *JWT, token string, want bool) {
	t.Helper()
	for range 2 {
		_, err := verifier.Verify(t.Context(), token)
		if got := err == nil; got != want {
			t.Errorf("accepted: got %t (%v), want %t", got, err, want)
		}
		var invalid *InvalidError
		if err != nil && !errors.As(err, &invalid) {
			t.Errorf("got %v, want an InvalidError, so that the answer is 401", err)
		}
	}
}

// decidedSignatures are the cases of jws_cases.json that are decided otherwise
// than valid_if_asymmetric_only says, with the reason.
func decidedSignatures() map[string]string {
	const (
		pinned = "a key is used with its own alg only, as the file's quirks allow"
		empty  = "an empty payload is no claims set, and refused before the signature is looked at"
		short  = "a coordinate of the key is too short (RFC 7518 section 6.2.1.2): go-jose does not read it"
		roca   = "keys are not tested for ROCA, as the file's quirks allow: no provider of today makes them"
	)
	return map[string]string{
		"wp-signature-346": pinned, "wp-signature-350": pinned,
		"wp-signature-347": pinned, "wp-signature-351": pinned,
		"wp-signature-259": empty, "wp-signature-264": empty, "wp-signature-268": empty,
		"wp-signature-272": empty, "wp-signature-320": empty, "wp-signature-325": empty,
		"jvl-jwk_ec-JwtES512Text": short,
		"wp-key-7":                roca,
	}
}

// TestSignatureCases runs the third-party cases, whose payloads are mostly not
// claims, up to the signature.
func TestSignatureCases(t *testing.T) {
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
	readCases(t, "jws_cases.json", &file)
	if len(file.Cases) != file.Count || file.Count == 0 {
		t.Fatalf("got %d cases, want %d", len(file.Cases), file.Count)
	}
	algorithms, err := JWTConfig{Issuer: "x", Audiences: []string{"x"}}.validate()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range file.Cases {
		t.Run(tt.ID+" "+tt.Name, func(t *testing.T) {
			t.Parallel()
			verifier := &JWT{keys: NewKeySet(staticKeys(tt.JWKS), slog.New(slog.DiscardHandler)), algorithms: algorithms}
			parsed, err := parseCompact(tt.Token)
			if err == nil && !slices.Contains(verifier.algorithms, parsed.algorithm) {
				err = ErrAlgorithm
			}
			if err == nil {
				_, err = verifier.signer(t.Context(), parsed)
			}
			_, otherwise := decidedSignatures()[tt.ID]
			if got, want := err == nil, tt.Valid != otherwise; got != want {
				t.Errorf("accepted: got %t (%v), want %t", got, err, want)
			}
		})
	}
}
