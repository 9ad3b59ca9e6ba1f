package actor

import "golang.org/x/sys/unix"

const below4GiB = unix.MAP_32BIT

func int80(nr, a, b, c, d, e uintptr) int

// i386 are the numbers of system calls there: arch/x86/entry/syscalls/syscall_32.tbl.
var i386 = map[int]uintptr{
	unix.SYS_READ: 3, unix.SYS_WRITE: 4, unix.SYS_CLOSE: 6, unix.SYS_SOCKET: 359, unix.SYS_BIND: 361,
	unix.SYS_CONNECT: 362, unix.SYS_LISTEN: 363, unix.SYS_ACCEPT4: 364,
}

// compat enters the kernel by the gate of 32-bit processes. Without that gate the process gets SIGSEGV.
func compat(nr int, args [6]uintptr) (int, unix.Errno) {
	number, ok := i386[nr]
	if !ok {
		return 0, unix.ENOSYS
	}
	n := int80(number, args[0], args[1], args[2], args[3], args[4])
	if n < 0 {
		return 0, unix.Errno(-n)
	}
	return n, 0
}
