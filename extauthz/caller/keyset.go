package caller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// refreshAfter is how old a key set gets before it is fetched again, in the
	// background. A key that its issuer removed is refused after this at the
	// latest, as long as the issuer answers.
	refreshAfter = 5 * time.Minute
	// staleAfter is how long the last good set is used while its issuer does
	// not answer.
	staleAfter = 24 * time.Hour
	// coolDown is the pause between two fetches for the same cause, whatever
	// came of the first.
	coolDown = 10 * time.Second
	// coldPause is that pause while there are no keys at all.
	coldPause = time.Second
	// fetchTimeout bounds a fetch: metadata and keys.
	fetchTimeout = 15 * time.Second
	// maxMissing bounds how many unknown kids are remembered.
	maxMissing = 1024
)

// KeySource gets an issuer's JSON Web Key Set (RFC 7517 section 5).
type KeySource interface {
	JWKS(ctx context.Context) ([]byte, error)
}

// cause is why keys are fetched. Each has its own cool-down, so that a flood of
// tokens with made-up kids delays no scheduled refresh.
type cause int

const (
	cold         cause = iota // there are none yet
	scheduled                 // they are old
	unknownKey                // a token names one that is not there
	regularsKey               // the same, and the token names a caller that is known
	badSignature              // a key may have been replaced under its kid
	causes
)

func (c cause) pause() time.Duration {
	if c == cold {
		return coldPause
	}
	return coolDown
}

// KeySet holds the keys of one issuer and keeps them up to date as they are
// used. It is safe for concurrent use. Its fetches run in the background, one
// at a time and each with a deadline; none outlives it by more than 15 s.
type KeySet struct {
	source  KeySource
	log     *slog.Logger
	created time.Time // the origin of the times in next

	current atomic.Pointer[keys]
	loaded  atomic.Int64         // since created: when current was fetched
	next    [causes]atomic.Int64 // since created: when a fetch may begin

	mu      sync.Mutex
	flight  *flight             // the fetch under way, if any
	failing bool                // the last fetch failed
	missing map[string]struct{} // kids that a fetch did not find
}

// flight is a fetch under way. err is set before done is closed.
type flight struct {
	done chan struct{}
	err  error
}

// NewKeySet returns a set that is empty until it is used. One KeySet may serve
// several verifiers of the same issuer.
func NewKeySet(source KeySource, log *slog.Logger) *KeySet {
	return &KeySet{source: source, log: log, created: time.Now(), missing: map[string]struct{}{}}
}

// Load gets the keys if there are none yet. It blocks until ctx ends at most;
// its error is an [*UnavailableError].
func (s *KeySet) Load(ctx context.Context) error {
	_, _, err := s.load(ctx)
	return err
}

// Adopt takes over the keys of another set of the same issuer, so that a change
// of how they are fetched does not cost them. Call it before the set is used.
func (s *KeySet) Adopt(old *KeySet) {
	s.created = old.created
	s.loaded.Store(old.loaded.Load())
	s.next[scheduled].Store(old.next[scheduled].Load())
	s.current.Store(old.current.Load())
}

// Len returns how many usable keys the set holds now.
func (s *KeySet) Len() int {
	if current := s.current.Load(); current != nil {
		return len(current.list)
	}
	return 0
}

// Age returns how long ago the keys were fetched; false if there are none yet.
func (s *KeySet) Age() (time.Duration, bool) {
	if s.current.Load() == nil {
		return 0, false
	}
	return s.now() - time.Duration(s.loaded.Load()), true
}

// now is the time since the set was created: it does not jump with the clock.
func (s *KeySet) now() time.Duration { return time.Since(s.created) }

// usable returns the present keys without blocking, nil if there are none or
// they are too old, and has them refreshed when it is time.
func (s *KeySet) usable(ctx context.Context) *keys {
	current := s.current.Load()
	if current == nil {
		return nil
	}
	now := s.now() // once: this is on every request
	if now >= time.Duration(s.next[scheduled].Load()) {
		s.fetch(ctx, scheduled)
	}
	if now-time.Duration(s.loaded.Load()) > staleAfter {
		return nil
	}
	return current
}

// load returns the keys, fetching them first where there are none. fresh tells
// that the fetch began with this call.
func (s *KeySet) load(ctx context.Context) (current *keys, fresh bool, err error) {
	if current := s.usable(ctx); current != nil {
		return current, false, nil
	}
	wanted, own := s.fetch(ctx, cold)
	if err := s.await(ctx, wanted); err != nil {
		return nil, false, err
	}
	return s.current.Load(), own, nil
}

// find returns the keys that may have signed a token, never none without an
// error. namesRegular tells, where that matters, whether the token names a caller
// that is known: then a flood of made-up tokens does not keep it from causing a
// fetch.
func (s *KeySet) find(ctx context.Context, keyID string, algorithm jose.SignatureAlgorithm, namesRegular func() bool) ([]*key, error) {
	current, fresh, err := s.load(ctx)
	if err != nil {
		return nil, err
	}
	found, known := current.candidates(keyID, algorithm)
	if !known && !fresh {
		if err := s.seek(ctx, keyID, namesRegular); err != nil {
			return nil, err
		}
		found, known = s.current.Load().candidates(keyID, algorithm)
	}
	if !known {
		s.remember(keyID)
	}
	if len(found) == 0 {
		return nil, ErrKey
	}
	return found, nil
}

// seek fetches the keys for a token whose kid is not among them. Without an error
// the kid is there now, or nowhere: a fetch that was under way already settles
// nothing, since it may have read the keys before this one was there.
func (s *KeySet) seek(ctx context.Context, keyID string, namesRegular func() bool) error {
	for _, why := range []cause{unknownKey, regularsKey} {
		if why == regularsKey && (!s.due(why) || !namesRegular()) {
			break
		}
		wanted, own := s.fetch(ctx, why)
		if wanted == nil {
			continue
		}
		if err := s.await(ctx, wanted); err != nil {
			return err
		}
		if _, known := s.current.Load().candidates(keyID, ""); known || own {
			return nil
		}
	}
	return s.unknown(keyID)
}

// findReplaced is for a token that none of the keys that were tried has signed:
// it returns those that have come since, after a fetch if one is allowed.
func (s *KeySet) findReplaced(ctx context.Context, c compact, tried []*key) []*key {
	if wanted, _ := s.fetch(ctx, badSignature); wanted != nil {
		_ = s.await(ctx, wanted) // the token is refused either way
	}
	found, _ := s.current.Load().candidates(c.keyID, c.algorithm)
	return slices.DeleteFunc(found, func(k *key) bool {
		return slices.ContainsFunc(tried, func(t *key) bool { return t.thumbprint == k.thumbprint })
	})
}

// due reports whether a fetch for that cause may begin.
func (s *KeySet) due(why cause) bool { return s.now() >= time.Duration(s.next[why].Load()) }

// unknown is the answer for a kid that is not there while no fetch is allowed.
func (s *KeySet) unknown(keyID string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.missing[keyID]; ok {
		return ErrKey
	}
	wait := time.Duration(s.next[unknownKey].Load()) - s.now()
	return &UnavailableError{Reason: ReasonKeys, RetryAfter: wait, Err: errors.New("its key is not known, and keys were fetched a moment ago")}
}

// remember notes a kid that a fetch did not find.
func (s *KeySet) remember(keyID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.missing) >= maxMissing {
		clear(s.missing)
	}
	s.missing[keyID] = struct{}{}
}

// fetch returns the fetch under way, or begins one of its own if the cool-down of
// its cause allows it, or returns nil. The cool-down is claimed before the fetch
// and independent of what comes of it.
func (s *KeySet) fetch(ctx context.Context, why cause) (wanted *flight, own bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flight != nil {
		return s.flight, false
	}
	if !s.due(why) {
		return nil, false
	}
	now := s.now()
	s.next[why].Store(int64(now + why.pause()))
	s.flight = &flight{done: make(chan struct{})}
	go s.run(context.WithoutCancel(ctx), s.flight)
	return s.flight, true
}

// await waits for a fetch. A nil one is a fetch that was not allowed.
func (s *KeySet) await(ctx context.Context, f *flight) error {
	if f == nil {
		return &UnavailableError{Reason: ReasonKeys, RetryAfter: coldPause, Err: errors.New("keys could not be fetched a moment ago")}
	}
	select {
	case <-f.done:
		if f.err != nil {
			return &UnavailableError{Reason: ReasonKeys, RetryAfter: coolDown, Err: f.err}
		}
		return nil
	case <-ctx.Done():
		return &UnavailableError{Reason: ReasonKeys, RetryAfter: coldPause, Err: fmt.Errorf("keys are being fetched: %w", ctx.Err())}
	}
}

// run fetches the keys once and tells those who wait.
func (s *KeySet) run(ctx context.Context, f *flight) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	fetched, err := s.get(ctx)

	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		err = s.store(fetched)
	}
	s.report(ctx, err)
	f.err = err
	s.flight = nil
	close(f.done)
}

// get fetches and reads the keys. A fault in reading them must not end the
// process, since what is read comes from outside.
func (s *KeySet) get(ctx context.Context) (fetched *keys, err error) {
	defer func() {
		if recover() != nil {
			fetched, err = nil, errors.New("reading the keys failed: this is a fault in rebearer")
		}
	}()
	text, err := s.source.JWKS(ctx)
	if err != nil {
		return nil, err
	}
	fetched, err = parseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	return fetched, nil
}

var errNoUsableKey = errors.New("key set: it has no key that can be used")

// store makes fetched the present keys. A set without any key is none: an issuer
// that is coming up looks like that. One whose keys cannot be used is what the
// issuer says, but never replaces one that has some. The caller holds mu.
func (s *KeySet) store(fetched *keys) error {
	current := s.current.Load()
	if fetched.listed == 0 || len(fetched.list) == 0 && current != nil && len(current.list) > 0 {
		return errNoUsableKey
	}
	now := s.now()
	s.loaded.Store(int64(now))
	s.next[scheduled].Store(int64(now + refreshAfter))
	s.current.Store(fetched)
	return nil
}

// report logs a fetch that failed unless the one before did too, and the first
// that succeeds after that. The caller holds mu.
func (s *KeySet) report(ctx context.Context, err error) {
	current := s.current.Load()
	inUse := 0
	if current != nil {
		inUse = len(current.list)
	}
	if err == nil && inUse == 0 {
		err = errNoUsableKey
	}
	switch {
	case err != nil && !s.failing:
		s.log.WarnContext(ctx, "caller keys cannot be fetched", slog.Any("error", err), slog.Int("keys_in_use", inUse))
	case err == nil && s.failing:
		s.log.InfoContext(ctx, "caller keys fetched again", slog.Int("keys_in_use", inUse))
	}
	s.failing = err != nil
}
