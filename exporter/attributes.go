package exporter

import (
	"encoding/hex"
	"net/netip"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/connspan/connspan/internal/conn"
	"github.com/connspan/connspan/internal/event"
	"github.com/connspan/connspan/internal/owner"
)

// Attributes that the semantic conventions do not have.
const (
	attrConnectionID = "tcp.connection.id"
	attrRole         = "network.tcp.handshake.role"
	attrHandshake    = "tcp.connection.handshake.duration"
	attrDuration     = "tcp.connection.duration"
	attrBytesSent    = "tcp.connection.bytes_sent"
	attrBytesRecv    = "tcp.connection.bytes_received"
	attrSegsSent     = "tcp.connection.segments_sent"
	attrSegsRecv     = "tcp.connection.segments_received"
	attrRetransmits  = "tcp.connection.retransmits"
	attrRTT          = "tcp.connection.rtt"
	attrRTTMin       = "tcp.connection.rtt_min"
	attrReason       = "tcp.connection.close.reason"
	attrInitiator    = "tcp.connection.close.initiator"
	attrPreexisting  = "tcp.connection.preexisting"
	attrLate         = "tcp.connection.late"
	attrSynthesized  = "tcp.connection.synthesized"
	attrEventName    = "event.name" // deprecated for the field EventName
	attrOwnerSource  = "connspan.owner.source"
	attrNetNS        = "connspan.netns.inode"
)

// maxAttributes is the most that a record has.
const maxAttributes = 33

// The semantic conventions' names, as the strings that pdata takes.
const (
	attrTransport   = string(semconv.NetworkTransportKey)
	attrType        = string(semconv.NetworkTypeKey)
	attrState       = string(semconv.NetworkConnectionStateKey)
	attrLocalAddr   = string(semconv.NetworkLocalAddressKey)
	attrLocalPort   = string(semconv.NetworkLocalPortKey)
	attrPeerAddr    = string(semconv.NetworkPeerAddressKey)
	attrPeerPort    = string(semconv.NetworkPeerPortKey)
	attrClientAddr  = string(semconv.ClientAddressKey)
	attrClientPort  = string(semconv.ClientPortKey)
	attrServerAddr  = string(semconv.ServerAddressKey)
	attrServerPort  = string(semconv.ServerPortKey)
	attrSourceAddr  = string(semconv.SourceAddressKey)
	attrSourcePort  = string(semconv.SourcePortKey)
	attrDestAddr    = string(semconv.DestinationAddressKey)
	attrDestPort    = string(semconv.DestinationPortKey)
	attrPID         = string(semconv.ProcessPIDKey)
	attrExecutable  = string(semconv.ProcessExecutableNameKey)
	attrPath        = string(semconv.ProcessExecutablePathKey)
	attrUser        = string(semconv.ProcessUserIDKey)
	attrErrorType   = string(semconv.ErrorTypeKey)
	transportTCP    = "tcp"
	networkIPv4     = "ipv4"
	networkIPv6     = "ipv6"
	stateOpen       = "established"
	stateClosed     = "closed"
	roleNameUnknown = "unknown"
)

var roleNames = map[event.Role]string{
	event.RoleUnknown: roleNameUnknown, event.Client: "client", event.Server: "server",
}

var ownerSourceNames = map[event.OwnerSource]string{
	event.OwnerConnect: "connect", event.OwnerListen: "listen", event.OwnerClose: "close",
	event.OwnerFile: "file", event.OwnerAccept: "accept",
}

// putCommon puts what every record has. Whatever is not known is left out.
func putCommon(m pcommon.Map, r *conn.Record, p *owner.Process) {
	if id, ok := r.ID(); ok {
		m.PutStr(attrConnectionID, hex.EncodeToString(id[:]))
	}
	m.PutStr(attrTransport, transportTCP)
	putEnds(m, r)
	m.PutStr(attrRole, roleNames[r.Role])
	m.PutStr(attrState, state(r))
	if r.OwnerSource != event.OwnerUnknown {
		m.PutInt(attrPID, int64(r.PID))
		m.PutStr(attrExecutable, executable(ownerOf(r.Event), p))
		putUnlessEmpty(m, attrPath, event.Printable(p.Executable))
		m.PutInt(attrUser, int64(r.UID))
		m.PutStr(attrOwnerSource, ownerSourceNames[r.OwnerSource])
	}
	m.PutInt(attrNetNS, int64(r.NetNS))
	if r.Has(event.Preexisting) {
		m.PutBool(attrPreexisting, true)
	}
	if r.Synthesized {
		m.PutBool(attrSynthesized, true)
	}
	if r.Late {
		m.PutBool(attrLate, true)
	}
}

// states are the names that network.connection.state has for the states of an open connection.
var states = map[event.State]string{
	event.Established: stateOpen, event.FinWait1: "fin_wait_1", event.FinWait2: "fin_wait_2",
	event.CloseWait: "close_wait", event.Closing: "closing", event.LastAck: "last_ack",
}

// state is what the connection is in once the record is true.
func state(r *conn.Record) string {
	switch r.Kind {
	case event.Closed, event.Failed:
		return stateClosed
	case event.Adopted, event.Sampled:
		if name, ok := states[r.OldState]; ok {
			return name
		}
	}
	return stateOpen
}

func putEnds(m pcommon.Map, r *conn.Record) {
	local, peer := r.Local.Addr().String(), r.Peer.Addr().String()
	putType(m, !r.Local.Addr().Is4())
	putEnd(m, attrLocalAddr, attrLocalPort, local, r.Local)
	putEnd(m, attrPeerAddr, attrPeerPort, peer, r.Peer)
	switch r.Role {
	case event.Client:
		putEnd(m, attrClientAddr, attrClientPort, local, r.Local)
		putEnd(m, attrServerAddr, attrServerPort, peer, r.Peer)
	case event.Server:
		putEnd(m, attrServerAddr, attrServerPort, local, r.Local)
		putEnd(m, attrClientAddr, attrClientPort, peer, r.Peer)
	default:
		putEnd(m, attrSourceAddr, attrSourcePort, local, r.Local)
		putEnd(m, attrDestAddr, attrDestPort, peer, r.Peer)
	}
}

func putType(m pcommon.Map, ipv6 bool) {
	if ipv6 {
		m.PutStr(attrType, networkIPv6)
	} else {
		m.PutStr(attrType, networkIPv4)
	}
}

func putUnlessEmpty(m pcommon.Map, key, value string) {
	if value != "" {
		m.PutStr(key, value)
	}
}

func putEnd(m pcommon.Map, addrKey, portKey, addr string, end netip.AddrPort) {
	m.PutStr(addrKey, addr)
	m.PutInt(portKey, int64(end.Port()))
}

func putOpened(m pcommon.Map, r *conn.Record) {
	if d, ok := r.Handshake(); ok {
		m.PutDouble(attrHandshake, d.Seconds())
	}
}

func putClosed(m pcommon.Map, r *conn.Record) {
	if d, ok := r.Duration(); ok {
		m.PutDouble(attrDuration, d.Seconds())
	}
	m.PutStr(attrReason, string(r.Reason))
	m.PutStr(attrInitiator, string(r.Initiator))
	putUnlessEmpty(m, attrErrorType, r.ErrorType)
	if !r.Synthesized {
		putTotals(m, r)
	}
}

// putHeartbeat puts how long it has been open, and what it has carried.
func putHeartbeat(m pcommon.Map, r *conn.Record) {
	if d, ok := r.Duration(); ok {
		m.PutDouble(attrDuration, d.Seconds())
	}
	putTotals(m, r)
}

func putTotals(m pcommon.Map, r *conn.Record) {
	m.PutInt(attrBytesSent, int64(r.BytesSent))
	m.PutInt(attrBytesRecv, int64(r.BytesReceived))
	m.PutInt(attrSegsSent, int64(r.SegsOut))
	m.PutInt(attrSegsRecv, int64(r.SegsIn))
	m.PutInt(attrRetransmits, int64(r.Retransmits))
	if r.SRTT != 0 {
		m.PutDouble(attrRTT, micros(r.SRTT).Seconds())
	}
	if r.MinRTT != event.UnknownMinRTT {
		m.PutDouble(attrRTTMin, micros(r.MinRTT).Seconds())
	}
}

func putFailed(m pcommon.Map, r *conn.Record) {
	m.PutStr(attrErrorType, r.ErrorType)
	if d, ok := r.Duration(); ok {
		m.PutDouble(attrDuration, d.Seconds())
	}
}

func micros(us uint32) time.Duration { return time.Duration(us) * time.Microsecond }
