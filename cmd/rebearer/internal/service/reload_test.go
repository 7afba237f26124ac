package service

import (
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/admin"
	"github.com/rebearer/rebearer/tokens"
)

const anotherCredential = `  stock:
    clients: [{provider: shop, id: gateway, secret_file: secret}]
    scopes: [stock.read]
`

// A changed file is taken; what did not change keeps its token, what did or is
// new gets one.
func TestReload(t *testing.T) {
	t.Parallel()
	s := start(t, settings{scopes: "a"})
	connection := s.dial(t, nil)
	caller := s.provider.caller(t)
	first := mustCheck(t, connection, caller)
	s.await(tokens.EventIssued)

	s.configure(t, settings{scopes: "a", more: anotherCredential})
	s.log.await(taken)
	if ev := s.await(tokens.EventIssued); ev.Credential != "stock" {
		t.Errorf("issued: %+v", ev)
	}
	if got := mustCheck(t, connection, caller); got != first {
		t.Error("a credential that did not change lost its token")
	}
	if got := s.provider.Counts().Issued; got != 2 {
		t.Errorf("%d tokens were issued, want 2", got)
	}

	s.configure(t, settings{scopes: "b", more: anotherCredential})
	s.log.await(taken)
	if ev := s.await(tokens.EventIssued); ev.Credential != "orders" {
		t.Errorf("issued: %+v", ev)
	}
	if got := mustCheck(t, connection, caller); got == first {
		t.Error("a credential that changed kept its token")
	}

	s.configure(t, settings{scopes: "b"})
	s.log.await(taken)
	list, err := admin.NewClient(s.Addresses().Admin.String(), "").List(t.Context())
	if err != nil || len(list.Credentials) != 1 {
		t.Errorf("a credential that is gone is listed: %+v, %v", list, err)
	}
	if got := s.provider.Counts().Issued; got != 3 {
		t.Errorf("%d tokens were issued, want 3", got)
	}
	if _, text := s.get(t, "/metrics"); !strings.Contains(text, `rebearer_config_reloads_total{outcome="ok"} 3`) {
		t.Error("reloads are not counted")
	}
}

// What did not change in meaning is no change: a comment, or another order.
func TestReloadOfTheSame(t *testing.T) {
	t.Parallel()
	s := start(t, settings{})
	first := mustCheck(t, s.dial(t, nil), s.provider.caller(t))
	s.configure(t, settings{preamble: "# a comment\n"})
	s.log.await(taken)
	if got := mustCheck(t, s.dial(t, nil), s.provider.caller(t)); got != first {
		t.Error("a comment cost a token")
	}
	if got := s.provider.Counts().TokenRequests; got != 1 {
		t.Errorf("%d token requests", got)
	}
}

// A file that cannot be used is refused and said, and the old one stays. It is
// taken once it is mended.
func TestReloadRefuses(t *testing.T) {
	t.Parallel()
	s := start(t, settings{})
	connection, caller := s.dial(t, nil), s.provider.caller(t)
	first := mustCheck(t, connection, caller)
	for name, tt := range map[string]struct{ text, says string }{
		"no YAML":            {"version: [", "rebearer.yaml"},
		"an unknown key":     {settings{more: "  x: {}\n"}.text(s.provider.Issuer()) + "polices: {}\n", "polices"},
		"a missing file":     {settings{more: strings.ReplaceAll(anotherCredential, "file: secret", "file: missing")}.text(s.provider.Issuer()), "missing"},
		"a change of server": {settings{admin: "127.0.0.2:0"}.text(s.provider.Issuer()), errRestart.Error()},
		"nothing":            {"", "rebearer.yaml"},
	} {
		s.write(t, "rebearer.yaml", tt.text)
		if line := s.log.await(refused); !strings.Contains(line, tt.says) {
			t.Errorf("%s: said %s", name, line)
		}
		if got := mustCheck(t, connection, caller); got != first {
			t.Errorf("%s: the token changed", name)
		}
	}
	if err := os.Remove(s.file); err != nil {
		t.Fatal(err)
	}
	s.log.await(refused)
	s.configure(t, settings{scopes: "mended"})
	s.log.await(taken)
	if got := mustCheck(t, connection, caller); got == first {
		t.Error("the mended file is not used")
	}
	if _, text := s.get(t, "/metrics"); !strings.Contains(text, `rebearer_config_reloads_total{outcome="refused"} 6`) {
		t.Error("refused reloads are not counted")
	}
}

// A configuration that was refused for a file that is missing is taken when the
// file comes: Kubernetes brings a ConfigMap and a Secret one after the other.
func TestReloadWhenMissingFileComes(t *testing.T) {
	t.Parallel()
	s := start(t, settings{})
	mustCheck(t, s.dial(t, nil), s.provider.caller(t))
	s.configure(t, settings{more: strings.ReplaceAll(anotherCredential, "file: secret", "file: late")})
	s.log.await(refused)
	s.write(t, "late", clientSecret)
	s.log.await(taken)
}

// A file that changes again while its last change is being taken is taken again.
func TestChangeDuringReload(t *testing.T) {
	t.Parallel()
	s := start(t, settings{})
	mustCheck(t, s.dial(t, nil), s.provider.caller(t))
	again := sync.OnceFunc(func() { s.configure(t, settings{scopes: "last"}) })
	s.log.mu.Lock()
	s.log.on = func(line string) {
		if strings.Contains(line, taken) {
			again()
		}
	}
	s.log.mu.Unlock()
	s.configure(t, settings{scopes: "first"})
	s.log.await(taken)
	s.log.await(taken)
	if got := s.current.Load().cfg.Credentials["orders"].Scopes; len(got) != 1 || got[0] != "last" {
		t.Errorf("scopes %v are in use", got)
	}
}

// A rotated secret is used from the next fetch on; it is no reason for one.
func TestRotatedSecret(t *testing.T) {
	t.Parallel()
	s := start(t, settings{})
	connection, caller := s.dial(t, nil), s.provider.caller(t)
	first := mustCheck(t, connection, caller)
	s.write(t, "secret", "rotated")
	s.log.await(taken)
	if got := mustCheck(t, connection, caller); got != first || s.provider.Counts().TokenRequests != 1 {
		t.Errorf("a rotated secret cost the token: %d token requests", s.provider.Counts().TokenRequests)
	}
	if got := s.provider.lastSecret(); got != clientSecret {
		t.Error("the wrong secret was sent")
	}
	if _, err := admin.NewClient(s.Addresses().Admin.String(), "").Flush(t.Context(), admin.FlushRequest{All: true}); err != nil {
		t.Fatal(err)
	}
	s.await(tokens.EventFailed) // this provider does not know it
	if got := s.provider.lastSecret(); got != "rotated" {
		t.Error("the old secret was sent")
	}
}

// Kubernetes swaps a link beside the files.
func TestReloadOfVolume(t *testing.T) {
	t.Parallel()
	s := &stage{provider: newFront(t), folder: t.TempDir(), log: newJournal(), events: make(chan tokens.Event, 10_000), ended: make(chan error, 1)}
	version := func(name string, with settings) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(s.folder, name), 0o700); err != nil {
			t.Fatal(err)
		}
		s.write(t, filepath.Join(name, "secret"), clientSecret)
		s.write(t, filepath.Join(name, "rebearer.yaml"), with.text(s.provider.Issuer()))
		next := filepath.Join(s.folder, "..data_tmp")
		if err := os.Symlink(name, next); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, filepath.Join(s.folder, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	version("..1", settings{scopes: "a"})
	for _, name := range []string{"secret", "rebearer.yaml"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(s.folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	s.file = filepath.Join(s.folder, "rebearer.yaml")
	s.make(t)
	s.run(t)
	connection, caller := s.dial(t, nil), s.provider.caller(t)
	first := mustCheck(t, connection, caller)
	version("..2", settings{scopes: "b"})
	s.log.await(taken)
	if err := os.RemoveAll(filepath.Join(s.folder, "..1")); err != nil {
		t.Fatal(err)
	}
	second := mustCheck(t, connection, caller)
	if second == first {
		t.Error("the new version is not used")
	}
	version("..3", settings{scopes: "c"})
	s.log.await(taken)
	if got := mustCheck(t, connection, caller); got == second {
		t.Error("the third version is not used")
	}
}

// A reload does not take a service that was ready out of service, whatever its
// providers do.
func TestReloadKeepsReady(t *testing.T) {
	t.Parallel()
	s := start(t, settings{timeout: slow})
	mustCheck(t, s.dial(t, nil), s.provider.caller(t))
	s.becomes(t, "/readyz", http.StatusOK)
	defer s.provider.hold("/jwks")()
	s.configure(t, settings{timeout: slow, scopes: "b"})
	s.log.await(taken)
	if got, text := s.get(t, "/readyz"); got != http.StatusOK {
		t.Errorf("got %d %q", got, text)
	}
}

// A look waits until the files are left alone, but not for ever.
func TestAttend(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		events   int // 100 ms apart
		earliest time.Duration
		latest   time.Duration
	}{
		"one":            {1, settle, settle},
		"three":          {3, 200*time.Millisecond + settle, 200*time.Millisecond + settle},
		"without an end": {100, settle, patience},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				watcher := &fsnotify.Watcher{Events: make(chan fsnotify.Event)}
				looks := make(chan time.Time, 100)
				go (&Service{}).attend(t.Context(), watcher, func() time.Duration {
					looks <- time.Now()
					return 0
				})
				<-looks // the one at once
				began := time.Now()
				for range tt.events {
					watcher.Events <- fsnotify.Event{}
					time.Sleep(100 * time.Millisecond)
				}
				if took := (<-looks).Sub(began); took < tt.earliest || took > tt.latest {
					t.Errorf("looked after %v", took)
				}
			})
		})
	}
}

// Two hundred reloads leave nothing behind.
func TestManyReloads(t *testing.T) {
	for name, change := range map[string]func(int) settings{
		"credential": func(i int) settings { return settings{scopes: string(rune('a' + i%2)), timeout: time.Second / 2} },
		"provider":   func(i int) settings { return settings{timeout: time.Duration(500+i%2) * time.Millisecond} },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, change(0))
			connection, caller := s.dial(t, nil), s.provider.caller(t)
			mustCheck(t, connection, caller)
			s.becomes(t, "/readyz", http.StatusOK)
			before := runtime.NumGoroutine()
			for i := range 200 {
				s.configure(t, change(i+1))
				_ = s.reload(t.Context(), "")
			}
			s.retired.Wait()
			s.current.Load().loading.Wait()
			mustCheck(t, connection, caller)
			// Idle connections to a provider end by themselves, in half a minute.
			s.provider.server.CloseClientConnections()
			const noise = 20
			after := runtime.NumGoroutine()
			for range 1000 { // those that are ending may need a moment
				if after <= before+noise {
					return
				}
				runtime.Gosched()
				_, _ = s.get(t, "/healthz")
				after = runtime.NumGoroutine()
			}
			t.Errorf("%d goroutines, %d before", after, before)
		})
	}
}
