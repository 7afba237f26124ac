package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

const (
	// askEvery is how often a part that starts is asked whether it is there.
	askEvery = 50 * time.Millisecond
	// askTimeout bounds each question.
	askTimeout = 5 * time.Second
)

// awaitAnswer asks url until the answer is 200, but not longer than readyWithin.
// token returns the bearer to send; empty means none.
func awaitAnswer(ctx context.Context, url string, token func(context.Context) (string, error)) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	var last error // the last one that is not that of ctx
	for {
		err := ask(ctx, url, token)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", url, errors.Join(ctx.Err(), last))
		}
	}
}

// ask fails unless the answer to a GET is 200.
func ask(ctx context.Context, url string, token func(context.Context) (string, error)) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	bearer, err := token(ctx)
	if err != nil {
		return fmt.Errorf("getting the caller's token: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if bearer != "" {
		request.Header.Set("Authorization", "Bearer "+bearer)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", response.StatusCode)
	}
	return nil
}
