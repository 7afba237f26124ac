package api

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// RealHeader marks a 403 that has nothing to do with the token: its value is
// then "1". Without it a load generator could not tell a real 403, which has to
// reach the caller, from a dead token's, which must not.
const RealHeader = "X-Demo-Real"

// RetriedHeader marks the answer to a request that the API has refused before:
// its value is then "1". Envoy's x-request-id, which stays the same from try to
// try, tells. A load generator can so measure what a retry costs a caller.
const RetriedHeader = "X-Demo-Retried"

const requestIDHeader = "X-Request-Id"

// keptRefusals is how many refused requests are remembered for RetriedHeader.
const keptRefusals = 4096

// The paths that mean something. All others answer a short text.
const (
	// EchoPath answers an [Echo] as JSON.
	EchoPath = "/echo"
	// ForbiddenPath answers a real 403 to a living token.
	ForbiddenPath = "/forbidden"
	// HealthPath answers 200 without a token, and is neither counted nor recorded.
	HealthPath = "/healthz"
)

// Rejection is how the API refuses a request without a living token.
type Rejection int

// The rejections.
const (
	// BareForbidden is 403 without a challenge: the default, and the hard case.
	BareForbidden Rejection = iota
	// BareUnauthorized is 401 without a challenge.
	BareUnauthorized
	// Challenge is 401 with the challenge of RFC 6750 section 3, invalid_token.
	Challenge
)

// Config says how an API behaves. The zero value is the demo's.
type Config struct {
	// Rejection is the answer to a request without a living token.
	Rejection Rejection
	// RealForbiddenShare is the share, from 0 to 1, of the otherwise fine
	// requests that get a real 403, on every try of theirs.
	RealForbiddenShare float64
	// Record is how many of the last tries are kept for [API.Tries]; zero
	// keeps none.
	Record int
}

// Counts is what an API has answered since it was made.
type Counts struct {
	// Requests is the sum of ByStatus.
	Requests int
	// ByStatus counts the answers.
	ByStatus map[int]int
	// Real is how many 403s were real.
	Real int
	// Rejected is how many requests came without exactly one living token.
	Rejected int
	// Duplicates is how many requests came with more than one authorization
	// value; they are among Rejected.
	Duplicates int
}

// Try is one request as the API saw it.
type Try struct {
	// Method and Path are those of the request.
	Method, Path string
	// Authorization holds every value of that header, tokens included: it is
	// for tests and must not be printed.
	Authorization []string
	// Status is the answer.
	Status int
}

// Echo is what [EchoPath] answers.
type Echo struct {
	// Method, Path (with the query), Host and Protocol are those of the request.
	Method   string `json:"method"`
	Path     string `json:"path"`
	Host     string `json:"host"`
	Protocol string `json:"protocol"`
	// Headers are those of the request under their canonical names, but for Host.
	Headers http.Header `json:"headers"`
	// BodyLength is how many bytes of body arrived.
	BodyLength int64 `json:"body_length"`
	// BodySHA256 is their SHA-256 in hexadecimal.
	BodySHA256 string `json:"body_sha256"`
}

// API is an [http.Handler] and safe for concurrent use. [New] makes one.
type API struct {
	valid func(token string) bool

	mu     sync.Mutex
	cfg    Config
	counts Counts
	tries  []Try // oldest first; the last cfg.Record of them count

	refused    map[string]struct{} // ids of the requests refused last
	refusedIDs []string            // the same, oldest first
}

// New makes an API that accepts the tokens for which valid answers true. valid
// is called from many goroutines.
func New(valid func(token string) bool, cfg Config) (*API, error) {
	switch {
	case valid == nil:
		return nil, errors.New("api: nothing says which tokens are valid")
	case !isShare(cfg.RealForbiddenShare):
		return nil, fmt.Errorf("api: a share of %v real 403s is not within 0 and 1", cfg.RealForbiddenShare)
	case cfg.Record < 0:
		return nil, errors.New("api: a negative number of tries to record")
	}
	return &API{
		valid: valid, cfg: cfg,
		counts:  Counts{ByStatus: make(map[int]int)},
		refused: make(map[string]struct{}),
	}, nil
}

func isShare(share float64) bool { return share >= 0 && share <= 1 }

// SetRejection changes the answer to requests without a living token.
func (a *API) SetRejection(rejection Rejection) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cfg.Rejection = rejection
}

// draw returns a number in [0,1) that is the same for every try of a request:
// who may not do something may not do it on a retry either.
func draw(r *http.Request) float64 {
	id := r.Header.Get(requestIDHeader)
	if id == "" {
		return rand.Float64()
	}
	sum := sha256.Sum256([]byte(id))
	return float64(binary.BigEndian.Uint32(sum[:])) / (1 << 32)
}

// SetRealForbiddenShare changes the share of real 403s. A share that is not
// within 0 and 1 is ignored.
func (a *API) SetRealForbiddenShare(share float64) {
	if !isShare(share) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.cfg.RealForbiddenShare = share
}

// Counts returns a copy of the counts.
func (a *API) Counts() Counts {
	a.mu.Lock()
	defer a.mu.Unlock()
	counts := a.counts
	counts.ByStatus = maps.Clone(counts.ByStatus)
	return counts
}

// Tries returns the last tries, oldest first, as many as the configuration
// keeps.
func (a *API) Tries() []Try {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.lastTries())
}

// lastTries is the part of tries that counts. The caller holds mu.
func (a *API) lastTries() []Try { return a.tries[max(0, len(a.tries)-a.cfg.Record):] }

// ServeHTTP decides on the token first, then on the path.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == HealthPath {
		text(w, http.StatusOK, "ok")
		return
	}
	if a.wasRefused(r) {
		w.Header().Set(RetriedHeader, "1")
	}
	rejection, share := a.behaviour()
	switch {
	case !a.accepted(r):
		a.note(r, rejection.status(), false)
		rejection.answer(w)
	case r.URL.Path == ForbiddenPath || draw(r) < share:
		a.note(r, http.StatusForbidden, true)
		w.Header().Set(RealHeader, "1")
		text(w, http.StatusForbidden, "forbidden")
	case r.URL.Path == EchoPath:
		a.note(r, http.StatusOK, false)
		echo(w, r)
	default:
		a.note(r, http.StatusOK, false)
		text(w, http.StatusOK, "hello from the protected API")
	}
}

func (a *API) behaviour() (Rejection, float64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cfg.Rejection, a.cfg.RealForbiddenShare
}

// accepted reports whether the request holds exactly one authorization value,
// a living bearer token.
func (a *API) accepted(r *http.Request) bool {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return false
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	return strings.EqualFold(scheme, "Bearer") && a.valid(token)
}

// note counts and records a try that is about to be answered.
func (a *API) note(r *http.Request, status int, isReal bool) {
	values := r.Header.Values("Authorization")
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts.Requests++
	a.counts.ByStatus[status]++
	switch {
	case isReal:
		a.counts.Real++
	case status != http.StatusOK:
		a.counts.Rejected++
		a.rememberRefused(r)
	}
	if len(values) > 1 {
		a.counts.Duplicates++
	}
	if a.cfg.Record == 0 {
		return
	}
	if len(a.tries) == 2*a.cfg.Record { // seldom enough to cost nothing
		a.tries = slices.Clone(a.lastTries())
	}
	a.tries = append(a.tries, Try{
		Method: r.Method, Path: r.URL.Path, Authorization: slices.Clone(values), Status: status,
	})
}

func (a *API) wasRefused(r *http.Request) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.refused[r.Header.Get(requestIDHeader)]
	return ok
}

// rememberRefused remembers a request by its id. The caller holds mu.
func (a *API) rememberRefused(r *http.Request) {
	id := r.Header.Get(requestIDHeader)
	if _, ok := a.refused[id]; ok || id == "" {
		return
	}
	if len(a.refusedIDs) == keptRefusals {
		delete(a.refused, a.refusedIDs[0])
		a.refusedIDs = a.refusedIDs[1:]
	}
	a.refused[id] = struct{}{}
	a.refusedIDs = append(a.refusedIDs, id)
}

func (r Rejection) status() int {
	if r == BareForbidden {
		return http.StatusForbidden
	}
	return http.StatusUnauthorized
}

func (r Rejection) answer(w http.ResponseWriter) {
	if r == Challenge {
		w.Header().Set("WWW-Authenticate", `Bearer realm="demo", error="invalid_token", error_description="The token is not active"`)
	}
	text(w, r.status(), "no")
}

// text writes a short answer. An error would be that of a client that has left.
func text(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body+"\n")
}

func echo(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	length, err := io.Copy(sum, r.Body)
	if err != nil {
		return // the client has left
	}
	w.Header().Set("Content-Type", "application/json")
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	// An error would be that of a client that has left.
	_ = encoder.Encode(Echo{
		Method: r.Method, Path: r.URL.RequestURI(), Host: r.Host, Protocol: r.Proto,
		Headers: r.Header, BodyLength: length, BodySHA256: hex.EncodeToString(sum.Sum(nil)),
	})
}
