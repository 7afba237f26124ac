package admin

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
	"github.com/rebearer/rebearer/envoy/secrets"
	"github.com/rebearer/rebearer/tokens"
	"github.com/rebearer/rebearer/tokens/oauth"
)

// Config is what the API works on.
type Config struct {
	// Credentials returns those in use, by name. It is called for every
	// request and must be safe for concurrent use.
	Credentials func() map[string]*tokens.Credential
	// Details returns what a credential does not know of itself. It must be safe
	// for concurrent use. Nil means that nothing is known.
	Details func(credential string) Details
	// Envoys returns the Envoys that are connected for secrets. It must be safe
	// for concurrent use. Nil means that there are none.
	Envoys func() []secrets.NodeStatus
	// Simulation allows to void tokens.
	Simulation bool
	// Level is the log level that the API shows and sets.
	Level *slog.LevelVar
	// Logger gets a line for every change.
	Logger *slog.Logger
	// TokenFile is the file of the bearer token. Empty means that there is
	// none. It is read for every request, so that the token can be changed.
	TokenFile string
	// Guarded asks for the token not only for changes but for everything.
	Guarded bool
	// Address is the listener's own, which is allowed as Host.
	Address string
}

// Details are what a credential does not know of itself.
type Details struct {
	// Bypass is whether every request fetches a token.
	Bypass bool
	// Clients is the health of its clients, in their order.
	Clients []oauth.MemberHealth
	// Unsaved is why its refresh token could not be written; nil if it was, or if
	// there is none.
	Unsaved error
}

// maxBody bounds a request's body, in bytes.
const maxBody = 64 << 10

// New returns the API's handler.
func New(cfg Config) http.Handler {
	a := &api{cfg}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/credentials", a.list)
	mux.HandleFunc("POST /v1/flush", a.flush)
	mux.HandleFunc("POST /v1/credentials/{name}/pause", a.pause)
	mux.HandleFunc("POST /v1/credentials/{name}/resume", a.resume)
	mux.HandleFunc("POST /v1/credentials/{name}/void", a.void)
	mux.HandleFunc("GET /v1/envoys", a.envoys)
	mux.HandleFunc("GET /v1/log-level", a.level)
	mux.HandleFunc("PUT /v1/log-level", a.setLevel)
	return a.guard(mux)
}

type api struct{ cfg Config }

// guard refuses what must not come in.
func (a *api) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		change := r.Method != http.MethodGet && r.Method != http.MethodHead
		switch {
		case !a.knownHost(r.Host):
			fail(w, http.StatusForbidden, "this host name is not served: use an address or localhost")
		case (change || a.cfg.Guarded) && !a.authorized(r):
			w.Header().Set("WWW-Authenticate", `Bearer realm="rebearer admin"`)
			fail(w, http.StatusUnauthorized, "the bearer token of server.admin.token_file is needed")
		case change && !isJSON(r):
			fail(w, http.StatusUnsupportedMediaType, "send a JSON body with Content-Type: application/json")
		default:
			w.Header().Set("Cache-Control", "no-store")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			next.ServeHTTP(w, r)
		}
	})
}

// knownHost refuses names that an attacker's DNS may point at us. Off loopback
// the token guards everything, under any name.
func (a *api) knownHost(host string) bool {
	if a.cfg.Guarded || host == a.cfg.Address {
		return true
	}
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	_, err = netip.ParseAddr(strings.Trim(name, "[]"))
	return err == nil || strings.EqualFold(name, "localhost")
}

func (a *api) authorized(r *http.Request) bool {
	if a.cfg.TokenFile == "" {
		return true
	}
	want, err := config.ReadSecret(a.cfg.TokenFile)
	if err != nil {
		a.cfg.Logger.Error("the admin token cannot be read", slog.Any("error", err))
		return false
	}
	scheme, got, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "Bearer") && subtle.ConstantTimeCompare([]byte(got), []byte(want.Reveal())) == 1
}

func isJSON(r *http.Request) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && kind == "application/json"
}

func (a *api) list(w http.ResponseWriter, _ *http.Request) {
	all := a.cfg.Credentials()
	answer := List{Credentials: make([]Credential, 0, len(all))}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		answer.Credentials = append(answer.Credentials, a.describe(all[name]))
	}
	reply(w, answer)
}

func (a *api) flush(w http.ResponseWriter, r *http.Request) {
	var request FlushRequest
	if !read(w, r, &request) {
		return
	}
	all := a.cfg.Credentials()
	switch {
	case request.All == (request.Credential != ""):
		fail(w, http.StatusBadRequest, `say either {"credential": "NAME"} or {"all": true}`)
		return
	case request.Credential != "":
		one, ok := all[request.Credential]
		if !ok {
			unknown(w, request.Credential, all)
			return
		}
		all = map[string]*tokens.Credential{request.Credential: one}
	}
	answer := FlushAnswer{Flushed: []string{}, Paused: []string{}}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		_, err := all[name].Flush()
		switch {
		case errors.Is(err, tokens.ErrPaused):
			answer.Paused = append(answer.Paused, name)
		default:
			answer.Flushed = append(answer.Flushed, name)
		}
	}
	a.cfg.Logger.Info("admin: flush", slog.Any("flushed", answer.Flushed), slog.Any("paused", answer.Paused))
	if len(answer.Flushed) == 0 && len(answer.Paused) > 0 {
		fail(w, http.StatusConflict, "paused credentials are not flushed, since nothing would take the token's place: resume first")
		return
	}
	reply(w, answer)
}

func (a *api) pause(w http.ResponseWriter, r *http.Request) {
	a.change(w, r, "pause", (*tokens.Credential).Pause)
}

func (a *api) resume(w http.ResponseWriter, r *http.Request) {
	a.change(w, r, "resume", (*tokens.Credential).Resume)
}

func (a *api) change(w http.ResponseWriter, r *http.Request, what string, do func(*tokens.Credential) bool) {
	all := a.cfg.Credentials()
	one, ok := all[r.PathValue("name")]
	if !ok {
		unknown(w, r.PathValue("name"), all)
		return
	}
	do(one)
	a.cfg.Logger.Info("admin: change", slog.String("change", what), slog.String("credential", one.Name()))
	reply(w, a.describe(one))
}

// void has the next request meet a dead token.
func (a *api) void(w http.ResponseWriter, r *http.Request) {
	if !a.cfg.Simulation {
		fail(w, http.StatusForbidden, "simulations are off: they need server.admin.allow_simulation: true and a restart, and are not for production")
		return
	}
	all := a.cfg.Credentials()
	one, ok := all[r.PathValue("name")]
	if !ok {
		unknown(w, r.PathValue("name"), all)
		return
	}
	if err := one.Void(); err != nil {
		fail(w, http.StatusConflict, err.Error())
		return
	}
	a.cfg.Logger.Warn("admin: simulation", slog.String("change", "void"), slog.String("credential", one.Name()))
	reply(w, a.describe(one))
}

func (a *api) envoys(w http.ResponseWriter, _ *http.Request) {
	answer := Envoys{Envoys: []Envoy{}}
	if a.cfg.Envoys != nil {
		for _, node := range a.cfg.Envoys() {
			answer.Envoys = append(answer.Envoys, describeEnvoy(node))
		}
	}
	reply(w, answer)
}

func (a *api) level(w http.ResponseWriter, _ *http.Request) {
	reply(w, LogLevel{Level: a.cfg.Level.Level().String()})
}

func (a *api) setLevel(w http.ResponseWriter, r *http.Request) {
	var request LogLevel
	if !read(w, r, &request) {
		return
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(request.Level)); err != nil {
		fail(w, http.StatusBadRequest, "level is debug, info, warn or error")
		return
	}
	a.cfg.Level.Set(level)
	a.cfg.Logger.Info("admin: log level", slog.String("level", level.String()))
	a.level(w, r)
}

// unknown names the credentials that there are.
func unknown(w http.ResponseWriter, name string, all map[string]*tokens.Credential) {
	fail(w, http.StatusNotFound, fmt.Sprintf("no credential %q; there are %s",
		name, strings.Join(slices.Sorted(maps.Keys(all)), ", ")))
}

// read decodes the body, or answers what is wrong with it.
func read(w http.ResponseWriter, r *http.Request, to any) bool {
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(to); err != nil {
		fail(w, http.StatusBadRequest, "the body is not what is expected here: "+err.Error())
		return false
	}
	return true
}

func reply(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(answer)
}

// fail answers with a problem document (RFC 9457).
func fail(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(Problem{Title: http.StatusText(status), Status: status, Detail: detail})
}
