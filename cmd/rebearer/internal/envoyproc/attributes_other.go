//go:build !unix

package envoyproc

import "syscall"

// attributes are the defaults.
func attributes() *syscall.SysProcAttr { return nil }
