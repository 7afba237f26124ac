package tokens

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const veryText = "s3cr3t-value-%s"

// None of the ways in which things are printed shows a secret.
func TestSecretIsNotPrinted(t *testing.T) {
	t.Parallel()
	secret := Secret(veryText)
	type holder struct {
		Secret  Secret
		Pointer *Secret
		List    []Secret
		Map     map[string]Secret
		Grant   Grant
		Token   Token
	}
	inside := holder{
		Secret: secret, Pointer: &secret, List: []Secret{secret}, Map: map[string]Secret{"a": secret},
		Grant: Grant{AccessToken: secret}, Token: Token{Value: secret, Fingerprint: FingerprintOf(veryText)},
	}
	check := func(how, got string) {
		t.Helper()
		hex := fmt.Sprintf("%x", veryText)
		for _, shown := range []string{"s3cr3t", hex, strings.ToUpper(hex), "115 51 99"} {
			if strings.Contains(got, shown) {
				t.Errorf("%s: %s", how, got)
			}
		}
	}
	for name, value := range map[string]any{
		"secret": secret, "pointer": &secret, "struct": inside, "pointer to struct": &inside, "slice": []Secret{secret},
		"map": map[string]Secret{"a": secret}, "interface": any(secret),
		"error": fmt.Errorf("wrapped %v: %w", secret, errors.New("x")),
	} {
		// Not %p: for that alone fmt asks no method, and go vet refuses it.
		for _, verb := range []string{"v", "+v", "#v", "s", "q", "x", "X", "T", "d", "10s", "-10v", "# x", "b", "o", "U", "e", "t", "c", "z"} {
			check(name+" %"+verb, fmt.Sprintf("%"+verb, value))
		}
		tooMany := []any{value, value}
		check(name+" extra", fmt.Sprintf("%v", tooMany...)+fmt.Sprintf("%[3]v", tooMany...)+fmt.Sprintf("%*v", tooMany...))
		check(name+" print", fmt.Sprint(value)+fmt.Sprintln(value))
		for handler, log := range map[string]func(*bytes.Buffer) slog.Handler{
			"slog text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
			"slog json": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
		} {
			var b bytes.Buffer
			slog.New(log(&b)).Info("x", slog.Any("value", value), slog.Group("g", slog.Any("value", value)))
			check(name+" "+handler, b.String())
		}
		if _, isError := value.(error); isError {
			continue
		}
		data, err := json.Marshal(value)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		check(name+" json", string(data))
	}
	if got := secret.String(); got != redacted {
		t.Errorf("String: got %q", got)
	}
	if secret.Reveal() != veryText {
		t.Error("Reveal does not reveal")
	}
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	// The start of SHA-256("abc").
	if got, want := FingerprintOf("abc"), Fingerprint("ba7816bf8f01cfea"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := FingerprintOf(""); got != "" {
		t.Errorf("of nothing: got %q", got)
	}
}

func TestTokenIsLoggedByFingerprint(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	token := Token{Value: "abc", Fingerprint: FingerprintOf("abc"), Generation: 7}
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", slog.Any("token", token))
	if got := b.String(); !strings.HasSuffix(got, "msg=x token.generation=7 token.fingerprint=ba7816bf8f01cfea\n") {
		t.Errorf("got %q", got)
	}
}

func TestUseFromFields(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		fields map[string]any
		want   Use
	}{
		"nothing": {nil, Use{}},
		"everything": {
			map[string]any{
				"policy": "p", "credential": "orders", "caller": "c", "subject_key": "s", "bypass": true, "generation": float64(1 << 52), "age_ms": 5400e3,
			},
			Use{Policy: "p", Credential: "orders", Caller: "c", Subject: "s", Bypass: true, Generation: 1 << 52, Age: 90 * time.Minute},
		},
		"not ours":    {map[string]any{"a": "b"}, Use{}},
		"wrong types": {map[string]any{"policy": 1.0, "credential": true, "generation": "7", "age_ms": nil}, Use{}},
		"negative":    {map[string]any{"credential": "orders", "generation": -7.0}, Use{Credential: "orders"}},
		"fractions":   {map[string]any{"generation": 7.9, "age_ms": 1500.7}, Use{Generation: 7, Age: 1500 * time.Millisecond}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, UseFromFields(tt.fields)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for got, want := range map[fmt.Stringer]string{
		Unclear: "unclear", Dead: "dead", NotAllowed: "not_allowed", Verdict(9): "unknown",
		Pass: "pass", TryAgain: "retry", Unavailable: "unavailable", Answer(9): "unknown",
	} {
		if got.String() != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
