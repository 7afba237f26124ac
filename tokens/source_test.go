package tokens

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// script is a Source whose answers a test writes. It counts what it is asked.
type script struct {
	// answer makes the answer to the nth request, from 1. It may block on ctx.
	answer func(ctx context.Context, n int) (Grant, error)

	mu sync.Mutex
	at []time.Time // of every request
}

// Grant implements Source.
func (s *script) Grant(ctx context.Context, _ GrantRequest) (Grant, error) {
	s.mu.Lock()
	s.at = append(s.at, time.Now())
	n := len(s.at)
	s.mu.Unlock()
	return s.answer(ctx, n)
}

func (s *script) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.at)
}

// times returns when each request came.
func (s *script) times() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.at)
}

// numbered answers token-1, token-2 and so on, after a while.
func numbered(life, after time.Duration) *script {
	return &script{answer: func(ctx context.Context, n int) (Grant, error) {
		if err := sleep(ctx, after); err != nil {
			return Grant{}, err
		}
		return Grant{AccessToken: Secret(fmt.Sprintf("token-%d", n)), ExpiresIn: life}, nil
	}}
}

// sleep returns after a while, or with the context's error.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// diary is an Observer that remembers.
type diary struct {
	mu     sync.Mutex
	events []Event
}

func (d *diary) observe(ev Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events = append(d.events, ev)
}

// of returns the events of one kind.
func (d *diary) of(kind Kind) []Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	var found []Event
	for _, ev := range d.events {
		if ev.Kind == kind {
			found = append(found, ev)
		}
	}
	return found
}

// newTestCache makes a cache. Use it within synctest.
func newTestCache(t *testing.T, bytes int64) *Cache {
	t.Helper()
	cache, err := NewCache(bytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cache.Close)
	return cache
}

// newTestCredential makes a credential in a cache of its own, and its diary. Use
// it within synctest.
func newTestCredential(t *testing.T, source Source, mend ...func(*Config)) (*Credential, *diary) {
	t.Helper()
	return newCredentialIn(t, newTestCache(t, 1<<20), source, mend...)
}

// newCredentialIn makes a credential and its diary. Use it within synctest.
func newCredentialIn(t *testing.T, cache *Cache, source Source, mend ...func(*Config)) (*Credential, *diary) {
	t.Helper()
	d := &diary{}
	cfg := Config{Name: "orders", Provider: "shop", Key: "k", Source: source, Observer: d.observe}
	for _, m := range mend {
		m(&cfg)
	}
	c, err := NewCredential(cache, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, d
}

// mustToken returns the token of a first try.
func mustToken(t *testing.T, c *Credential) Token {
	t.Helper()
	token, err := c.Token(t.Context(), Request{})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// refusalOf is the rejection of a token that was given on the given try.
func refusalOf(token Token, attempt int, verdict Verdict) Rejection {
	return Rejection{
		Use: Use{
			Policy: "p", Credential: "orders", Caller: "caller",
			Generation: token.Generation, Age: time.Since(token.Issued),
		},
		Fingerprint: token.Fingerprint, Attempt: attempt, Verdict: verdict, Rule: "status", Retriable: true,
	}
}

// Revoke implements Source.
func (s *script) Revoke(context.Context, int, Secret) error { return errors.ErrUnsupported }
