package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/api"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/load"
)

// A backend that wants a key in a header of its own gets it, and never the
// caller's token. A key that is rotated while requests pass is picked up, from the
// backend's first refusal or the file, whichever comes first.
func TestStaticToken(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ header, scheme string }{
		"header of its own":      {"x-api-key", ""},
		"header and scheme":      {"x-gateway", "Key"},
		"authorization, scheme":  {"authorization", "ApiKey"},
		"authorization, no word": {"authorization", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second := "first/key:1", "second/key:2"
			var living atomic.Pointer[string]
			living.Store(&first)
			file := filepath.Join(t.TempDir(), "key")
			write(t, file, first+"\n")
			// The API judges what a backend of this kind would find.
			translate := func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					sent := r.Header.Values(tt.header)
					if len(sent) == 1 && (tt.header == "authorization" || r.Header.Get("Authorization") == "") {
						r.Header.Del(tt.header)
						r.Header.Set("Authorization", "Bearer "+sent[0])
					} else {
						r.Header.Set("Authorization", "none")
					}
					next.ServeHTTP(w, r)
				})
			}
			want := func(key string) string {
				if tt.scheme == "" {
					return key
				}
				return tt.scheme + " " + key
			}
			s := newStack(t, newest(), stackOptions{
				orders: fmt.Sprintf("{token_file: %q, header: {name: %s, scheme: %q}}", file, tt.header, tt.scheme),
				valid:  func(sent string) bool { return sent == want(*living.Load()) }, backendURL: "http://127.0.0.1:1",
				wrap: translate, rejection: api.Challenge, record: 100,
			})
			requests := s.traffic(t, load.Config{Rate: 50})
			requests.awaitStatus(t, http.StatusOK, 20)
			write(t, file, second+"\n")
			living.Store(&second)
			requests.awaitStatus(t, http.StatusOK, 20)
			if got := requests.end(); got.Failed() > 0 {
				t.Errorf("%d of %d requests failed: %q", got.Failed(), got.Requests, got.Failures)
			}
			s.checkLogs(t, first, second)
		})
	}
}
