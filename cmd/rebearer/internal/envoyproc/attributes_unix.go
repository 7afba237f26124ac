//go:build unix && !linux

package envoyproc

import "syscall"

// attributes put Envoy into a process group of its own, so that Ctrl-C in a
// terminal reaches only us and we end it in our order.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
