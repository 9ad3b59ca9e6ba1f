//go:build !amd64

package actor

import "golang.org/x/sys/unix"

const below4GiB = 0

// compat: there is no gate for 32-bit system calls.
func compat(int, [6]uintptr) (int, unix.Errno) { return 0, unix.ENOSYS }
