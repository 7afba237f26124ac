package service

import (
	"context"
	"testing"
)

// A stop that comes before anything is served is a stop like any other.
func TestStopAtOnce(t *testing.T) {
	t.Parallel()
	for range 20 {
		s := newStage(t, settings{timeout: slow})
		ctx, stop := context.WithCancel(t.Context())
		stop()
		if err := s.Run(ctx); err != nil {
			t.Fatal(err)
		}
	}
}
