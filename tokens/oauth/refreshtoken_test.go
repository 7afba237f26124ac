package oauth_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

// chain is a provider that takes each refresh token once, and the files that the
// latest is kept in.
type chain struct {
	t           *testing.T
	first, file string
	expiry      time.Duration
	log         strings.Builder

	mu       sync.Mutex
	now      tokens.Secret // what the provider takes
	used     []tokens.Secret
	life     time.Duration // that it states
	keeps    bool          // it does not rotate
	exchange func()        // called during each exchange
}

// newChain returns a provider that takes the token "r", which stands in a file.
func newChain(t *testing.T) *chain {
	t.Helper()
	dir := t.TempDir()
	c := &chain{t: t, now: "r", first: filepath.Join(dir, "first"), file: filepath.Join(dir, "state", "token")}
	overwrite(t, c.first, []byte("r\n"))
	if err := os.Mkdir(filepath.Dir(c.file), 0o700); err != nil {
		t.Fatal(err)
	}
	return c
}

// open returns a store as a process has it that just started.
func (c *chain) open() *oauth.RefreshFile {
	c.t.Helper()
	store, err := oauth.NewRefreshFile(slog.New(slog.NewTextHandler(&c.log, nil)),
		oauth.RefreshFileConfig{File: c.first, StateFile: c.file, Expiry: c.expiry})
	if err != nil {
		c.t.Fatal(err)
	}
	return store
}

var errReplayed = &tokens.PermanentError{Err: errors.New("invalid_grant")}

// ask is an exchange with the provider.
func (c *chain) ask(_ context.Context, refresh tokens.Secret) (tokens.Grant, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used = append(c.used, refresh)
	if c.exchange != nil {
		c.exchange()
	}
	if refresh != c.now {
		return tokens.Grant{}, errReplayed
	}
	if !c.keeps {
		c.now += "r"
	}
	return tokens.Grant{AccessToken: "a", RefreshToken: c.now, RefreshExpiresIn: c.life}, nil
}

// mustUse fails the test unless the store uses that token with success.
func (c *chain) mustUse(store *oauth.RefreshFile, want tokens.Secret) {
	c.t.Helper()
	grant, err := store.Use(c.t.Context(), c.ask)
	if err != nil || grant != (tokens.Grant{AccessToken: "a"}) {
		c.t.Fatalf("got %+v, error %v; want an access token and nothing else", grant, err)
	}
	if got := c.used[len(c.used)-1]; got != want {
		c.t.Errorf("used %q, want %q", got.Reveal(), want.Reveal())
	}
}

func TestRefreshFile(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	store := c.open()
	c.mustUse(store, "r")
	c.mustUse(store, "rr")
	c.mustUse(c.open(), "rrr") // a restart
	var state map[string]any
	content, err := os.ReadFile(c.file)
	if err != nil || json.Unmarshal(content, &state) != nil || state["refresh_token"] != "rrrr" {
		t.Errorf("the state file has %v, error %v", state, err)
	}
	info, err := os.Stat(c.file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the state file has mode %v, error %v; want 0600", info.Mode(), err)
	}
	left, err := filepath.Glob(c.file + "*")
	if want := []string{c.file, c.file + ".lock"}; err != nil || !slices.Equal(left, want) {
		t.Errorf("files are %q, want %q", left, want)
	}

	// The first token may be deleted, and is not missed.
	if err := os.Remove(c.first); err != nil {
		t.Fatal(err)
	}
	c.mustUse(c.open(), "rrrr")
	// Another first token wins, also over a process that runs.
	c.now = "new"
	overwrite(t, c.first, []byte("new"))
	c.mustUse(store, "new")
	c.mustUse(c.open(), "newr")
	if c.log.Len() > 0 {
		t.Errorf("logged: %s", c.log.String())
	}
}

// One file for both takes both forms.
func TestRefreshFileAlone(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(c.first, link); err != nil {
		t.Fatal(err)
	}
	c.first, c.file = link, ""
	c.mustUse(c.open(), "r")
	c.mustUse(c.open(), "rr")
	c.now = "new"
	overwrite(t, c.first, []byte("new\n"))
	c.mustUse(c.open(), "new")
	c.mustUse(c.open(), "newr")
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link has become %v, error %v", info.Mode(), err)
	}
}

// What cannot be written stays in memory, and is written as soon as it can be.
func TestRefreshFileCannotBeWritten(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	store := c.open()
	c.mustUse(store, "r")
	// A folder where the new file should go: this stops root too.
	obstacle := filepath.Join(c.file+".new", "full")
	if err := os.MkdirAll(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	c.mustUse(store, "rr")
	c.mustUse(store, "rrr")
	if store.Unsaved() == nil || !strings.Contains(c.log.String(), "could not be written") {
		t.Errorf("unsaved: %v, log: %s", store.Unsaved(), c.log.String())
	}
	content, err := os.ReadFile(c.file)
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, c.file, []byte("{")) // now it cannot be read either
	c.mustUse(store, "rrrr")
	overwrite(t, c.file, content)
	if err := os.RemoveAll(c.file + ".new"); err != nil {
		t.Fatal(err)
	}
	c.mustUse(store, "rrrrr")
	if store.Unsaved() != nil {
		t.Errorf("unsaved: %v", store.Unsaved())
	}
	c.mustUse(c.open(), "rrrrrr")
	if strings.Contains(c.log.String(), "rrr") {
		t.Errorf("the log shows a token: %s", c.log.String())
	}

	// Somebody else's newer token wins over what is in memory.
	if err := os.MkdirAll(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	c.mustUse(store, "rrrrrrr")
	c.now = "new"
	overwrite(t, c.first, []byte("new"))
	c.mustUse(store, "new")
}

// What is only in memory is there for another store of the same files too, which
// has an expiry of its own, and for no store of others.
func TestRefreshFileAdopt(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	store := c.open()
	if err := os.MkdirAll(filepath.Join(c.file+".new", "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	c.mustUse(store, "r")
	adopt := func(to *chain, expiry time.Duration) *oauth.RefreshFile {
		to.expiry = expiry
		next := to.open()
		next.Adopt(store)
		return next
	}
	next := adopt(c, time.Hour)
	if next.Unsaved() == nil {
		t.Error("the next store does not know what is unsaved")
	}
	c.mustUse(next, "rr")
	c.mustUse(store, "rrr")
	if _, err := adopt(c, 1).Use(t.Context(), c.ask); outcomeOf(err) != permanent {
		t.Errorf("with an expiry that is over: got error %v", err)
	}
	c.mustUse(next, "rrrr")
	other := newChain(t)
	other.mustUse(adopt(other, time.Hour), "r")
}

// A provider that does not rotate needs no writable folder.
func TestRefreshFileReadOnly(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	c.keeps = true
	c.file = filepath.Join(c.file, "missing", "token")
	store := c.open()
	c.mustUse(store, "r")
	c.mustUse(store, "r")
	if store.Unsaved() != nil || c.log.Len() > 0 {
		t.Errorf("unsaved: %v, log: %s", store.Unsaved(), c.log.String())
	}
}

func TestRefreshFileErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, first, state string
		want               string
	}{
		{name: "no file", first: "-", want: "no such file"},
		{name: "empty", first: "\n", want: "holds no token"},
		{name: "not a token", first: "canary canary", want: "white space"},
		{name: "state is broken", first: "r", state: `{"refresh_token": "canary"`, want: "no state"},
		{name: "state is of something else", first: "r", state: `{"refresh_token": "canary"}`, want: "no state"},
		{name: "state is a plain token", first: "r", state: "canary", want: "no state"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newChain(t)
			overwrite(t, c.first, []byte(tt.first))
			if tt.first == "-" {
				_ = os.Remove(c.first)
			}
			if tt.state != "" {
				overwrite(t, c.file, []byte(tt.state))
			}
			_, err := c.open().Use(t.Context(), c.ask)
			if outcomeOf(err) != transient || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got error %v, want a transient one: %q", err, tt.want)
			}
			mustNotLeak(t, err, "canary")
			if len(c.used) > 0 {
				t.Error("the provider was asked")
			}
		})
	}

	t.Run("empty state", func(t *testing.T) {
		t.Parallel()
		c := newChain(t)
		overwrite(t, c.file, []byte(""))
		c.mustUse(c.open(), "r")
	})
	t.Run("first one unreadable", func(t *testing.T) {
		t.Parallel()
		c := newChain(t)
		c.mustUse(c.open(), "r")
		overwrite(t, c.first, []byte("canary canary"))
		c.mustUse(c.open(), "rr")
		if !strings.Contains(c.log.String(), "cannot be read") || strings.Contains(c.log.String(), "canary") {
			t.Errorf("logged: %s", c.log.String())
		}
	})
	for _, cfg := range []oauth.RefreshFileConfig{{}, {File: "f", Expiry: -1}} {
		if _, err := oauth.NewRefreshFile(slog.New(slog.DiscardHandler), cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

// No refresh token lives for ever: it ends when the provider says, or else so
// long after its last success. This is not run beside tests that start processes:
// those hold the lock for a moment, in which a synthetic clock runs for hours.
func TestRefreshFileExpires(t *testing.T) {
	tests := []struct {
		name         string
		expiry, life time.Duration
		keeps        bool
		want         time.Duration
	}{
		{name: "default", want: 12 * time.Hour},
		{name: "default, not rotated", keeps: true, want: 12 * time.Hour},
		{name: "configured", expiry: time.Hour, want: time.Hour},
		{name: "stated", expiry: time.Hour, life: 30 * time.Minute, want: 30 * time.Minute},
		{name: "stated, longer", expiry: time.Hour, life: 48 * time.Hour, want: 48 * time.Hour},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newChain(t)
			c.expiry, c.life, c.keeps = tt.expiry, tt.life, tt.keeps
			synctest.Test(t, func(t *testing.T) {
				use := func() error {
					_, err := c.open().Use(t.Context(), c.ask)
					return err
				}
				for range 3 {
					if err := use(); err != nil {
						t.Fatal(err)
					}
					time.Sleep(tt.want - time.Second)
				}
				if err := use(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(tt.want)
				asked := len(c.used)
				if err := use(); outcomeOf(err) != permanent || !strings.Contains(err.Error(), c.first) {
					t.Errorf("got error %v, want a permanent one that names %s", err, c.first)
				}
				if len(c.used) != asked {
					t.Error("the expired token was used")
				}
			})
		})
	}
}

// What was stated for one token says nothing about the next. Not run beside
// others either.
func TestRefreshFileExpiryOfTheNext(t *testing.T) {
	c := newChain(t)
	c.life = 30 * time.Minute
	synctest.Test(t, func(t *testing.T) {
		for range 3 {
			if _, err := c.open().Use(t.Context(), c.ask); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Minute)
			c.life = 0
		}
	})
}

// However many ask, and in however many processes, no token is used twice.
func TestRefreshFileOneAtATime(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	stores := []*oauth.RefreshFile{c.open(), c.open(), c.open()}
	var asking sync.WaitGroup
	for i := range 30 {
		asking.Go(func() {
			if _, err := stores[i%3].Use(t.Context(), c.ask); err != nil {
				t.Error(err)
			}
		})
	}
	asking.Wait()
	var want []tokens.Secret
	for n := range 30 {
		want = append(want, tokens.Secret(strings.Repeat("r", n+1)))
	}
	if !slices.Equal(c.used, want) {
		t.Errorf("%d exchanges, not each with the token of the one before", len(c.used))
	}
}

// The answer to an exchange is kept even if nobody waits for it any more.
func TestRefreshFileOutlivesItsUser(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	store := c.open()
	ctx, cancel := context.WithCancel(t.Context())
	c.exchange = cancel
	_, err := store.Use(ctx, func(ctx context.Context, refresh tokens.Secret) (tokens.Grant, error) {
		grant, err := c.ask(ctx, refresh)
		return grant, errors.Join(err, ctx.Err())
	})
	if err != nil && !errors.Is(err, context.Canceled) { // either may come first
		t.Errorf("got error %v", err)
	}
	c.exchange = nil
	c.mustUse(store, "rr")
	if _, err := store.Use(ctx, c.ask); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want that the caller has left", err)
	}
	// The last exchange may go on: this one waits for it.
	if _, err := store.Use(t.Context(), c.ask); err != nil {
		t.Error(err)
	}
}

// A process that is killed at any moment leaves a state that is not behind what
// it handed out.
func TestRefreshFileKilled(t *testing.T) {
	t.Parallel()
	const folder = "REBEARER_TEST_REFRESH_FOLDER"
	if dir := os.Getenv(folder); dir != "" {
		rotateForEver(t, dir)
	}
	dir := t.TempDir()
	overwrite(t, filepath.Join(dir, "first"), []byte("r"))
	handedOut := "r"
	for range 10 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestRefreshFileKilled$")
		cmd.Env = append(os.Environ(), folder+"="+dir)
		output, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(output)
		for n := 0; lines.Scan(); n++ {
			handedOut = lines.Text()
			if n == 10 {
				_ = cmd.Process.Kill() // what it wrote until then is still read
			}
		}
		_ = cmd.Wait() // it was killed
	}
	var used tokens.Secret
	_, err := openIn(t, dir).Use(t.Context(), func(_ context.Context, refresh tokens.Secret) (tokens.Grant, error) {
		used = refresh
		return tokens.Grant{AccessToken: "a"}, nil
	})
	if err != nil || !strings.HasPrefix(used.Reveal(), handedOut) || len(handedOut) < 100 {
		t.Errorf("got error %v, a token of length %d; want at least %d, and that at least 100", err, len(used), len(handedOut))
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) != 3 {
		t.Errorf("files are %q, error %v; want the first token, the state and the lock", names, err)
	}
}

func openIn(t *testing.T, dir string) *oauth.RefreshFile {
	t.Helper()
	store, err := oauth.NewRefreshFile(slog.New(slog.DiscardHandler),
		oauth.RefreshFileConfig{File: filepath.Join(dir, "first"), StateFile: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// rotateForEver uses the refresh token in dir again and again, and prints the one
// that had come each time when an access token was handed out.
func rotateForEver(t *testing.T, dir string) {
	t.Helper()
	store := openIn(t, dir)
	for {
		var next tokens.Secret
		_, err := store.Use(t.Context(), func(_ context.Context, refresh tokens.Secret) (tokens.Grant, error) {
			next = refresh + "r"
			return tokens.Grant{AccessToken: "a", RefreshToken: next}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(os.Stdout, next.Reveal())
	}
}

// A whole token source with a kept refresh token.
func TestKeptRefreshToken(t *testing.T) {
	t.Parallel()
	server := newAuthorizationServer(t, (*httptest.Server).Start)
	provider := &rotating{}
	server.handle("/token", provider.ServeHTTP)
	c := newChain(t)
	source := newSource(t, server.URL+"/token", testClient(), oauth.TokenConfig{Grant: oauth.RefreshToken, Store: c.open()})
	for range 3 {
		// What the caller of Grant remembers does not matter: the store owns it.
		grant, err := source.Grant(t.Context(), tokens.GrantRequest{Refresh: "other"})
		if err != nil || grant.AccessToken == "" || grant.RefreshToken != "" || grant.RefreshExpiresIn != 0 {
			t.Errorf("got %+v, error %v", grant, err)
		}
	}
	if diff := cmp.Diff([]string{refreshName(0), refreshName(1), refreshName(2)}, provider.used); diff != "" {
		t.Errorf("refresh tokens used (-want +got):\n%s", diff)
	}
	overwrite(t, c.first, []byte("void"))
	if _, err := source.Grant(t.Context(), tokens.GrantRequest{}); outcomeOf(err) != permanent {
		t.Errorf("void: got error %v", err)
	}
}
