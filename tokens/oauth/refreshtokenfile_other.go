//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package oauth

import "context"

// lockFile does nothing: on this system, one process at a time may use a file.
func lockFile(context.Context, string) (unlock func(), err error) { return func() {}, nil }

// giveToOwnerOf does nothing.
func giveToOwnerOf(string, ...string) {}
