package caller

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"
)

func sumOf(n int) [sha256.Size]byte {
	return sha256.Sum256(binary.AppendVarint(nil, int64(n)))
}

func refusalOf(r *recent, n int, now time.Time) *InvalidError {
	said, known := r.get(sumOf(n), now)
	if !known {
		return nil
	}
	return said.refusal
}

func TestRecent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRecent(5 * time.Second)
		r.add(sumOf(1), nil, ErrInactive, time.Now())
		time.Sleep(4 * time.Second)
		r.add(sumOf(2), nil, ErrAudience, time.Now())
		time.Sleep(time.Second - 1)
		if refusalOf(r, 1, time.Now()) != ErrInactive || refusalOf(r, 2, time.Now()) != ErrAudience || refusalOf(r, 3, time.Now()) != nil {
			t.Error("a refusal was forgotten or made up")
		}
		time.Sleep(time.Nanosecond)
		r.add(sumOf(3), nil, ErrInactive, time.Now()) // time for a new generation
		if refusalOf(r, 1, time.Now()) != nil || refusalOf(r, 2, time.Now()) != ErrAudience {
			t.Error("a refusal was remembered for too long, or not long enough")
		}
		time.Sleep(5 * time.Second)
		if refusalOf(r, 3, time.Now()) != nil {
			t.Error("a refusal was remembered for too long")
		}
	})
}

// security.md D30: what made-up tokens leave behind is bounded.
func TestRecentIsBounded(t *testing.T) {
	t.Parallel()
	r := newRecent(time.Minute)
	now := time.Now()
	const offered, most = 100_000, 2 * maxRecentBytes / refusalBytes
	for i := range offered {
		r.add(sumOf(i), nil, ErrInactive, now)
		if held := len(r.young) + len(r.old); held > most {
			t.Fatalf("%d are held", held)
		}
	}
	if refusalOf(r, offered-1, now) == nil || refusalOf(r, offered-most/2, now) == nil || refusalOf(r, 0, now) != nil {
		t.Error("the newest are not held, or the oldest are")
	}
	for i := range 1000 {
		r.add(sumOf(-i), &verified{claimBytes: maxClaimBytes, renew: now.Add(time.Hour)}, nil, now)
	}
	if held := len(r.young) + len(r.old); held > 2*(maxRecentBytes/(claimFactor*maxClaimBytes)+1) {
		t.Errorf("%d large ones are held", held)
	}
}

// What is said about an active token is not remembered for longer than it is
// believed.
func TestRecentActiveTokens(t *testing.T) {
	t.Parallel()
	r := newRecent(time.Minute)
	now := time.Now()
	r.add(sumOf(1), &verified{renew: now.Add(time.Second)}, nil, now)
	if said, known := r.get(sumOf(1), now); !known || said.found == nil || said.refusal != nil {
		t.Errorf("got %+v, %t", said, known)
	}
	if _, known := r.get(sumOf(1), now.Add(time.Second)); known {
		t.Error("it was remembered for too long")
	}
}
