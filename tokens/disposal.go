package tokens

import (
	"context"
	"errors"
	"sync"

	"github.com/cenkalti/backoff/v5"
)

const (
	// maxDisposed bounds how many tokens wait to be revoked. One that finds no
	// room lives until its provider forgets it, which is reported.
	maxDisposed = 1024
	// disposers is how many are revoked at once.
	disposers = 4
	// disposalTries is how often one is tried.
	disposalTries = 3
)

var errDisposalFull = errors.New("too many tokens wait to be revoked")

// disposal revokes tokens that are dropped, in the background, so that they do
// not pile up at their provider. The zero value is ready; it runs goroutines
// only while there is something to do.
type disposal struct {
	mu      sync.Mutex
	waiting []disposed
	workers int
}

type disposed struct {
	c      *Credential
	client int
	token  Secret
}

// add has a token revoked. It does not block.
func (d *disposal) add(c *Credential, client int, token Secret) {
	if token == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.waiting) >= maxDisposed {
		c.emit(Event{Kind: EventFailed, Fingerprint: FingerprintOf(token.Reveal()), Reason: ReasonDropped, Err: errDisposalFull})
		return
	}
	d.waiting = append(d.waiting, disposed{c, client, token})
	if d.workers < disposers {
		d.workers++
		go d.work()
	}
}

// work revokes until nothing waits.
func (d *disposal) work() {
	for {
		d.mu.Lock()
		if len(d.waiting) == 0 {
			d.workers--
			d.mu.Unlock()
			return
		}
		next := d.waiting[0]
		d.waiting = d.waiting[1:]
		d.mu.Unlock()
		next.revoke()
	}
}

// revoke runs on a context of its own: what is dropped last, when the credential
// is closed, is revoked too.
func (d disposed) revoke() {
	ctx, cancel := context.WithTimeout(context.Background(), d.c.cfg.Timeout)
	defer cancel()
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := d.c.cfg.Source.Revoke(ctx, d.client, d.token)
		var permanent *PermanentError
		if errors.Is(err, errors.ErrUnsupported) || errors.As(err, &permanent) {
			err = stopRetrying(err)
		}
		return struct{}{}, err
	}, backoff.WithMaxTries(disposalTries))
	d.c.revoked(FingerprintOf(d.token.Reveal()), ReasonDropped, err)
}

// revoked tells what became of a revocation. A provider that cannot revoke is
// no event.
func (c *Credential) revoked(token Fingerprint, reason Reason, err error) {
	switch {
	case errors.Is(err, errors.ErrUnsupported):
	case err != nil:
		c.emit(Event{Kind: EventFailed, Fingerprint: token, Reason: reason, Err: err})
	default:
		c.emit(Event{Kind: EventRevoked, Fingerprint: token, Reason: reason})
	}
}
