package service

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/rebearer/rebearer/cmd/rebearer/internal/config"
)

// settle is how long files must be left alone before they are read: an editor
// or kubelet writes in several steps.
const settle = 200 * time.Millisecond

// patience is how long that is waited for at most: another file in the same folder
// may never be left alone.
const patience = 2 * time.Second

// retryRefused is how often a change that was refused is tried again.
const retryRefused = 2 * time.Second

// watch follows the configuration file and the files that it names, until ctx
// ends. It watches their folders, because files are replaced rather than
// written; a Kubernetes volume replaces a link beside them.
func (s *Service) watch(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching the configuration: %w", err)
	}
	defer func() { _ = watcher.Close() }()
	s.follow(watcher)
	w := watched{contents: s.contents()}
	s.attend(ctx, watcher, func() time.Duration {
		again := s.look(ctx, &w)
		if again > 0 {
			s.follow(watcher)
		}
		return again
	})
	return nil
}

// attend looks at once, when what watcher tells of has settled, and when the last
// look asked for it, until ctx ends.
func (s *Service) attend(ctx context.Context, watcher *fsnotify.Watcher, look func() time.Duration) {
	timer := time.NewTimer(0)
	var first time.Time // that something happened since the last look; zero if nothing did
	happened := func() {
		if first.IsZero() {
			first = time.Now()
		}
		timer.Reset(min(settle, time.Until(first.Add(patience))))
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-watcher.Events:
			happened()
		case err := <-watcher.Errors:
			s.opts.Logger.Warn("watching the configuration", slog.Any("error", err))
			happened()
		case <-timer.C:
			first = time.Time{}
			if again := look(); again > 0 {
				timer.Reset(again)
			}
		}
	}
}

// watched is what is known of the files.
type watched struct {
	contents [sha256.Size]byte // that were taken or refused last
	refused  string            // why the last change was refused; empty if it was not
}

// look takes a change of the files, if there is one, and returns when to look
// again; 0 means when something happens. A change that was refused is tried
// again: it may wait for a file that comes later, as Kubernetes brings a
// ConfigMap and its Secret.
func (s *Service) look(ctx context.Context, w *watched) time.Duration {
	files, now := s.files(), s.contents()
	if now == w.contents && w.refused == "" {
		return 0
	}
	err := s.reload(ctx, w.refused)
	// What changes while a change is taken is seen at the next look.
	w.contents, w.refused = now, ""
	if err != nil {
		w.refused = err.Error()
		return retryRefused
	}
	if !slices.Equal(files, s.files()) {
		w.contents = s.contents()
	}
	return settle
}

// follow watches the folders of all the files. A folder that is watched already
// stays so.
func (s *Service) follow(watcher *fsnotify.Watcher) {
	for _, name := range s.files() {
		if err := watcher.Add(filepath.Dir(name)); err != nil {
			s.opts.Logger.Warn("a change of this file will not be noticed", slog.String("file", name), slog.Any("error", err))
		}
	}
}

func (s *Service) files() []string {
	return append([]string{s.opts.ConfigFile}, s.current.Load().cfg.Files()...)
}

// contents is a digest of what all the files hold.
func (s *Service) contents() [sha256.Size]byte {
	sum := sha256.New()
	for _, name := range s.files() {
		data, err := os.ReadFile(name)
		part := sha256.Sum256(data)
		fmt.Fprintf(sum, "%q %x %t\n", name, part, err == nil)
	}
	return [sha256.Size]byte(sum.Sum(nil))
}

// reload takes the changed configuration, or says why it does not, unless that
// was said before.
func (s *Service) reload(ctx context.Context, said string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.change(ctx)
	switch {
	case err == nil:
		s.reloads.WithLabelValues("ok").Inc()
		s.opts.Logger.Info("the changed configuration is in use")
	case err.Error() != said:
		s.reloads.WithLabelValues("refused").Inc()
		s.opts.Logger.Error("the changed configuration is refused; the old one stays", slog.Any("error", err))
	}
	return err
}

var errRestart = errors.New("a change of server or cache needs a restart")

func (s *Service) change(ctx context.Context) error {
	cfg, err := config.Load(s.opts.ConfigFile)
	if err != nil {
		return err
	}
	old := s.current.Load()
	if !reflect.DeepEqual(cfg.Server, old.cfg.Server) || cfg.Cache != old.cfg.Cache {
		return errRestart
	}
	g, err := s.build(cfg, old)
	if err != nil {
		return err
	}
	if err := s.use(g); err != nil {
		g.close(old)
		return err
	}
	g.warm(ctx, s.opts.Logger)
	return nil
}
