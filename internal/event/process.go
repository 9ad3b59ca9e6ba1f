package event

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// ProcessSize is the length of a process's record in octets (struct process_record in bpf/record.h). It is how
// these are told from those of events.
const ProcessSize = 40 + 3*pathSize

// A Process is what the kernel says of a process when it first owns a connection, or does so as another
// user or with another executable. Its texts are any octets.
type Process struct {
	Started    uint64 // ns since boot, suspend included
	PID        uint32 // of its thread group, in the initial PID namespace
	Parent     uint32 // likewise
	UID        uint32 // in the initial user namespace
	Comm       Comm
	Executable string // path up to the root of its mount namespace; empty where it is not known whole
	// Unified and Legacy are paths of control groups, of version 2 and of version 1; a leading part is
	// missing where they are very long, and all of one that does not exist.
	Unified, Legacy string
}

const (
	offStarted    = 0
	offProcessPID = 8
	offParent     = 12
	offProcessUID = 16
	offName       = 24
	offExecutable = 40
	offUnified    = offExecutable + pathSize
	offLegacy     = offUnified + pathSize

	// Of a struct path_record.
	offLen   = 0
	offWhole = 2
	offParts = 8
	pathRoom = 512
	pathSize = offParts + pathRoom
)

// DecodeProcess reads the record of a process. It keeps no reference to b.
func DecodeProcess(b []byte) (Process, error) {
	if len(b) != ProcessSize {
		return Process{}, fmt.Errorf("%w: a process of %d octets, want %d", ErrMalformed, len(b), ProcessSize)
	}
	n := binary.NativeEndian
	p := Process{
		Started: n.Uint64(b[offStarted:]), PID: n.Uint32(b[offProcessPID:]), Parent: n.Uint32(b[offParent:]),
		UID: n.Uint32(b[offProcessUID:]), Comm: Comm(b[offName:]),
	}
	executable, whole, err := path(b[offExecutable:offUnified])
	if err != nil {
		return Process{}, err
	}
	if whole {
		p.Executable = executable
	}
	if p.Unified, _, err = path(b[offUnified:offLegacy]); err != nil {
		return Process{}, err
	}
	p.Legacy, _, err = path(b[offLegacy:])
	return p, err
}

// path turns the names of a path around: the record begins with the last.
func path(b []byte) (path string, whole bool, err error) {
	n := int(binary.NativeEndian.Uint16(b[offLen:]))
	if n == 0 {
		return "", false, nil
	}
	if n > pathRoom || b[offParts+n-1] != 0 {
		return "", false, fmt.Errorf("%w: a path of %d octets, want at most %d that end with NUL", ErrMalformed, n, pathRoom)
	}
	names := strings.Split(string(b[offParts:offParts+n-1]), "\x00")
	var turned strings.Builder
	turned.Grow(n)
	for i := len(names) - 1; i >= 0; i-- {
		turned.WriteByte('/')
		turned.WriteString(names[i])
	}
	return turned.String(), b[offWhole] != 0, nil
}
