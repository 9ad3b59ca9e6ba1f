package watch

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/connspan/connspan/internal/event"
)

// state is that of a connection.
type state uint8

const (
	opened state = iota
	closed
	failed
)

var states = [...]string{opened: "opened", closed: "closed", failed: "failed"}

func (s state) String() string { return states[s] }

const (
	// unknown stands where a value is not known.
	unknown     = "-"
	roleUnknown = "unknown"
)

// roles are those that a filter may name.
var roles = []string{"client", "server", roleUnknown}

// connection is one end of a TCP connection. Its texts are safe for a terminal.
type connection struct {
	serial      uint64 // in order of appearance
	state       state
	service     string // empty where it is the process's name
	process     string // its name
	pid         int64  // 0: not known
	role        string
	netns       int64
	id          string
	local, peer netip.AddrPort
	began       time.Time     // zero: not known
	at          time.Time     // of the newest record
	duration    time.Duration // up to the newest record; negative: not known
	totals
	rtt  time.Duration // 0: not known
	rate float64       // octets per second, sent and received; negative: not known
	end  string        // how it ended
}

// totals are what a connection has carried, where known.
type totals struct {
	known                       bool
	sent, received, retransmits int64
}

// newConnection reads a log record, of which any part may be missing or of another type. ok is false
// for what tells of no connection.
func newConnection(resource pcommon.Map, record plog.LogRecord) (c *connection, ok bool) {
	c = &connection{at: record.Timestamp().AsTime(), duration: -1, rate: -1, role: roleUnknown}
	switch record.EventName() {
	case "tcp.connection.open", "tcp.connection.heartbeat":
	case "tcp.connection.close":
		c.state = closed
	case "tcp.connection.failed":
		c.state = failed
	default:
		return nil, false
	}
	var ends ends
	older := false
	for name, value := range record.Attributes().All() {
		ends.read(name, value)
		c.read(name, value)
		older = older || name == "tcp.connection.preexisting" || name == "tcp.connection.synthesized"
	}
	c.local, c.peer = ends.local(), ends.peer()
	c.end = outcome(record.Attributes())
	if service, ok := resource.Get("service.name"); ok {
		if name := text(service); name != c.process {
			c.service = name
		}
	}
	switch {
	case c.duration >= 0:
		c.began = c.at.Add(-c.duration)
	case c.state == opened && !older:
		c.began = c.at
	}
	if record.EventName() == "tcp.connection.open" && !older {
		c.known = true // that it has carried nothing
	}
	return c, true
}

func (c *connection) read(name string, value pcommon.Value) {
	switch name {
	case "tcp.connection.id":
		c.id = text(value)
	case "process.executable.name":
		c.process = text(value)
	case "process.pid":
		c.pid = number(value)
	case "network.tcp.handshake.role":
		c.role = text(value)
	case "connspan.netns.inode":
		c.netns = number(value)
	case "tcp.connection.duration", "tcp.connection.handshake.duration":
		c.duration = seconds(value)
	case "tcp.connection.rtt":
		c.rtt = max(seconds(value), 0)
	case "tcp.connection.bytes_sent":
		c.known, c.sent = true, number(value)
	case "tcp.connection.bytes_received":
		c.known, c.received = true, number(value)
	case "tcp.connection.retransmits":
		c.known, c.retransmits = true, number(value)
	}
}

// outcome is how and by whom the connection was ended, and what went wrong.
func outcome(attributes pcommon.Map) string {
	var words []string
	for _, name := range []string{"tcp.connection.close.reason", "tcp.connection.close.initiator", "error.type"} {
		if value, ok := attributes.Get(name); ok {
			words = append(words, text(value))
		}
	}
	return strings.Join(words, " ")
}

// ends are the attributes that make addresses of both ends.
type ends struct {
	localAddr, peerAddr string
	localPort, peerPort int64
}

func (e *ends) read(name string, value pcommon.Value) {
	switch name {
	case "network.local.address":
		e.localAddr = text(value)
	case "network.local.port":
		e.localPort = number(value)
	case "network.peer.address":
		e.peerAddr = text(value)
	case "network.peer.port":
		e.peerPort = number(value)
	}
}

func (e *ends) local() netip.AddrPort { return addrPort(e.localAddr, e.localPort) }
func (e *ends) peer() netip.AddrPort  { return addrPort(e.peerAddr, e.peerPort) }

func addrPort(addr string, port int64) netip.AddrPort {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.WithZone(""), uint16(port))
}

func text(v pcommon.Value) string { return event.Printable(v.AsString()) }

func number(v pcommon.Value) int64 {
	if v.Type() != pcommon.ValueTypeInt {
		return 0
	}
	return v.Int()
}

// seconds is negative for what is no duration.
func seconds(v pcommon.Value) time.Duration {
	const most = 100 * 365 * 24 * 3600
	if v.Type() != pcommon.ValueTypeDouble || !(v.Double() >= 0 && v.Double() < most) { // NaN is neither
		return -1
	}
	return time.Duration(v.Double() * float64(time.Second))
}

// owner is service/process[pid], as far as known.
func (c *connection) owner() string {
	name := c.process
	if name == "" {
		name = unknown
	}
	if c.service != "" {
		name = c.service + "/" + name
	}
	if c.pid != 0 {
		name += fmt.Sprintf("[%d]", c.pid)
	}
	return name
}

// age is how long the connection has been open at time now, or was open. Negative: not known.
func (c *connection) age(now time.Time) time.Duration {
	switch {
	case c.state != opened:
		return c.duration
	case c.began.IsZero():
		return -1
	}
	return max(now.Sub(c.began), 0)
}
