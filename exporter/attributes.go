package exporter

import (
	"encoding/hex"
	"net/netip"
	"time"

	"go.opentelemetry.io/collector/pdata/xpdata"
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

// How many attributes records have: one of an opening, and any other. A few have some more.
const (
	openAttributes  = 21
	otherAttributes = 32
)

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

// attributes are collected here before a record has them: pcommon.Map would look, with each one, whether
// it has that key already. No key may be put twice.
type attributes struct{ xpdata.MapBuilder }

func (a *attributes) putStr(key, value string)       { a.AppendEmpty(key).SetStr(value) }
func (a *attributes) putInt(key string, value int64) { a.AppendEmpty(key).SetInt(value) }
func (a *attributes) putBool(key string, value bool) { a.AppendEmpty(key).SetBool(value) }

func (a *attributes) putSeconds(key string, value time.Duration) {
	a.AppendEmpty(key).SetDouble(value.Seconds())
}

// putFound puts nothing for what is not known.
func (a *attributes) putFound(key, value string) {
	if value != "" {
		a.putStr(key, value)
	}
}

// putRecord puts everything that a log record or a span tells. Whatever is not known is left out.
func putRecord(a *attributes, r *conn.Record, p *owner.Process) {
	if r.Kind == event.Opened || r.Kind == event.Adopted {
		a.EnsureCapacity(openAttributes)
	} else {
		a.EnsureCapacity(otherAttributes)
	}
	putCommon(a, r, p)
	switch r.Kind {
	case event.Opened, event.Adopted:
		putOpened(a, r)
	case event.Closed:
		putClosed(a, r)
	case event.Failed:
		putFailed(a, r)
	case event.Sampled:
		putHeartbeat(a, r)
	}
}

// putCommon puts what every record has.
func putCommon(a *attributes, r *conn.Record, p *owner.Process) {
	if id, ok := r.ID(); ok {
		a.putStr(attrConnectionID, hex.EncodeToString(id[:]))
	}
	a.putStr(attrTransport, transportTCP)
	putEnds(a, r)
	a.putStr(attrRole, roleNames[r.Role])
	a.putStr(attrState, state(r))
	if r.OwnerSource != event.OwnerUnknown {
		a.putInt(attrPID, int64(r.PID))
		a.putStr(attrExecutable, executable(ownerOf(r.Event), p))
		a.putFound(attrPath, event.Printable(p.Executable))
		a.putInt(attrUser, int64(r.UID))
		a.putStr(attrOwnerSource, ownerSourceNames[r.OwnerSource])
	}
	a.putInt(attrNetNS, int64(r.NetNS))
	if r.Has(event.Preexisting) {
		a.putBool(attrPreexisting, true)
	}
	if r.Synthesized {
		a.putBool(attrSynthesized, true)
	}
	if r.Late {
		a.putBool(attrLate, true)
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

func putEnds(a *attributes, r *conn.Record) {
	local, peer := r.Local.Addr().String(), r.Peer.Addr().String()
	a.putStr(attrType, networkType(!r.Local.Addr().Is4()))
	putEnd(a, attrLocalAddr, attrLocalPort, local, r.Local)
	putEnd(a, attrPeerAddr, attrPeerPort, peer, r.Peer)
	switch r.Role {
	case event.Client:
		putEnd(a, attrClientAddr, attrClientPort, local, r.Local)
		putEnd(a, attrServerAddr, attrServerPort, peer, r.Peer)
	case event.Server:
		putEnd(a, attrServerAddr, attrServerPort, local, r.Local)
		putEnd(a, attrClientAddr, attrClientPort, peer, r.Peer)
	default:
		putEnd(a, attrSourceAddr, attrSourcePort, local, r.Local)
		putEnd(a, attrDestAddr, attrDestPort, peer, r.Peer)
	}
}

func networkType(ipv6 bool) string {
	if ipv6 {
		return networkIPv6
	}
	return networkIPv4
}

func putEnd(a *attributes, addrKey, portKey, addr string, end netip.AddrPort) {
	a.putStr(addrKey, addr)
	a.putInt(portKey, int64(end.Port()))
}

func putOpened(a *attributes, r *conn.Record) {
	if d, ok := r.Handshake(); ok {
		a.putSeconds(attrHandshake, d)
	}
}

func putClosed(a *attributes, r *conn.Record) {
	if d, ok := r.Duration(); ok {
		a.putSeconds(attrDuration, d)
	}
	a.putStr(attrReason, string(r.Reason))
	a.putStr(attrInitiator, string(r.Initiator))
	a.putFound(attrErrorType, r.ErrorType)
	if !r.Synthesized {
		putTotals(a, r)
	}
}

// putHeartbeat puts how long it has been open, and what it has carried.
func putHeartbeat(a *attributes, r *conn.Record) {
	if d, ok := r.Duration(); ok {
		a.putSeconds(attrDuration, d)
	}
	putTotals(a, r)
}

func putTotals(a *attributes, r *conn.Record) {
	a.putInt(attrBytesSent, int64(r.BytesSent))
	a.putInt(attrBytesRecv, int64(r.BytesReceived))
	a.putInt(attrSegsSent, int64(r.SegsOut))
	a.putInt(attrSegsRecv, int64(r.SegsIn))
	a.putInt(attrRetransmits, int64(r.Retransmits))
	if r.SRTT != 0 {
		a.putSeconds(attrRTT, micros(r.SRTT))
	}
	if r.MinRTT != event.UnknownMinRTT {
		a.putSeconds(attrRTTMin, micros(r.MinRTT))
	}
}

func putFailed(a *attributes, r *conn.Record) {
	a.putStr(attrErrorType, r.ErrorType)
	if d, ok := r.Duration(); ok {
		a.putSeconds(attrDuration, d)
	}
}

func micros(us uint32) time.Duration { return time.Duration(us) * time.Microsecond }
