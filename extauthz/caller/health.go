package caller

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/rebearer/rebearer/tokens/oauth"
)

const (
	// complainEvery is how often a failing provider is logged at most.
	complainEvery = 10 * time.Second
	// clientPause is how long a provider is left alone that does not know our
	// client: every further try would count as a failed login.
	clientPause = 10 * time.Second
)

// health is how introspection at a provider goes.
type health struct {
	log *slog.Logger

	mu         sync.Mutex
	complained time.Time // when a failure was logged last
	failing    bool      // a failure was logged, and no success since
	resumeAt   time.Time // when the provider wants to be asked again
}

// wait returns how long the provider wants to be left alone yet.
func (h *health) wait(now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.resumeAt.Sub(now)
}

// succeeded notes that the provider answered.
func (h *health) succeeded(ctx context.Context) {
	h.mu.Lock()
	recovered := h.failing
	h.failing = false
	h.mu.Unlock()
	if recovered {
		h.log.InfoContext(ctx, "introspection of callers' tokens works again")
	}
}

// failed notes that it did not, and returns how long it wants to be left alone.
func (h *health) failed(ctx context.Context, err error, now time.Time) time.Duration {
	var refused *oauth.ResponseError
	var pause time.Duration
	if errors.As(err, &refused) {
		pause = refused.RetryAfter()
		if refused.Code == "invalid_client" {
			pause = max(pause, clientPause)
		}
	}
	h.mu.Lock()
	if pause > 0 {
		h.resumeAt = now.Add(pause)
	}
	complain := h.complained.IsZero() || now.Sub(h.complained) >= complainEvery
	if complain {
		h.complained, h.failing = now, true
	}
	h.mu.Unlock()
	if complain {
		h.log.WarnContext(ctx, "introspection of callers' tokens fails", slog.Any("error", err))
	}
	return pause
}
