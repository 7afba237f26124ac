package oauth_test

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

func TestStaticToken(t *testing.T) {
	t.Parallel()
	const key = "sk_live:{canary}/+=="
	tests := []struct {
		name, content string
		want          tokens.Secret
		wantErr       string
	}{
		{name: "plain", content: key, want: key},
		{name: "with the end of a line", content: key + "\r\n", want: key},
		{name: "empty", content: " \n", wantErr: "holds no token"},
		{name: "two lines", content: key + "\nmore", wantErr: "visible"},
		{name: "scheme included", content: "Bearer " + key, wantErr: "white space"},
		{name: "control character", content: key + "\x00", wantErr: "visible"},
		{name: "not ASCII", content: key + "é", wantErr: "visible"},
		{name: "largest", content: strings.Repeat("k", 8<<10), want: tokens.Secret(strings.Repeat("k", 8<<10))},
		{name: "too large", content: strings.Repeat("k", 8<<10+1), wantErr: "8192 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "key")
			overwrite(t, file, []byte(tt.content))
			source, err := oauth.NewStaticToken(file)
			if err != nil {
				t.Fatal(err)
			}
			grant, err := source.Grant(t.Context(), tokens.GrantRequest{})
			if tt.wantErr != "" {
				if outcomeOf(err) != transient || !strings.Contains(err.Error(), tt.wantErr) || !strings.Contains(err.Error(), file) {
					t.Errorf("got error %v, want a transient one about %s: %q", err, file, tt.wantErr)
				}
				mustNotLeak(t, err, "canary")
				return
			}
			if want := (tokens.Grant{AccessToken: tt.want, ExpiresIn: 5 * time.Minute}); err != nil || grant != want {
				t.Errorf("got token %q, lifetime %v, error %v; want %q for 5m", grant.AccessToken.Reveal(), grant.ExpiresIn, err, want.AccessToken.Reveal())
			}
		})
	}
}

// The file may be written anew, go and come back: every fetch reads it.
func TestStaticTokenRotates(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key")
	source, err := oauth.NewStaticToken(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := source.Grant(t.Context(), tokens.GrantRequest{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: got error %v", err)
	}
	for _, want := range []tokens.Secret{"one", "two", "two", "one"} {
		overwrite(t, file, []byte(want.Reveal()))
		grant, err := source.Grant(t.Context(), tokens.GrantRequest{})
		if err != nil || grant.AccessToken != want {
			t.Errorf("got token %q, error %v; want %q", grant.AccessToken.Reveal(), err, want.Reveal())
		}
	}
	if err := source.Revoke(t.Context(), 0, "one"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("revoke: got error %v, want that it cannot be", err)
	}
	if _, err := oauth.NewStaticToken(""); err == nil {
		t.Error("no file was accepted")
	}
}
