package oauth

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/rebearer/rebearer/tokens"
)

// RefreshStore keeps a refresh token beyond the life of the process.
type RefreshStore interface {
	// Use calls exchange with the refresh token to use now, keeps the one that
	// came for it, if any, and returns the grant without it: whoever drops a
	// refresh token revokes it, and this one must outlive us. It never runs two
	// exchanges of the same token at once, since the provider would take the
	// second for theft (RFC 9700 section 4.14.2). It blocks until ctx ends at
	// most; the context of exchange does not end with it.
	Use(ctx context.Context, exchange func(context.Context, tokens.Secret) (tokens.Grant, error)) (tokens.Grant, error)
}

// defaultRefreshLife is how long a refresh token lives after it was used last,
// where nobody says.
const defaultRefreshLife = 12 * time.Hour

var errRefreshUnused = errors.New("the refresh token was not used for too long: put a new one into its file")

// RefreshFileConfig says where a refresh token is kept.
type RefreshFileConfig struct {
	// File holds the first refresh token, as plain text. Required. It may be
	// missing where the state file holds a later one.
	File string
	// StateFile holds the latest one. Its folder must be writable: a file and a
	// lock are made there. Empty means File itself, which then takes both forms.
	StateFile string
	// Expiry is how long a refresh token is used after its last success, where
	// the provider states no lifetime. Zero means 12 hours. A first token is
	// used whatever its age, which nobody knows.
	Expiry time.Duration
}

// RefreshFile keeps a refresh token in a file. It implements [RefreshStore] and
// is safe for concurrent use, also of several processes with the same files.
//
// What the operator puts into File wins over the state file: each state says from
// which first token it comes, and is void once File holds another.
//
// A token that came for another is on the disk before the access token that came
// with it is handed out. Where it cannot be written it is kept in memory and
// written at the next chance: the requests go on, and only the end of the process
// loses it. An exchange goes on when the one who asked for it leaves, lest its
// answer is lost.
type RefreshFile struct {
	*keptRefresh

	cfg    RefreshFileConfig
	logger *slog.Logger
}

// keptRefresh is what the stores of the same files have in common.
type keptRefresh struct {
	turn   chan struct{} // holds one value: the right to what follows
	memory refreshState  // could not be written; zero for nothing
	onDisk tokens.Secret // what the files held last

	mu      sync.Mutex // guards what follows
	unsaved error
}

// NewRefreshFile returns a store in the configured files. It reads nothing yet.
// The logger hears of what could not be written.
func NewRefreshFile(logger *slog.Logger, cfg RefreshFileConfig) (*RefreshFile, error) {
	switch {
	case cfg.File == "":
		return nil, errors.New("refresh token: no file")
	case cfg.Expiry < 0:
		return nil, errors.New("refresh token: the expiry is negative")
	case cfg.Expiry == 0:
		cfg.Expiry = defaultRefreshLife
	}
	if cfg.StateFile == "" {
		cfg.StateFile = cfg.File
	}
	return &RefreshFile{cfg: cfg, logger: logger, keptRefresh: &keptRefresh{turn: make(chan struct{}, 1)}}, nil
}

// Adopt has f go on with the token of another store, which may have one that could
// not be written, if that is of the same files. Call it before f is used; both may
// be used then.
func (f *RefreshFile) Adopt(other *RefreshFile) {
	if f.cfg.File == other.cfg.File && f.cfg.StateFile == other.cfg.StateFile {
		f.keptRefresh = other.keptRefresh
	}
}

// Use implements [RefreshStore]. The error is a [*tokens.PermanentError] where
// the token has expired, and transient where the files cannot be read.
func (f *RefreshFile) Use(ctx context.Context, exchange func(context.Context, tokens.Secret) (tokens.Grant, error)) (tokens.Grant, error) {
	select {
	case f.turn <- struct{}{}:
	case <-ctx.Done():
		return tokens.Grant{}, context.Cause(ctx)
	}
	unlock, err := lockFile(ctx, f.cfg.StateFile+".lock")
	if err != nil {
		<-f.turn
		return tokens.Grant{}, err
	}
	type answer struct {
		grant tokens.Grant
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		grant, err := f.use(context.WithoutCancel(ctx), exchange)
		unlock()
		<-f.turn
		answered <- answer{grant: grant, err: err}
	}()
	select {
	case a := <-answered:
		return a.grant, a.err
	case <-ctx.Done():
		return tokens.Grant{}, context.Cause(ctx)
	}
}

// use is Use for the one whose turn it is.
func (f *RefreshFile) use(ctx context.Context, exchange func(context.Context, tokens.Secret) (tokens.Grant, error)) (tokens.Grant, error) {
	state, err := f.current(ctx)
	if err != nil {
		return tokens.Grant{}, fmt.Errorf("refresh token: %w", err)
	}
	if state.endsBy(time.Now(), f.cfg.Expiry) {
		return tokens.Grant{}, fmt.Errorf("%s: %w", f.cfg.File, &tokens.PermanentError{Err: errRefreshUnused})
	}
	grant, err := exchange(ctx, state.token)
	if err != nil {
		return tokens.Grant{}, err
	}
	f.keep(ctx, state.after(grant, time.Now()))
	grant.RefreshToken, grant.RefreshExpiresIn = "", 0
	return grant, nil
}

// current returns the token to use: that of the files, unless they still hold
// what they held when a later one could not be written.
func (f *RefreshFile) current(ctx context.Context) (refreshState, error) {
	state, err := f.read(ctx)
	if f.memory.token != "" && (err != nil || state.token == f.onDisk) {
		return f.memory, nil
	}
	if err == nil {
		f.memory, f.onDisk = refreshState{}, state.token
	}
	return state, err
}

// read returns what the files hold.
func (f *RefreshFile) read(ctx context.Context) (refreshState, error) {
	state, err := readState(f.cfg.StateFile)
	if f.cfg.StateFile == f.cfg.File {
		return state, err
	}
	if err == nil && state.origin == "" {
		return refreshState{}, fmt.Errorf("%s: %w", f.cfg.StateFile, errNoState)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNoToken) {
		return refreshState{}, err
	}
	first, firstErr := readState(f.cfg.File)
	switch {
	case firstErr == nil && originOf(first.token) != state.origin:
		return first, nil
	case firstErr == nil, errors.Is(firstErr, fs.ErrNotExist) && err == nil:
	case err == nil:
		f.logger.LogAttrs(ctx, slog.LevelWarn, "the first refresh token cannot be read; a later one is used", slog.Any("error", firstErr))
	default:
		return refreshState{}, firstErr
	}
	return state, nil
}

// keep writes the state, or else remembers it. Its failure fails no request,
// whose token is good.
func (f *RefreshFile) keep(ctx context.Context, state refreshState) {
	err := writeState(f.cfg.StateFile, state)
	if err == nil {
		f.memory, f.onDisk = refreshState{}, state.token
	} else {
		f.memory = state
	}
	if state.token == f.onDisk {
		err = nil // at worst it is forgotten when the token was used last
	}
	f.mu.Lock()
	f.unsaved = err
	f.mu.Unlock()
	if err != nil {
		f.logger.LogAttrs(ctx, slog.LevelError,
			"the refresh token could not be written: it is lost if rebearer ends before that succeeds", slog.Any("error", err))
	}
}

// Unsaved returns why the latest refresh token is in memory only; nil if it is
// not.
func (f *RefreshFile) Unsaved() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.unsaved
}
