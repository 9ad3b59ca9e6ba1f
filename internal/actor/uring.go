package actor

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// include/uapi/linux/io_uring.h
const (
	ioringOffSQRing      = 0
	ioringOffSQEs        = 0x10000000
	ioringEnterGetEvents = 1
	iosqeAsync           = 1 << 4
)

var uringOps = map[int]uint8{
	unix.SYS_ACCEPT4: 13, unix.SYS_CONNECT: 16, unix.SYS_CLOSE: 19, unix.SYS_READ: 22, unix.SYS_WRITE: 23,
	unix.SYS_SHUTDOWN: 34,
}

type uringParams struct {
	sqEntries, cqEntries uint32
	_                    [8]uint32
	sq                   struct{ _, tail, _, _, _, _, array, _, _, _ uint32 }
	cq                   struct{ _, tail, _, _, _, cqes, _, _, _, _ uint32 }
}

type uringSQE struct {
	opcode, flags uint8
	ioprio        uint16
	fd            int32
	off, addr     uint64
	len, opFlags  uint32
	userData      uint64
	_             [3]uint64
}

type uringCQE struct {
	userData   uint64
	res, flags int32
}

// uring has a worker thread of an io_uring make the call (IOSQE_ASYNC), as the kernel does where a call
// would block; sockets are opened, bound and so on as usual.
func uring(nr int, args [6]uintptr) (int, unix.Errno) {
	op, ok := uringOps[nr]
	if !ok {
		r, _, errno := unix.Syscall6(uintptr(nr), args[0], args[1], args[2], args[3], args[4], args[5])
		return int(r), errno
	}
	sqe := uringSQE{opcode: op, flags: iosqeAsync, fd: int32(args[0]), addr: uint64(args[1])}
	switch nr {
	case unix.SYS_CONNECT:
		sqe.off = uint64(args[2])
	case unix.SYS_ACCEPT4:
		sqe.off, sqe.opFlags = uint64(args[2]), uint32(args[3])
	case unix.SYS_READ, unix.SYS_WRITE:
		sqe.len = uint32(args[2])
	case unix.SYS_SHUTDOWN:
		sqe.addr, sqe.len = 0, uint32(args[1])
	}
	return sqe.submit()
}

// submit makes a ring for one call, and waits for the call's end.
func (sqe uringSQE) submit() (int, unix.Errno) {
	var p uringParams
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, pointer(&p), 0)
	if errno != 0 {
		return 0, errno
	}
	defer func() { _ = unix.Close(int(fd)) }()
	size := max(p.sq.array+4*p.sqEntries, p.cq.cqes+uint32(unsafe.Sizeof(uringCQE{}))*p.cqEntries)
	ring, err := unix.Mmap(int(fd), ioringOffSQRing, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return 0, unix.ENOMEM
	}
	defer func() { _ = unix.Munmap(ring) }()
	sqes, err := unix.Mmap(int(fd), ioringOffSQEs, int(unsafe.Sizeof(sqe)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return 0, unix.ENOMEM
	}
	defer func() { _ = unix.Munmap(sqes) }()

	*(*uringSQE)(unsafe.Pointer(&sqes[0])) = sqe
	*(*uint32)(unsafe.Pointer(&ring[p.sq.array])) = 0
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&ring[p.sq.tail])), 1)
	for submit := uintptr(1); ; submit = 0 {
		_, _, errno = unix.Syscall6(unix.SYS_IO_URING_ENTER, fd, submit, 1, ioringEnterGetEvents, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return 0, errno
		}
		if atomic.LoadUint32((*uint32)(unsafe.Pointer(&ring[p.cq.tail]))) > 0 {
			break
		}
	}
	res := (*uringCQE)(unsafe.Pointer(&ring[p.cq.cqes])).res
	if res < 0 {
		return 0, unix.Errno(-res)
	}
	return int(res), 0
}
