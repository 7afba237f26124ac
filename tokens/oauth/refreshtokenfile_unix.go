//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package oauth

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lockPoll is how often a lock that another process holds is tried again.
const lockPoll = 20 * time.Millisecond

// lockFile locks the named file against all other processes, and makes it if it
// is missing. The end of the process unlocks it too. Its error is that of ctx:
// where the file cannot be locked, because the folder is read-only or the file
// system knows no locks, it is as good as locked.
func lockFile(ctx context.Context, name string) (unlock func(), err error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return func() {}, nil
	}
	giveToOwnerOf(name, filepath.Dir(name))
	unlock = func() { _ = file.Close() }
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return unlock, nil
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			unlock()
			return nil, context.Cause(ctx)
		}
	}
}

// giveToOwnerOf gives a file that the superuser made to the owner of the first of
// others that exists: a root who looks after rebearer must not shut it out of its
// own files.
func giveToOwnerOf(name string, others ...string) {
	if os.Geteuid() != 0 {
		return
	}
	for _, other := range others {
		info, err := os.Stat(other)
		if err != nil {
			continue
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); ok {
			_ = os.Lchown(name, int(owner.Uid), int(owner.Gid))
		}
		return
	}
}
