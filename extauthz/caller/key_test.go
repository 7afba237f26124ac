package caller_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/rebearer/rebearer/extauthz/caller"
	"github.com/rebearer/rebearer/extauthz/extauthztest"
)

// security.md C17, C21: keys that must not verify signatures do not, and leave
// the others of their set as good as they are.
func TestKeyFilters(t *testing.T) {
	t.Parallel()
	issuer := extauthztest.NewIssuer(t)
	other := extauthztest.NewIssuer(t)
	spoilt, good := issuer.AddKey("spoilt"), other.AddKey("good")
	ofSpoilt := issuer.Token("alice", nil)
	ofGood := extauthztest.Sign(t, good, nil, issuer.Claims("alice", nil))
	for name, tt := range map[string]struct {
		member string
		value  any // nil removes the member
		usable bool
	}{
		"as it was":                  {"alg", "ES256", true},
		"no use":                     {"use", nil, true},
		"no alg":                     {"alg", nil, true},
		"no kid":                     {"kid", nil, false}, // the token names one
		"key_ops verify":             {"key_ops", []string{"verify"}, true},
		"key_ops sign and verify":    {"key_ops", []string{"sign", "verify"}, true},
		"key_ops sign":               {"key_ops", []string{"sign"}, false},
		"key_ops encrypt":            {"key_ops", []string{"encrypt"}, false},
		"key_ops empty":              {"key_ops", []string{}, false},
		"key_ops null":               {"key_ops", json.RawMessage("null"), false},
		"key_ops a list of numbers":  {"key_ops", []int{1}, false},
		"use enc":                    {"use", "enc", false},
		"use empty":                  {"use", "", false},
		"use a number":               {"use", 1, false},
		"alg of another family":      {"alg", "RS256", false},
		"alg of another curve":       {"alg", "ES384", false},
		"alg of encryption":          {"alg", "ECDH-ES", false},
		"alg a number":               {"alg", 256, false},
		"kid a number":               {"kid", 1, false},
		"another type":               {"kty", "oct", false},
		"a type of the future":       {"kty", "FUTURE", false},
		"no point on the curve":      {"x", "AAAA", false},
		"a private key":              {"d", "AAAA", false},
		"a certificate that is none": {"x5c", []string{"AAAA"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set := keySetOf(t, spoil(t, spoilt.Public(), tt.member, tt.value), good.Public())
			verifier, err := caller.NewJWT(caller.NewKeySet(keysFunc(func() ([]byte, error) { return set, nil }), slog.New(slog.DiscardHandler)),
				caller.JWTConfig{Issuer: issuer.URL, Audiences: []string{extauthztest.Audience}, CacheBytes: 1 << 10})
			if err != nil {
				t.Fatal(err)
			}
			defer verifier.Close()
			if _, err := verifier.Verify(t.Context(), ofSpoilt); (err == nil) != tt.usable {
				t.Errorf("its token: got %v, want it accepted %t", err, tt.usable)
			}
			if _, err := verifier.Verify(t.Context(), ofGood); err != nil {
				t.Errorf("the token of the good key beside it: %v", err)
			}
		})
	}
}

// spoil returns a key with one member changed.
func spoil(t *testing.T, key json.Marshaler, member string, value any) json.RawMessage {
	t.Helper()
	text, err := key.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(text, &members); err != nil {
		t.Fatal(err)
	}
	members[member] = value
	if value == nil {
		delete(members, member)
	}
	text, err = json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func keySetOf(t *testing.T, keys ...json.Marshaler) []byte {
	t.Helper()
	set, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// security.md C18: what a token's header says about keys is never used, and
// nobody is asked for it.
func TestRemoteKeyHintsAreNotFollowed(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	canary := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer canary.Close()
	issuer, attacker := extauthztest.NewIssuer(t), extauthztest.NewIssuer(t)
	verifier, _ := newVerifier(t, issuer)
	forging := attacker.AddKey("1")
	public := forging.Public()
	for name, value := range map[string]any{
		"jku": canary.URL, "x5u": canary.URL, "jwk": public, "x5c": []string{"AAAA"},
	} {
		forged := extauthztest.Sign(t, forging, map[string]any{name: value}, issuer.Claims("alice", nil))
		if _, err := verifier.Verify(t.Context(), forged); !errors.Is(err, caller.ErrSignature) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if got := asked.Load(); got != 0 {
		t.Errorf("the canary was asked %d times", got)
	}
}

// A token without kid is tried with a few keys only, whatever the set holds.
func TestTokensWithoutKid(t *testing.T) {
	t.Parallel()
	issuer := extauthztest.NewIssuer(t)
	signer := issuer.AddKey("")
	token := extauthztest.Sign(t, signer, nil, issuer.Claims("alice", nil))
	for before, want := range map[int]error{0: nil, 3: nil, 4: caller.ErrSignature} {
		var keys []json.Marshaler
		for i := range before {
			other := extauthztest.NewIssuer(t).AddKey(fmt.Sprint("k", i))
			keys = append(keys, other.Public())
		}
		set := keySetOf(t, append(keys, signer.Public())...)
		verifier, err := caller.NewJWT(caller.NewKeySet(keysFunc(func() ([]byte, error) { return set, nil }), slog.New(slog.DiscardHandler)),
			caller.JWTConfig{Issuer: issuer.URL, Audiences: []string{extauthztest.Audience}, CacheBytes: 1 << 10})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := verifier.Verify(t.Context(), token); !errors.Is(err, want) {
			t.Errorf("%d keys before it: got %v, want %v", before, err, want)
		}
		verifier.Close()
	}
	if strings.Contains(token, "kid") {
		t.Error("the token has a kid")
	}
}
