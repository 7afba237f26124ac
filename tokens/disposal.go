package tokens

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
)

const (
	// inUse is how long a token that is dropped is left alone: requests are on
	// their way with the access token that it came with, which a provider
	// revokes with it (RFC 7009 section 2.1).
	inUse = 30 * time.Second
	// maxDisposed bounds how many tokens wait to be revoked. One that finds no
	// room lives until its provider forgets it, which is reported.
	maxDisposed = 16384
	// disposers is how many are revoked at once.
	disposers = 4
	// disposalTries is how often one is tried, and disposalRetry how long the
	// first pause between two tries is.
	disposalTries = 3
	disposalRetry = time.Second / 2
)

var errDisposalFull = errors.New("too many tokens wait to be revoked")

// disposal revokes tokens that are dropped, in the background, so that they do
// not pile up at their provider. Nothing is revoked when the process stops: Envoy
// may use the access tokens on. The zero value is ready; it runs goroutines only
// while there is something to do.
type disposal struct {
	mu      sync.Mutex
	resting int // tokens that are left alone yet
	waiting []disposed
	workers int
}

type disposed struct {
	c      *Credential
	client int
	token  Secret
}

// add has a token revoked when it is no longer in use. It does not block.
func (d *disposal) add(c *Credential, client int, token Secret) {
	if token == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.resting+len(d.waiting) >= maxDisposed {
		c.emit(Event{Kind: EventFailed, Fingerprint: FingerprintOf(token.Reveal()), Reason: ReasonDropped, Err: errDisposalFull})
		return
	}
	d.resting++
	time.AfterFunc(inUse, func() { d.revoke(disposed{c, client, token}) })
}

// revoke has a token revoked that has rested.
func (d *disposal) revoke(dropped disposed) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.resting--
	d.waiting = append(d.waiting, dropped)
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
	tries := retrypolicy.NewBuilder[any]().
		WithMaxAttempts(disposalTries).
		WithBackoff(disposalRetry, maxRetry).
		WithJitterFactor(retryJitter).
		AbortIf(func(_ any, err error) bool { return errors.Is(err, errors.ErrUnsupported) || isRefusal(err) }).
		ReturnLastFailure().
		Build()
	err := failsafe.With(tries).WithContext(ctx).Run(func() error { return d.c.cfg.Source.Revoke(ctx, d.client, d.token) })
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
