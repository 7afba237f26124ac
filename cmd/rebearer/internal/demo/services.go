package demo

import (
	"context"
	"errors"
	"time"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/api"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/endpoint"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/provider"
)

// callerTTL is long enough for a demo that is left running over night: a caller
// whose own token expires is not what it is about.
const callerTTL = 24 * time.Hour

// service is where something listens, and under which URL it is known.
type service struct {
	listen string
	url    string // empty means that of the address
}

// services are the two providers and the API. All three are served until
// close.
type services struct {
	callers, backend *provider.Provider
	api              *endpoint.Server
	endpoints        []*endpoint.Server
}

// startServices starts the callers' provider, the backend's one, and the API
// that accepts the latter's tokens. Nothing is left running after an error.
func startServices(ctx context.Context, callers, backend, protected service) (*services, error) {
	s := &services{}
	if err := s.start(ctx, callers, backend, protected); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *services) start(ctx context.Context, callers, backend, protected service) (err error) {
	s.callers, err = s.provider(ctx, callers, provider.Config{
		Tokens:    provider.JWT,
		Audiences: []string{Audience},
		Clients:   []provider.Client{{ID: CallerID, Secret: CallerSecret}},
		TTL:       callerTTL,
	})
	if err != nil {
		return err
	}
	s.backend, err = s.provider(ctx, backend, provider.Config{
		Clients: []provider.Client{{ID: GatewayID, Secret: GatewaySecret}},
	})
	if err != nil {
		return err
	}
	s.api, err = s.listen(ctx, protected.listen)
	if err != nil {
		return err
	}
	handler, err := api.New(s.backend.Valid, api.Config{})
	if err != nil {
		return err
	}
	return s.api.Serve(handler)
}

// provider makes a provider that knows its URL, and serves it.
func (s *services) provider(ctx context.Context, at service, cfg provider.Config) (*provider.Provider, error) {
	server, err := s.listen(ctx, at.listen)
	if err != nil {
		return nil, err
	}
	cfg.Issuer = at.url
	orDefault(&cfg.Issuer, server.URL())
	p, err := provider.New(cfg)
	if err != nil {
		return nil, err
	}
	return p, server.Serve(p)
}

func (s *services) listen(ctx context.Context, address string) (*endpoint.Server, error) {
	server, err := endpoint.Listen(ctx, address)
	if err != nil {
		return nil, err
	}
	s.endpoints = append(s.endpoints, server)
	return server, nil
}

func (s *services) close() error {
	var err error
	for _, server := range s.endpoints {
		err = errors.Join(err, server.Close())
	}
	return err
}

// restart restarts the backend's provider again and again until ctx ends, and
// tells events of it.
func (s *services) restart(ctx context.Context, every time.Duration, events func(Event)) error {
	// The first restart comes early, so that the last one is not at the end
	// of a demo whose length is a multiple of the time between two.
	timer := time.NewTimer(every / 2)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		timer.Reset(every)
		if err := s.backend.Restart(); err != nil {
			return err
		}
		events(Event{Time: time.Now(), Kind: KindRestart, Reason: "the backend's provider restarted: every token it issued is void"})
	}
}
