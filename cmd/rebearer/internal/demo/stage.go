package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/demo/api"
	"github.com/rebearer/rebearer/cmd/rebearer/internal/envoyproc"
)

// readyWithin is how long each of rebearer and Envoy may take to start.
const readyWithin = 30 * time.Second

// stage is everything that runs in a demo but the load.
type stage struct {
	cfg    Config
	screen *screen
	tally  tally

	folder       string
	services     *services
	addresses    addresses
	configPath   string
	listen       string // Envoy's
	envoy        *envoyproc.Process
	envoyVersion string
	callerToken  string
	headerPath   string // holds the caller's authorization header, for curl

	served  chan struct{}  // closed when rebearer has ended
	failure error          // why rebearer has ended; read after served
	closers []func() error // undo what was started, in the order of starting
}

// build starts everything. What was started is closed by close, also after an
// error.
func (s *stage) build(ctx context.Context, parts Parts) error {
	binary, err := envoyproc.Find(ctx, s.cfg.Cache, s.screen.out)
	if err != nil {
		return err
	}
	if s.envoyVersion, err = envoyproc.Version(ctx, binary); err != nil {
		return err
	}
	for _, step := range []func() error{
		s.makeFolder,
		func() error { return s.startServices(ctx) },
		func() error { return s.startRebearer(ctx, parts) },
		func() error { return s.startEnvoy(ctx, parts, binary) },
		func() error { return s.greet(ctx) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// close stops everything, what was started last first.
func (s *stage) close() error {
	var err error
	for _, undo := range slices.Backward(s.closers) {
		err = errors.Join(err, undo())
	}
	s.closers = nil
	return err
}

func (s *stage) onClose(undo func() error) { s.closers = append(s.closers, undo) }

func (s *stage) makeFolder() error {
	folder, err := os.MkdirTemp("", "rebearer-demo-")
	if err != nil {
		return fmt.Errorf("making the demo's folder: %w", err)
	}
	s.folder = folder
	s.onClose(func() error { return os.RemoveAll(folder) })
	return nil
}

func (s *stage) startServices(ctx context.Context) error {
	var err error
	s.services, err = startServices(ctx,
		service{listen: s.cfg.CallersListen}, service{listen: s.cfg.BackendListen}, service{listen: s.cfg.APIListen})
	if err != nil {
		return err
	}
	s.onClose(s.services.close)
	return nil
}

func (s *stage) startRebearer(ctx context.Context, parts Parts) error {
	var err error
	if s.addresses, err = freeAddresses(ctx); err != nil {
		return err
	}
	s.configPath, err = writeConfiguration(s.folder, s.addresses, s.services.callers.Issuer(), s.services.backend.Issuer())
	if err != nil {
		return err
	}
	// It goes on while the last requests are finished, so it does not end
	// with ctx but when the stage is closed.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.served = make(chan struct{})
	go func() {
		defer close(s.served)
		s.failure = parts.Serve(serving, s.configPath, s.tally.add)
	}()
	s.onClose(func() error {
		stop()
		<-s.served
		if errors.Is(s.failure, context.Canceled) {
			return nil
		}
		return s.failure
	})
	return s.await(ctx, "rebearer", "http://"+s.addresses.status+"/readyz", "")
}

func (s *stage) startEnvoy(ctx context.Context, parts Parts, binary string) error {
	var err error
	if s.listen, err = s.freeListen(ctx); err != nil {
		return err
	}
	bootstrap, err := parts.Render(ctx, Rendering{
		ConfigPath: s.configPath, Listen: s.listen, Admin: defaultAddress, Backend: s.services.api.Address(),
	})
	if err != nil {
		return fmt.Errorf("rendering Envoy's configuration: %w", err)
	}
	starting, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	s.envoy, err = envoyproc.Start(starting, envoyproc.Options{
		Binary: binary, ConfigYAML: bootstrap, Concurrency: 1, Address: s.listen,
	})
	if err != nil {
		return err
	}
	s.onClose(s.envoy.Stop)
	return nil
}

// freeListen returns the address that Envoy was to listen on, or one with a
// free port if that is taken.
func (s *stage) freeListen(ctx context.Context) (string, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.cfg.Listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		host, _, splitErr := net.SplitHostPort(s.cfg.Listen)
		if splitErr != nil {
			return "", splitErr
		}
		s.screen.line(s.cfg.Listen + " is taken: Envoy listens on a free port instead")
		listener, err = new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, "0"))
	}
	if err != nil {
		return "", fmt.Errorf("finding Envoy's port: %w", err)
	}
	return listener.Addr().String(), listener.Close()
}

// greet gets the caller's token, and waits until a request with it passes.
func (s *stage) greet(ctx context.Context) error {
	client := callerClient(s.services.callers.TokenURL())
	token, err := client.Token(ctx)
	if err != nil {
		return fmt.Errorf("getting the caller's token: %w", err)
	}
	s.callerToken = token.AccessToken
	s.headerPath = filepath.Join(s.folder, "caller.header")
	if err := os.WriteFile(s.headerPath, []byte("Authorization: Bearer "+s.callerToken+"\n"), 0o600); err != nil {
		return fmt.Errorf("writing the caller's header: %w", err)
	}
	return s.await(ctx, "the way through Envoy", s.url(), s.callerToken)
}

// url is what the caller asks for.
func (s *stage) url() string { return "http://" + s.listen + "/" }

func callerClient(tokenURL string) *clientcredentials.Config {
	return &clientcredentials.Config{
		ClientID: CallerID, ClientSecret: CallerSecret, TokenURL: tokenURL, AuthStyle: oauth2.AuthStyleInHeader,
	}
}

// await waits until url answers 200, with the token if there is one. It gives
// up when rebearer or Envoy has ended.
func (s *stage) await(ctx context.Context, what, url, token string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served, envoyEnded := s.served, s.envoyEnded()
	go func() {
		defer cancel()
		select {
		case <-ctx.Done():
		case <-served:
		case <-envoyEnded:
		}
	}()
	err := awaitAnswer(ctx, url, func(context.Context) (string, error) { return token, nil })
	if err == nil {
		return nil
	}
	if ended := s.ended(); ended != nil {
		return ended
	}
	return fmt.Errorf("waiting for %s: %w", what, err)
}

// envoyEnded is closed when Envoy has ended; nil before it is started.
func (s *stage) envoyEnded() <-chan struct{} {
	if s.envoy == nil {
		return nil
	}
	return s.envoy.Done()
}

// ended says which part has ended although nobody stopped it; nil if none has.
func (s *stage) ended() error {
	select {
	case <-s.served:
		if s.failure == nil {
			return errors.New("rebearer has ended")
		}
		return fmt.Errorf("rebearer has ended: %w", s.failure)
	case <-s.envoyEnded():
		return s.envoy.Err()
	default:
		return nil
	}
}

// introduce says where everything is.
func (s *stage) introduce() {
	every := s.cfg.RestartEvery
	for _, text := range []string{
		"Envoy " + s.envoyVersion + "         http://" + s.listen,
		"Envoy's admin        http://" + s.envoy.Admin(),
		"rebearer's admin     http://" + s.addresses.admin,
		"rebearer's metrics   http://" + s.addresses.status + "/metrics",
		"callers' provider    " + s.services.callers.Issuer(),
		fmt.Sprintf("backend's provider   %s (restarts every %v; all of its tokens are void then)", s.services.backend.Issuer(), every),
		"configuration        " + s.configPath,
		"try it               curl -i -H @" + s.headerPath + " http://" + s.listen + api.EchoPath,
		"",
	} {
		s.screen.line(text)
	}
}
