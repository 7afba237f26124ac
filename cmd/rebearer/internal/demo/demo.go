package demo

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/load"
)

// Run plays the demo until its duration is over or ctx ends, and stops all that
// it started. The summary is printed as the last line, and returned; Failed in
// it says whether any caller's request failed, which is not an error of Run.
// An error means that the demo could not be played, or not to its end.
func Run(ctx context.Context, cfg Config, parts Parts) (Summary, error) {
	if err := cfg.validate(); err != nil {
		return Summary{}, err
	}
	if parts.Serve == nil || parts.Render == nil {
		return Summary{}, errors.New("demo: a part is missing")
	}
	s := &stage{cfg: cfg, screen: newScreen(cfg.Out, cfg.Plain)}
	if err := s.build(ctx, parts); err != nil {
		return Summary{}, fmt.Errorf("starting the demo: %w", errors.Join(err, s.close()))
	}
	s.introduce()
	generator, err := load.New(load.Config{
		URL: s.url(), Rate: cfg.Rate,
		Token: func(context.Context) (string, error) { return s.callerToken, nil },
	})
	if err != nil {
		return Summary{}, errors.Join(err, s.close())
	}
	playErr := s.play(ctx, generator)
	summary := s.summary(generator)
	err = errors.Join(playErr, s.close())
	for _, failure := range generator.Snapshot().Failures {
		s.screen.line("failed " + failure)
	}
	s.screen.line(summary.String())
	return summary, err
}

// play sends the load, restarts the provider, and shows what happens, until the
// time is over or something has ended that should not.
func (s *stage) play(ctx context.Context, generator *load.Generator) error {
	if s.cfg.Duration > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, s.cfg.Duration)
		defer stop()
	}
	acts, playing := errgroup.WithContext(ctx)
	over := make(chan struct{})
	acts.Go(func() error { return s.services.restart(playing, s.cfg.RestartEvery, s.tally.add) })
	acts.Go(func() error { return s.guard(playing) })
	acts.Go(func() error {
		defer close(over)
		generator.Run(playing)
		return nil
	})
	s.screen.follow(over, s.tally.lines, func() string { return s.summary(generator).status() })
	return acts.Wait()
}

// guard waits until ctx ends, and fails if rebearer or Envoy ends first.
func (s *stage) guard(ctx context.Context) error {
	select {
	case <-ctx.Done():
	case <-s.served:
	case <-s.envoyEnded():
	}
	return s.ended()
}

func (s *stage) summary(generator *load.Generator) Summary {
	counts := s.services.backend.Counts()
	summary := Summary{
		Rejections: s.tally.count(KindRejected), Evictions: s.tally.count(KindEvicted),
		Restarts: counts.Restarts, TokenRequests: counts.TokenRequests,
	}
	summary.summarise(generator.Snapshot())
	return summary
}
