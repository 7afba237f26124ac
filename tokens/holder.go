package tokens

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// holder is what the entries of a credential have in common. A credential that
// takes another's place takes its holder, and entries notice nothing.
type holder struct {
	cache *Cache
	key   string // of its own entry; no two holders share one
	own   *entry // held here, so that pressure on the cache never costs a fetch

	owner   atomic.Pointer[Credential] // that the entries work for
	entries atomic.Int64               // on behalf of callers, in the cache
	dropped disposal
	share   share

	flushed        atomic.Pointer[time.Time] // tokens requested before are dropped
	uses, bypassed atomic.Uint64             // of all owners: no count goes back

	// life ends with the last owner. Fetches run on it, never on a caller's
	// context.
	life context.Context //nolint:containedctx // the one lifetime context
	stop context.CancelFunc

	mu    sync.Mutex        // guards what follows; taken after an entry's
	alone map[string]*alone // the bypass fetches in flight, by subject
	down  outage            // as the last fetch found it that was not for our own token
	firm  confirmation
}

// newHolder makes the holder of a credential whose tokens are for key.
func newHolder(cache *Cache, key string, owner *Credential) *holder {
	h := &holder{cache: cache, alone: map[string]*alone{}}
	h.share.ofCallers = owner.cfg.OnBehalf
	h.share.usual.last.at = time.Now()
	h.key = fmt.Sprintf("%s\x00%p", key, h)
	h.own = &entry{of: h, key: h.key, pinned: true}
	h.owner.Store(owner)
	h.life, h.stop = context.WithCancel(context.Background())
	cache.mu.Lock()
	cache.holders[h] = struct{}{}
	cache.mu.Unlock()
	return h
}

// end ends all fetches and renewals.
func (h *holder) end() {
	h.stop()
	h.own.close()
	h.cache.drop(h)
}

// flushedAt is when all tokens were dropped last.
func (h *holder) flushedAt() time.Time {
	if at := h.flushed.Load(); at != nil {
		return *at
	}
	return time.Time{}
}

// subjectName tells the tokens of a credential apart by the caller's token that
// they were got with. Two tokens of one caller may differ in what they allow, so
// each has its own.
func subjectName(s Subject) string {
	if s.Token == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(s.Token.Reveal()))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// keyOf returns the key of a subject's entry.
func (h *holder) keyOf(name string) string { return h.key + "\x00" + name }

// entry returns the entry of the credential's own token, or of a subject's.
func (h *holder) entry(s Subject) *entry {
	if s.Token == "" {
		return h.cache.own(h.key, h.own)
	}
	name := subjectName(s)
	return h.cache.open(h.keyOf(name), func() *entry {
		return &entry{of: h, key: h.keyOf(name), name: name, subject: s}
	})
}

// find returns the entry that a [Use.Subject] names, or nil.
func (h *holder) find(name string) *entry {
	if name == "" {
		return h.cache.own(h.key, h.own)
	}
	return h.cache.find(h.keyOf(name))
}

// sameInstant is how far apart requests may come that share the fetch of a
// bypass.
const sameInstant = 10 * time.Millisecond

// alone is the fetch of a bypass.
type alone struct {
	entry *entry
	fetch *fetch
	began time.Time
}

// tokenAlone fetches a token that is not kept. Requests of the same instant
// share it.
func (c *Credential) tokenAlone(ctx context.Context, s Subject) (Token, error) {
	s = c.behalf(s)
	h := c.h
	token, err := c.wait(ctx, h.fetchAlone(s, time.Now()))
	if err == nil {
		h.uses.Add(1)
		h.bypassed.Add(1)
		h.cache.bypassed.Add(1)
	}
	return token, err
}

// fetchAlone starts the fetch of a bypass, or joins one of the same instant.
func (h *holder) fetchAlone(s Subject, now time.Time) *fetch {
	e := &entry{of: h, name: subjectName(s), subject: s, lone: true}
	e.mu.Lock() // first, as everywhere
	defer e.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.alone[e.name]; a != nil && now.Sub(a.began) < sameInstant {
		return a.fetch
	}
	e.outage = h.down
	f := e.start(now, ReasonBypass)
	if e.fetching != nil {
		h.alone[e.name] = &alone{entry: e, fetch: f, began: now}
	}
	return f
}

// endAlone forgets the fetch of a bypass.
func (h *holder) endAlone(e *entry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.alone[e.name]; a != nil && a.entry == e {
		delete(h.alone, e.name)
	}
}

// noteHealth notes what the fetch of a token that is not our own found out of the
// provider's health, so that those of others need not.
func (h *holder) noteHealth(e *entry) {
	e.mu.Lock()
	found := e.outage
	e.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case e.name == "" || !isRefusal(found.lastErr):
		h.down = found
	case isSubject(found.lastErr): // it is well, and said no to one caller
		h.down = outage{}
	}
}

// health returns what others found out of the provider.
func (h *holder) health() outage {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.down
}

// reown does for a new owner what depends on its settings: it plans the renewal
// anew, if there is to be one, and publishes the token.
func (e *entry) reown() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.publish()
	switch {
	case !e.c().keeps():
		e.unschedule()
	case e.current.aliveAt(time.Now()):
		e.schedule(e.c().cfg.Expiry.renewal(e.current.Issued, e.current.Expires, rand.Float64()))
	}
}
