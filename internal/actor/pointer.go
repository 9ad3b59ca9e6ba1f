package actor

import "unsafe"

// pointer is for the one system call that x/sys/unix cannot express.
func pointer[T any](p *T) uintptr { return uintptr(unsafe.Pointer(p)) }
