package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/oauth2"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/load"
)

// PartsConfig says how to run the demo's parts for a rebearer and an Envoy that
// run elsewhere. The zero value of every field but Out is safe.
type PartsConfig struct {
	// CallersListen, BackendListen and APIListen are the addresses of the two
	// providers and of the API; empty means a free port of loopback.
	CallersListen, BackendListen, APIListen string
	// CallersURL and BackendURL are the issuers of the two providers, scheme
	// and host, as the others reach them; empty means http:// and the address.
	CallersURL, BackendURL string
	// RestartEvery is how often the backend's provider restarts; zero means
	// 4 s.
	RestartEvery time.Duration
	// Out is where the addresses and the restarts are printed. It must not be
	// nil.
	Out io.Writer
}

// RunParts runs the two providers and the API, and restarts the backend's
// provider every few seconds, until ctx ends. Callers get tokens as [CallerID]
// for [Audience], and rebearer as [GatewayID].
func RunParts(ctx context.Context, cfg PartsConfig) error {
	switch {
	case cfg.Out == nil:
		return errors.New("demo: nowhere to show it")
	case cfg.RestartEvery < 0:
		return errors.New("demo: the time between restarts is negative")
	}
	orDefault(&cfg.RestartEvery, defaultRestartEvery)
	orDefault(&cfg.CallersListen, defaultAddress)
	orDefault(&cfg.BackendListen, defaultAddress)
	orDefault(&cfg.APIListen, defaultAddress)
	s, err := startServices(ctx,
		service{listen: cfg.CallersListen, url: cfg.CallersURL},
		service{listen: cfg.BackendListen, url: cfg.BackendURL},
		service{listen: cfg.APIListen})
	if err != nil {
		return fmt.Errorf("starting the demo's parts: %w", err)
	}
	out := newScreen(cfg.Out, true)
	out.line("callers' provider    " + s.callers.Issuer())
	out.line("backend's provider   " + s.backend.Issuer())
	out.line("protected API        http://" + s.api.Address())
	err = s.restart(ctx, cfg.RestartEvery, func(event Event) { out.line(event.line()) })
	return errors.Join(err, s.close())
}

// CallerConfig says how to play the caller of a demo whose parts run elsewhere.
type CallerConfig struct {
	// URL is what the caller asks for, through Envoy. It must not be empty.
	URL string
	// TokenURL is the token endpoint of the callers' provider. It must not be
	// empty.
	TokenURL string
	// Duration is how long the load lasts; zero means until ctx ends.
	Duration time.Duration
	// Rate is the load in requests a second; zero means 50.
	Rate float64
	// Out is where it is shown. It must not be nil.
	Out io.Writer
	// Plain is that of [Config].
	Plain bool
}

// RunCaller gets tokens as [CallerID] and sends a load with them, from the first
// answer of 200 on, until the duration is over or ctx ends. A summary is printed
// as the last line, and returned with what a caller can know. An error means
// that no load was sent.
func RunCaller(ctx context.Context, cfg CallerConfig) (Summary, error) {
	switch {
	case cfg.Out == nil:
		return Summary{}, errors.New("demo: nowhere to show it")
	case cfg.Duration < 0:
		return Summary{}, errors.New("demo: the duration is negative")
	}
	orDefault(&cfg.Rate, defaultRate)
	source := oauth2.ReuseTokenSource(nil, callerClient(cfg.TokenURL).TokenSource(context.WithoutCancel(ctx)))
	token := func(context.Context) (string, error) {
		token, err := source.Token()
		if err != nil {
			return "", err
		}
		return token.AccessToken, nil
	}
	generator, err := load.New(load.Config{URL: cfg.URL, Rate: cfg.Rate, Token: token})
	if err != nil {
		return Summary{}, err
	}
	if err := awaitAnswer(ctx, cfg.URL, token); err != nil {
		return Summary{}, err
	}
	if cfg.Duration > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, cfg.Duration)
		defer stop()
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		generator.Run(ctx)
	}()
	now := func() Summary {
		var s Summary
		s.summarise(generator.Snapshot())
		return s
	}
	out := newScreen(cfg.Out, cfg.Plain)
	out.follow(over, func() []string { return nil }, func() string { return now().caller() })
	for _, failure := range generator.Snapshot().Failures {
		out.line("failed " + failure)
	}
	out.line(now().caller())
	return now(), nil
}

// caller is the part of a summary that a caller knows.
func (s Summary) caller() string {
	return fmt.Sprintf("caller: %d requests, %d failed, %d retried%s", s.Requests, s.Failed, s.Retried, s.latency())
}
