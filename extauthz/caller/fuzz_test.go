package caller

import (
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rebearer/rebearer/tokens/oauth"
	"github.com/rebearer/rebearer/tokens/oauth/strictjson"
)

// FuzzParseCompact looks for a token that is taken for good in shape though it
// has a second spelling, or a header that says what we do not do.
func FuzzParseCompact(f *testing.F) {
	var file attackFile
	readCases(f, "jwt_attack_cases.json", &file)
	for _, c := range file.Cases {
		f.Add(c.Token)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := parseCompact(text)
		if err != nil {
			return
		}
		parts := strings.Split(text, ".")
		if len(parts) != 3 || len(text) > maxTokenBytes {
			t.Fatalf("%d parts, %d bytes", len(parts), len(text))
		}
		for _, part := range parts {
			if decoded, err := base64.RawURLEncoding.DecodeString(part); err == nil {
				if again := base64.RawURLEncoding.EncodeToString(decoded); again != part {
					t.Errorf("%q can be spelled %q", part, again)
				}
			}
		}
		header, _ := base64.RawURLEncoding.DecodeString(parts[0])
		var members map[string]any
		if err := json.Unmarshal(header, &members); err != nil {
			t.Fatalf("header %q: %v", header, err)
		}
		if alg, _ := members["alg"].(string); alg != string(parsed.algorithm) {
			t.Errorf("alg: got %q, want %q", parsed.algorithm, alg)
		}
		if _, ok := members["crit"]; ok {
			t.Error("crit was accepted")
		}
	})
}

// FuzzVerify looks for a token that is accepted though it was not signed, with
// the keys that the attack cases use.
func FuzzVerify(f *testing.F) {
	var file attackFile
	readCases(f, "jwt_attack_cases.json", &file)
	good := map[string]bool{}
	for _, c := range file.Cases {
		if c.Keyset == "main" {
			f.Add(c.Token)
			good[c.Token] = c.Expect != "reject"
		}
	}
	keys := NewKeySet(staticKeys(file.Keysets["main"]), slog.New(slog.DiscardHandler))
	verifier, err := NewJWT(keys, JWTConfig{Issuer: file.Issuer, Audiences: []string{file.Audience}, CacheBytes: 1 << 10})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(verifier.Close)
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := verifier.Verify(t.Context(), token); err == nil && !good[token] && !expiresSoon(token) {
			t.Errorf("accepted: %s", token)
		}
	})
}

// FuzzIntrospectionAnswer looks for an answer that lets a token pass though it
// says that it is for someone else, or no longer good.
func FuzzIntrospectionAnswer(f *testing.F) {
	var file struct{ Cases []struct{ Body string } }
	readCases(f, "introspection_cases.json", &file)
	for _, c := range file.Cases {
		f.Add([]byte(c.Body))
	}
	const issuer, audience = "https://issuer.example", "api://orders"
	verifier, err := NewOpaque(nil, slog.New(slog.DiscardHandler), OpaqueConfig{
		Issuer: issuer, Audiences: []string{audience}, Claims: []string{"a"}, CacheBytes: 1 << 10,
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(verifier.Close)
	f.Fuzz(func(t *testing.T, body []byte) {
		members, err := strictjson.Parse(body)
		if err != nil {
			return
		}
		now := time.Now()
		found, err := verifier.read(oauth.Introspection{Active: true, Members: members}, [32]byte{}, now)
		if err != nil {
			return
		}
		var decoded map[string]any
		if err := json.Unmarshal(body, &decoded); err != nil {
			t.Fatal(err)
		}
		if iss, there := decoded["iss"]; there && iss != nil && iss != issuer {
			t.Errorf("issuer %v", iss)
		}
		if list, _ := decoded["aud"].([]any); decoded["aud"] != audience && !slices.Contains(list, any(audience)) {
			t.Errorf("audience %v", decoded["aud"])
		}
		if exp, there := decoded["exp"].(float64); there && exp < float64(now.Unix()-1) {
			t.Errorf("expired at %v", exp)
		}
		if _, there := decoded["cnf"]; there && decoded["cnf"] != nil {
			t.Error("bound to a key")
		}
		if who := found.who; !isName(who.Subject) || !isName(who.ClientID) || found.cost() <= 0 {
			t.Errorf("%+v", who)
		}
	})
}

// expiresSoon tells the one attack case apart that a clock before 2027 rightly
// accepts.
func expiresSoon(token string) bool {
	parsed, err := parseCompact(token)
	if err != nil {
		return false
	}
	members, err := parsed.claims()
	if err != nil {
		return false
	}
	expires, ok := members.Date("exp")
	return ok && expires.Year() < 2028
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	c, err := newCache(64 << 10)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	const offered = 10_000
	var entries []*verified
	for i := range offered {
		entry := &verified{who: Identity{Subject: strings.Repeat("x", 100)}}
		entry.sum[0], entry.sum[1] = byte(i), byte(i>>8)
		c.add(entry, 1<<40)
		entries = append(entries, entry)
	}
	c.entries.Wait()
	kept := 0
	for _, entry := range entries {
		if c.get(entry.sum) != nil {
			kept++
		}
	}
	if limit := 64 << 10 / (entryBytes + 100); kept == 0 || kept > limit {
		t.Errorf("kept %d of %d, want some and at most %d", kept, offered, limit)
	}
	same := &verified{sum: entries[0].sum}
	same.sum[31] = 1 // the same slot
	c.add(same, -1)  // no time left: not stored, and not for ever
	c.entries.Wait()
	if c.get(same.sum) != nil {
		t.Error("an entry without time is kept")
	}
}
