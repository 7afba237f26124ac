package caller

import (
	"container/heap"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// defaultRevocations is how many revocations are held where nothing else is
// said: some 30 MiB.
const defaultRevocations = 1 << 17

// RevocationKind is what a [Revocation] names.
type RevocationKind string

// The kinds of revocations.
const (
	// RevokedToken is one token, by its jti.
	RevokedToken RevocationKind = "jti"
	// RevokedSubject is all tokens of a subject that were issued up to a time.
	RevokedSubject RevocationKind = "sub"
	// RevokedClient is all tokens of a client that were issued up to a time.
	RevokedClient RevocationKind = "client"
)

// Revocation says that tokens of an issuer are not good any more, though they
// have not expired.
type Revocation struct {
	// Issuer is the iss of these tokens. Required.
	Issuer string
	// Kind is what Value names.
	Kind RevocationKind
	// Value is the jti, the subject or the client. Required; none has a meaning
	// beyond itself.
	Value string
	// At is when a subject or client was revoked, by the issuer's clock: tokens
	// with an iat up to it are revoked, and so are those without one. Zero
	// means now. iat has whole seconds, so a token that was issued later within
	// the same second may be revoked too.
	At time.Time
	// Until is when the last of these tokens has expired, and the revocation
	// can be forgotten. Required.
	Until time.Time
}

// ErrRevocationsFull says that a revocation was not kept, because as many are
// held as may be, and all of them end later.
var ErrRevocationsFull = errors.New("as many revocations are held as may be")

// Revocations is a bounded set of revocations. Every verifier that has it looks
// at it after its caches, and after whatever it was waiting for, so a revocation
// wins over both. It is safe for concurrent use. A nil one is empty.
//
// A revocation ends by itself. When there are too many, the one that ends first
// goes, since it would have been needed for the shortest time; Dropped counts
// them. Memory depends on the number of entries only: they are kept by hash.
type Revocations struct {
	capacity int
	// generation grows with every change. A verified token remembers the one
	// for which it was found not to be revoked, so that it is looked up once
	// for each change and not once for each request.
	generation atomic.Uint64
	dropped    atomic.Uint64

	mu     sync.RWMutex
	byMark map[mark]*revoked
	ending endings
}

// mark is the hash of what a revocation names; zero for what a token lacks.
type mark [sha256.Size]byte

// marks are those of a token's jti, subject and client, in this order.
type marks [3]mark

// revoked is a revocation as it is kept.
type revoked struct {
	mark  mark
	at    time.Time
	until time.Time
	place int // in endings
}

// NewRevocations returns an empty set of that capacity. Zero means 131,072.
func NewRevocations(capacity int) *Revocations {
	if capacity <= 0 {
		capacity = defaultRevocations
	}
	r := &Revocations{capacity: capacity, byMark: map[mark]*revoked{}}
	r.generation.Store(1)
	return r
}

// Add adds a revocation. It may come twice, and in any order with others: the
// later of two times counts. It does not block for long. An error means that
// nothing was revoked.
func (r *Revocations) Add(added Revocation) error {
	now := time.Now()
	switch {
	case added.Issuer == "" || added.Value == "":
		return errors.New("a revocation without issuer or value would revoke nothing")
	case added.Kind != RevokedToken && added.Kind != RevokedSubject && added.Kind != RevokedClient:
		return fmt.Errorf("unknown kind of revocation %q", added.Kind)
	case added.Until.IsZero():
		return errors.New("a revocation needs an end")
	case !now.Before(added.Until):
		return nil // the tokens have expired
	}
	if added.At.IsZero() {
		added.At = now
	}
	next := &revoked{mark: markOf(added.Issuer, added.Kind, added.Value), at: added.At, until: added.Until}

	r.mu.Lock()
	defer r.mu.Unlock()
	if known := r.byMark[next.mark]; known != nil {
		r.extend(known, next)
	} else {
		r.byMark[next.mark] = next
		heap.Push(&r.ending, next)
	}
	r.forget(now)
	// Last: who sees the new generation must find the revocation.
	r.generation.Add(1)
	if r.byMark[next.mark] == nil {
		return ErrRevocationsFull
	}
	return nil
}

// extend makes known cover what next does. The caller holds mu.
func (r *Revocations) extend(known, next *revoked) {
	if next.at.After(known.at) {
		known.at = next.at
	}
	if next.until.After(known.until) {
		known.until = next.until
		heap.Fix(&r.ending, known.place)
	}
}

// forget drops what has ended, and what ends first while there is too much. The
// caller holds mu.
func (r *Revocations) forget(now time.Time) {
	for len(r.ending) > 0 {
		first := r.ending[0]
		ended := !now.Before(first.until)
		if !ended && len(r.ending) <= r.capacity {
			return
		}
		heap.Pop(&r.ending)
		delete(r.byMark, first.mark)
		if !ended {
			r.dropped.Add(1)
		}
	}
}

// Len returns how many revocations are held. Some of them may have ended.
func (r *Revocations) Len() int {
	if r == nil {
		return 0
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.ending)
}

// Dropped returns how many revocations were given up before their end, for want
// of room.
func (r *Revocations) Dropped() uint64 {
	if r == nil {
		return 0
	}
	return r.dropped.Load()
}

// cover reports whether a token is revoked now.
func (r *Revocations) cover(token *verified, now time.Time) bool {
	if r == nil {
		return false
	}
	// Read first: what is added after this is looked up the next time.
	generation := r.generation.Load()
	if token.cleared.Load() == generation {
		return false
	}
	if r.match(token, now) {
		return true
	}
	token.cleared.Store(generation)
	return false
}

// match looks a token up.
func (r *Revocations) match(token *verified, now time.Time) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for i, m := range token.marks {
		found := r.byMark[m]
		if found == nil || !now.Before(found.until) {
			continue
		}
		if i == 0 || !token.who.IssuedAt.After(found.at) {
			return true
		}
	}
	return false
}

// marksOf returns what a revocation of a caller's token would name.
func (r *Revocations) marksOf(who Identity) (all marks) {
	if r == nil {
		return all
	}
	for i, named := range []struct {
		kind  RevocationKind
		value string
	}{{RevokedToken, who.JTI}, {RevokedSubject, who.Subject}, {RevokedClient, who.ClientID}} {
		if named.value != "" {
			all[i] = markOf(who.Issuer, named.kind, named.value)
		}
	}
	return all
}

// markOf hashes the parts of a name so that no other parts give the same.
func markOf(issuer string, kind RevocationKind, value string) mark {
	text := binary.AppendUvarint(nil, uint64(len(issuer)))
	text = append(text, issuer...)
	text = binary.AppendUvarint(text, uint64(len(kind)))
	text = append(text, kind...)
	return sha256.Sum256(append(text, value...))
}

// endings is a heap of revocations, the one that ends first on top.
type endings []*revoked

// Len implements [heap.Interface], as the others do.
func (e endings) Len() int           { return len(e) }
func (e endings) Less(i, j int) bool { return e[i].until.Before(e[j].until) }
func (e endings) Swap(i, j int) {
	e[i], e[j] = e[j], e[i]
	e[i].place, e[j].place = i, j
}

// Push implements [heap.Interface].
func (e *endings) Push(x any) {
	added, ok := x.(*revoked)
	if !ok {
		return
	}
	added.place = len(*e)
	*e = append(*e, added)
}

// Pop implements [heap.Interface].
func (e *endings) Pop() any {
	last := len(*e) - 1
	popped := (*e)[last]
	(*e)[last] = nil
	*e = (*e)[:last]
	return popped
}
