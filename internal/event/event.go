// Package event decodes the records that the BPF programs put into the ring buffers.
//
// The bytes come from the kernel but are treated as untrusted: [Decode] checks the length and
// every enumerated field, never panics, and gives either an error or a whole [Event].
package event

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Size is the length of a record in octets (struct record in bpf/record.h).
const Size = 184

// Kind says what happened to a connection.
type Kind uint8

// The kinds of event (enum kind in bpf/record.h).
const (
	Opened Kind = 1 // reached ESTABLISHED
	Closed Kind = 2 // over, after having been open
	Failed Kind = 3 // over, never ESTABLISHED
	// Adopted was found open: older than the tracer (Preexisting), or its opening was lost.
	Adopted Kind = 4
	// Sampled is open, and this is what it has carried so far.
	Sampled Kind = 5
)

// Role is the part that the local end played in the handshake.
type Role uint8

// The roles (enum role in bpf/record.h).
const (
	RoleUnknown Role = iota
	Client           // sent the SYN: active open
	Server           // answered it: passive open
)

// Closer says whose FIN began the orderly close (RFC 9293 section 3.6).
type Closer uint8

// The closers (enum closer in bpf/record.h).
const (
	CloserNone Closer = iota
	CloserLocal
	CloserPeer
	CloserBoth // the FINs crossed: CLOSING
)

// OwnerSource says how the owning process was found.
type OwnerSource uint8

// The sources (enum owner_source in bpf/record.h).
const (
	OwnerUnknown OwnerSource = iota
	OwnerConnect             // called connect
	OwnerListen              // called listen on the socket that this one was cloned from
	OwnerClose               // ended it: sent the local FIN, or closed it without one
	OwnerFile                // has it open as a file
	OwnerAccept              // called accept, and is not who called listen
)

// Flags are facts about the socket at the time of the event.
type Flags uint16

// The flags (enum record_flags in bpf/record.h).
const (
	Preexisting Flags = 1 << iota // older than the tracer: its beginning was not seen
	Dead                          // no process holds the socket any more
	FINReceived                   // the peer's FIN was received
	Shut                          // shut down in both directions
	Unaccepted                    // never left the accept queue
	Linger2                       // TCP_LINGER2 < 0
	Exiting                       // the current process was exiting
	HasISN                        // both initial sequence numbers are known
	_                             // never emitted
	TooLate                       // data came behind close(), before the FIN was dealt with
)

// State is a TCP state in the kernel's numbering (include/net/tcp_states.h).
type State uint8

// The states that an event may come from.
const (
	Established State = iota + 1
	SynSent
	SynRecv
	FinWait1
	FinWait2
	TimeWait
	Close
	CloseWait
	LastAck
	Listen
	Closing
)

// UnknownMinRTT is the value of MinRTT while the kernel has no sample.
const UnknownMinRTT = ^uint32(0)

// Comm is a process name as the kernel has it: up to 15 octets of anything, then NUL.
type Comm [16]byte

// An Event is one decoded record. Times are nanoseconds on the clock of bpf_ktime_get_ns
// (CLOCK_MONOTONIC of the initial time namespace); 0 where unknown.
type Event struct {
	Time          uint64 // when it happened
	Seq           uint64 // number on its CPU
	Cookie        uint64 // of the socket
	Began         uint64 // SYN sent (client), SYN-ACK sent (server)
	Established   uint64
	FirstFIN      uint64 // sent or received
	OwnerStarted  uint64 // start of the owning process, ns since boot, suspend included
	BytesSent     uint64 // payload, each octet once
	BytesReceived uint64 // payload, in order
	NetNS         uint32 // inode of the network namespace
	Ordinal       uint32 // 1, 2, ... of this socket's events; of an Adopted or Sampled, that of the event before
	PID           uint32 // thread group of the owner; 0 where OwnerSource is unknown
	UID           uint32
	SegsOut       uint32
	SegsIn        uint32
	Retransmits   uint32 // segments
	SRTT          uint32 // smoothed round-trip time, µs; 0 unknown
	MinRTT        uint32 // µs; UnknownMinRTT
	LocalISN      uint32 // with HasISN
	PeerISN       uint32
	Errno         uint32 // sk_err, 0 for none
	Local         netip.AddrPort
	Peer          netip.AddrPort
	Comm          Comm
	States        uint16 // bit n: has been in State n
	CPU           uint16 // whose ring it came from
	Flags         Flags
	Kind          Kind
	Role          Role
	Closer        Closer
	OldState      State // what it left
	OwnerSource   OwnerSource
	Late          bool // set by the merge: released behind a younger event
	Filtered      bool // set by the table: of a connection that is not to be told of
}

// Has reports whether all of f are set.
func (e *Event) Has(f Flags) bool { return e.Flags&f == f }

// Been reports whether the connection has been in state s before this event.
func (e *Event) Been(s State) bool { return e.States&(1<<s) != 0 }

// ErrMalformed is what every error of Decode wraps.
var ErrMalformed = errors.New("malformed record")

// Offsets of the fields; TestLayout in internal/probe holds them against the BTF of the object.
const (
	offTime          = 0
	offSeq           = 8
	offCookie        = 16
	offBegan         = 24
	offEstablished   = 32
	offFirstFIN      = 40
	offOwnerStarted  = 48
	offBytesSent     = 56
	offBytesReceived = 64
	offNetNS         = 72
	offOrdinal       = 76
	offPID           = 80
	offUID           = 84
	offSegsOut       = 88
	offSegsIn        = 92
	offRetransmits   = 96
	offSRTT          = 100
	offMinRTT        = 104
	offLocalISN      = 108
	offPeerISN       = 112
	offErrno         = 116
	offLocalAddr     = 120
	offPeerAddr      = 136
	offComm          = 152
	offLocalPort     = 168
	offPeerPort      = 170
	offFamily        = 172
	offStates        = 174
	offKind          = 176
	offRole          = 177
	offCloser        = 178
	offOldState      = 179
	offOwnerSource   = 180
	offFlags         = 182
)

// maxBytes bounds what a connection can carry: an EiB.
const maxBytes = 1 << 60

const (
	afINET  = 2
	afINET6 = 10
)

// Decode reads the record in b, which came from the ring of the given CPU, into e. It overwrites
// all of e, keeps no reference to b and allocates only on error. On error e is not to be used.
// Integers are in the byte order of the machine.
func Decode(b []byte, cpu int, e *Event) error {
	if len(b) != Size {
		return fmt.Errorf("%w: %d octets, want %d", ErrMalformed, len(b), Size)
	}
	n := binary.NativeEndian
	*e = Event{
		Time:          n.Uint64(b[offTime:]),
		Seq:           n.Uint64(b[offSeq:]),
		Cookie:        n.Uint64(b[offCookie:]),
		Began:         n.Uint64(b[offBegan:]),
		Established:   n.Uint64(b[offEstablished:]),
		FirstFIN:      n.Uint64(b[offFirstFIN:]),
		OwnerStarted:  n.Uint64(b[offOwnerStarted:]),
		BytesSent:     n.Uint64(b[offBytesSent:]),
		BytesReceived: n.Uint64(b[offBytesReceived:]),
		NetNS:         n.Uint32(b[offNetNS:]),
		Ordinal:       n.Uint32(b[offOrdinal:]),
		PID:           n.Uint32(b[offPID:]),
		UID:           n.Uint32(b[offUID:]),
		SegsOut:       n.Uint32(b[offSegsOut:]),
		SegsIn:        n.Uint32(b[offSegsIn:]),
		Retransmits:   n.Uint32(b[offRetransmits:]),
		SRTT:          n.Uint32(b[offSRTT:]),
		MinRTT:        n.Uint32(b[offMinRTT:]),
		LocalISN:      n.Uint32(b[offLocalISN:]),
		PeerISN:       n.Uint32(b[offPeerISN:]),
		Errno:         n.Uint32(b[offErrno:]),
		Comm:          Comm(b[offComm:]),
		States:        n.Uint16(b[offStates:]),
		CPU:           uint16(cpu),
		Flags:         Flags(n.Uint16(b[offFlags:])),
		Kind:          Kind(b[offKind]),
		Role:          Role(b[offRole]),
		Closer:        Closer(b[offCloser]),
		OldState:      State(b[offOldState]),
		OwnerSource:   OwnerSource(b[offOwnerSource]),
	}
	family := n.Uint16(b[offFamily:])
	if err := e.check(family); err != nil {
		return err
	}
	e.Local = addrPort(b[offLocalAddr:], family, n.Uint16(b[offLocalPort:]))
	e.Peer = addrPort(b[offPeerAddr:], family, n.Uint16(b[offPeerPort:]))
	return nil
}

// check bounds every field that later code switches on.
func (e *Event) check(family uint16) error {
	switch {
	case e.Kind < Opened || e.Kind > Sampled:
		return fmt.Errorf("%w: kind %d, want %d to %d", ErrMalformed, e.Kind, Opened, Sampled)
	case e.Role > Server:
		return fmt.Errorf("%w: role %d, want at most %d", ErrMalformed, e.Role, Server)
	case e.Closer > CloserBoth:
		return fmt.Errorf("%w: closer %d, want at most %d", ErrMalformed, e.Closer, CloserBoth)
	case e.OldState < Established || e.OldState > Closing:
		return fmt.Errorf("%w: TCP state %d, want %d to %d", ErrMalformed, e.OldState, Established, Closing)
	case e.OwnerSource > OwnerAccept:
		return fmt.Errorf("%w: owner source %d, want at most %d", ErrMalformed, e.OwnerSource, OwnerAccept)
	case e.BytesSent > maxBytes || e.BytesReceived > maxBytes:
		return fmt.Errorf("%w: %d octets sent, %d received, want at most %d", ErrMalformed, e.BytesSent, e.BytesReceived, uint64(maxBytes))
	case family != afINET && family != afINET6:
		return fmt.Errorf("%w: address family %d, want %d or %d", ErrMalformed, family, afINET, afINET6)
	case e.Ordinal == 0 && e.Kind != Adopted && e.Kind != Sampled:
		return fmt.Errorf("%w: ordinal 0, want at least 1", ErrMalformed)
	}
	return nil
}

func addrPort(b []byte, family, port uint16) netip.AddrPort {
	if family == afINET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)), port)
}
