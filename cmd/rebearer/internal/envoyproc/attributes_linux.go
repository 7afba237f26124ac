package envoyproc

import "syscall"

// attributes put Envoy into a process group of its own, so that Ctrl-C in a
// terminal reaches only us and we end it in our order, and make it die with us.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
