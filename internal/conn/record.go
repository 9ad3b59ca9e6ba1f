// Package conn is the model of TCP connections: it takes events in order, keeps the table of open
// connections and gives a [Record] for each thing worth telling.
package conn

import (
	"encoding/binary"
	"syscall"
	"time"

	"github.com/connspan/connspan/internal/event"
)

// Reason says how a connection ended.
type Reason string

// The reasons.
const (
	FIN            Reason = "fin"             // in order, by FIN
	ResetReceived  Reason = "reset_received"  // the peer sent RST
	ResetSent      Reason = "reset_sent"      // this end gave up data or lingering: RST
	Timeout        Reason = "timeout"         // the peer did not answer: retransmission, keepalive, user timeout
	Disconnect     Reason = "disconnect"      // connect(AF_UNSPEC)
	ListenerClosed Reason = "listener_closed" // nobody accepted it before its listener was closed
	Unknown        Reason = "unknown"
)

// Initiator says who began to end a connection.
type Initiator string

// The initiators.
const (
	InitiatorLocal   Initiator = "local"
	InitiatorPeer    Initiator = "peer"
	InitiatorBoth    Initiator = "both" // the FINs crossed
	InitiatorUnknown Initiator = "unknown"
)

// Totals are what a connection has carried.
type Totals struct {
	BytesSent     uint64 // payload, each octet once
	BytesReceived uint64
	Retransmits   uint64 // segments
}

func totals(e *event.Event) Totals {
	return Totals{BytesSent: e.BytesSent, BytesReceived: e.BytesReceived, Retransmits: uint64(e.Retransmits)}
}

// less gives what t has more than base. The counters of a sample are read while they move: where one
// is behind, it is taken as equal.
func (t Totals) less(base Totals) Totals {
	return Totals{
		BytesSent:     max(t.BytesSent, base.BytesSent) - base.BytesSent,
		BytesReceived: max(t.BytesReceived, base.BytesReceived) - base.BytesReceived,
		Retransmits:   max(t.Retransmits, base.Retransmits) - base.Retransmits,
	}
}

// A Record is one thing to tell about a connection: that it is open, what it has carried so far, that
// it is over, or has failed. It is valid, like the Event that it points to, until the function that is given it returns.
type Record struct {
	*event.Event
	// Since is what the connection has carried since the record before: over all its records,
	// everything that it has carried since it is traced, once.
	Since     Totals
	Reason    Reason    // of a Closed
	Initiator Initiator // of a Closed
	ErrorType string    // error.type: why a Failed failed or a Closed did not end in order; else empty
	// Stray: a Closed of which the opening was never told.
	Stray bool
	// Synthesized: the event that would have told of this is lost. Of a Closed, then, nothing is
	// known but that it is over; its Event is that of its opening, at the time when this was found.
	Synthesized bool
}

// Handshake is how long the handshake took: SYN to ESTABLISHED at the client, SYN-ACK to
// ESTABLISHED at the server. ok is false where either is not known.
func (r *Record) Handshake() (d time.Duration, ok bool) {
	return between(r.Began, r.Established)
}

// Duration is how long the connection, or the attempt, has lasted, its handshake included; where
// the beginning of the handshake is not known, since its end. ok is false where neither is.
func (r *Record) Duration() (d time.Duration, ok bool) {
	if r.Synthesized {
		return 0, false
	}
	if r.Began != 0 {
		return between(r.Began, r.Time)
	}
	return between(r.Established, r.Time)
}

func between(from, to uint64) (time.Duration, bool) {
	if from == 0 || to < from {
		return 0, false
	}
	return time.Duration(to - from), true
}

// ID names the connection by its two initial sequence numbers, the client's first: both ends
// know them, and nothing that translates addresses on the way changes them. ok is false where
// they are not known.
func (r *Record) ID() (id [8]byte, ok bool) {
	if !r.Has(event.HasISN) {
		return id, false
	}
	client, server := r.LocalISN, r.PeerISN
	if r.Role == event.Server {
		client, server = server, client
	}
	binary.BigEndian.PutUint32(id[:4], client)
	binary.BigEndian.PutUint32(id[4:], server)
	return id, true
}

// judge says how and by whom the connection of a Closed or Failed event came to its end.
func judge(e *event.Event) Record {
	r := Record{Event: e, Synthesized: e.Kind == event.Adopted && !e.Has(event.Preexisting)}
	switch e.Kind {
	case event.Closed:
		r.Reason = reason(e)
		r.Initiator = initiator(e, r.Reason)
		r.ErrorType = closeError(e, r.Reason)
	case event.Failed:
		r.ErrorType = failure(e)
	}
	return r
}

// unanswered tells of the errors with which the kernel gives up an open connection whose peer is not heard
// any more: what ICMP has said meanwhile (icmp_err_convert, icmpv6_err_convert), which ends nothing that is
// open by itself, else ETIMEDOUT.
func unanswered(errno syscall.Errno) bool {
	switch errno {
	case syscall.ETIMEDOUT, syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.EHOSTDOWN, syscall.ENONET, syscall.ECONNREFUSED,
		syscall.ENOPROTOOPT, syscall.EOPNOTSUPP, syscall.EPROTO, syscall.EACCES, syscall.EMSGSIZE:
		return true
	}
	return false
}

// reason reads the state that the socket left for CLOSE, and its error (net/ipv4/tcp.c,
// tcp_input.c and tcp_timer.c say who leaves which behind).
func reason(e *event.Event) Reason {
	switch errno := syscall.Errno(e.Errno); {
	case e.Has(event.TooLate) && !e.Has(event.FINReceived) && (errno == 0 || errno == syscall.ECONNRESET):
		return ResetSent // tcp_rcv_state_process, which uses tcp_reset or tcp_done
	case errno == syscall.ECONNRESET, errno == syscall.EPIPE: // tcp_reset; EPIPE from CLOSE_WAIT
		return ResetReceived
	case errno == syscall.ECONNABORTED: // tcp_abort: destroyed by an administrator
		return ResetSent
	case unanswered(errno): // tcp_write_err
		return Timeout
	case errno != 0:
		return Unknown
	}
	switch {
	case e.OldState == event.LastAck, e.OldState == event.Closing:
		return FIN
	case e.Has(event.Unaccepted) && e.Role != event.Client && (e.OldState == event.Established || e.OldState == event.CloseWait):
		return ListenerClosed // inet_csk_listen_stop; a subflow of MPTCP is nobody's file either
	case e.OldState == event.FinWait2 && e.Has(event.Linger2):
		return ResetSent
	case e.OldState == event.FinWait2 && (e.Has(event.FINReceived) || e.Has(event.Dead)):
		// What is left of it waits in a time-wait socket, also for the peer's FIN (tcp_time_wait).
		return FIN
	case !e.Has(event.Shut): // close() shuts down first
		return Disconnect
	}
	return ResetSent
}

// initiator is whose FIN came first; without a FIN, who broke off.
func initiator(e *event.Event, reason Reason) Initiator {
	switch e.Closer {
	case event.CloserLocal:
		return InitiatorLocal
	case event.CloserPeer:
		return InitiatorPeer
	case event.CloserBoth:
		return InitiatorBoth
	}
	if e.Has(event.Preexisting) && (e.OldState != event.Established || reason == FIN) {
		return fromState(e.OldState)
	}
	switch reason {
	case ResetReceived:
		return InitiatorPeer
	case ResetSent, Timeout, Disconnect, ListenerClosed:
		return InitiatorLocal
	}
	return InitiatorUnknown
}

// fromState is for a connection whose first FIN was not seen.
func fromState(s event.State) Initiator {
	switch s {
	case event.FinWait1, event.FinWait2:
		return InitiatorLocal
	case event.CloseWait, event.LastAck:
		return InitiatorPeer
	case event.Closing:
		return InitiatorBoth
	}
	return InitiatorUnknown
}

func closeError(e *event.Event, reason Reason) string {
	switch reason {
	case FIN:
		return ""
	case ResetReceived:
		return errorType(syscall.ECONNRESET)
	case ResetSent, Disconnect, ListenerClosed:
		return errorType(syscall.ECONNABORTED)
	}
	return errorType(syscall.Errno(e.Errno))
}

// failure is the socket's error, and where it has none what the process did.
func failure(e *event.Event) string {
	switch {
	case e.Errno != 0:
		return errorType(syscall.Errno(e.Errno))
	case e.SegsOut == 0 && e.OldState == event.SynSent: // no SYN: inet_hash_connect found no port, or the tuple in use
		return errorType(syscall.EADDRNOTAVAIL)
	case e.Has(event.Exiting):
		return errorType(syscall.EINTR)
	}
	return errorType(syscall.ECONNABORTED)
}

var errorTypes = map[syscall.Errno]string{
	syscall.ECONNREFUSED:  "connection_refused",
	syscall.ETIMEDOUT:     "timed_out",
	syscall.EHOSTUNREACH:  "host_unreachable",
	syscall.ENETUNREACH:   "network_unreachable",
	syscall.ECONNRESET:    "connection_reset",
	syscall.ECONNABORTED:  "connection_aborted",
	syscall.EINTR:         "interrupted",
	syscall.EADDRNOTAVAIL: "address_not_available",
	syscall.EPIPE:         "broken_pipe",
	syscall.EACCES:        "permission_denied",
	syscall.EPERM:         "operation_not_permitted",
	syscall.ENETDOWN:      "network_down",
	syscall.EHOSTDOWN:     "host_down",
	syscall.EPROTO:        "protocol_error",
	syscall.ENOPROTOOPT:   "protocol_not_available",
	syscall.EOPNOTSUPP:    "operation_not_supported",
	syscall.EMSGSIZE:      "message_too_long",
	syscall.ENOBUFS:       "no_buffer_space",
	syscall.ENOMEM:        "out_of_memory",
}

// errorType is the snake case of the errno's name, as error.type wants it: a small, fixed set.
func errorType(errno syscall.Errno) string {
	if name, ok := errorTypes[errno]; ok {
		return name
	}
	return "_OTHER"
}
