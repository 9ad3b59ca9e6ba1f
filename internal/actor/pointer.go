package actor

import "unsafe"

// pointer is for system calls that x/sys/unix cannot express.
func pointer[T any](p *T) uintptr { return uintptr(unsafe.Pointer(p)) }
