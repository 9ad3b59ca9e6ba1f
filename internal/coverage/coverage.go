// Package coverage holds what the kernel itself counts of TCP connections against what the tracer has
// seen, for each network namespace.
//
// The kernel's counters are those of RFC 4022 (TCP-MIB) in /proc/PID/net/snmp, of the network namespace of
// that process. Where the kernel counts them (net/ipv4/tcp*.c) decides what they say:
//
//   - ActiveOpens: tcp_connect has sent a SYN. connect(2) that fails before that, for want of a port or
//     of a route, is not counted.
//   - PassiveOpens: tcp_create_openreq_child has made the server's socket, on the last ACK of a handshake.
//     A SYN that nobody completes is not counted.
//   - AttemptFails: tcp_done has ended a socket in SYN_SENT or SYN_RECV: refused, reset, timed out,
//     unreachable. One that its process closes or disconnects before that is not counted. tcp_check_req
//     adds handshakes that the peer resets before there is a full socket.
//   - EstabResets: tcp_set_state has taken a socket from ESTABLISHED or CLOSE_WAIT to CLOSE at once: a
//     RST, of either end, a timeout, a disconnect. A RST behind this end's own FIN is not counted.
//   - CurrEstab: sockets that are ESTABLISHED, or in CLOSE_WAIT: open connections without those that wait
//     for the acknowledgement or the FIN that ends them. Older kernels count those in ESTABLISHED alone.
//
// So, of the connections of that network namespace, by what the tracer tells of them ([Counters.Add]),
//
//	ActiveOpens  = opened as client + failed having sent a SYN + not established yet
//	PassiveOpens = opened as server + failed out of SYN_RECV
//	AttemptFails = failed, not by their own process, having sent a SYN + SYN-ACKs that were reset
//	EstabResets  = closed out of ESTABLISHED or CLOSE_WAIT
//	CurrEstab    = open in these states
//
// once nothing moves. Then what is left of the difference is one of these, or was not seen:
//
//   - the tracer's own connections, which it leaves out: ActiveOpens and CurrEstab of its exporters, PassiveOpens of
//     its own server. Each is one or two of the events excluded;
//   - connections that the programs leave out by a filter. Those that are left out in user space are seen;
//   - a connection that is not established yet, in ActiveOpens, for as long as it is not;
//   - a handshake that a client has taken back, in AttemptFails: there has been no socket;
//   - a handshake that two CPUs have completed at once, in PassiveOpens: the second socket is thrown away;
//   - a connection in SYN_RECV behind Fast Open (PassiveOpens), or served and closed there (CurrEstab);
//   - a connection in LAST_ACK, or with its own half closed, in CurrEstab: it is still open, and the kernel
//     counts it no more. The difference is below 0 then;
//   - events lost, and state changes for which the kernel has run no program, as far as they are not repaired: an
//     end that was lost is found, but not how it came, which EstabResets would have to know.
//
// While connections come and go the tracer is behind the kernel by what is in flight, for the time of a
// round of reading. The extended counters in /proc/net/netstat have nothing more to say of openings and ends.
package coverage

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/connspan/connspan/internal/conn"
	"github.com/connspan/connspan/internal/event"
)

// Counters are the kernel's, or what they are to be by what the tracer tells. All are connections.
type Counters struct {
	ActiveOpens, PassiveOpens, AttemptFails, EstabResets int64
	// CurrEstab is how many there are; all others are totals.
	CurrEstab int64
}

// counter is one of them.
type counter struct {
	field, name, what string
	of                func(*Counters) *int64
}

var counters = []counter{
	{"ActiveOpens", "active_opens", "for which a SYN was sent", func(c *Counters) *int64 { return &c.ActiveOpens }},
	{"PassiveOpens", "passive_opens", "that were made for a listener, at the end of their handshake", func(c *Counters) *int64 { return &c.PassiveOpens }},
	{"AttemptFails", "attempt_fails", "that were refused, reset or not answered before they were established", func(c *Counters) *int64 { return &c.AttemptFails }},
	{"EstabResets", "estab_resets", "that went from ESTABLISHED or CLOSE_WAIT to CLOSE at once", func(c *Counters) *int64 { return &c.EstabResets }},
	{current, "curr_estab", "that are ESTABLISHED or in CLOSE_WAIT", func(c *Counters) *int64 { return &c.CurrEstab }},
}

const current = "CurrEstab"

// Add adds what the kernel has counted after time since, in nanoseconds on the clock of the events, of what
// a record tells. It looks at the record's event, and whether it is synthesized.
func (c *Counters) Add(r *conn.Record, since uint64) {
	switch r.Kind {
	case event.Opened, event.Adopted:
		c.open(r.Event, since)
	case event.Failed:
		c.fail(r.Event, since)
	case event.Closed:
		if left(r) > since {
			c.CurrEstab--
		}
		// The state that an end has left which was lost is not known.
		if r.Time > since && !r.Synthesized && (r.OldState == event.Established || r.OldState == event.CloseWait) {
			c.EstabResets++
		}
	}
}

func (c *Counters) open(e *event.Event, since uint64) {
	established := e.Established
	if established == 0 && !e.Has(event.Preexisting) {
		established = e.Time // no program was run then: found later
	}
	if e.Role == event.Client && e.Began > since {
		c.ActiveOpens++
	}
	if established <= since {
		return
	}
	c.CurrEstab++
	if e.Role == event.Server {
		c.PassiveOpens++
	}
}

func (c *Counters) fail(e *event.Event, since uint64) {
	unsent := e.OldState == event.SynSent && e.SegsOut == 0 && e.Errno == 0
	switch {
	case e.Role == event.Client && e.Began > since && !unsent:
		c.ActiveOpens++
	case e.Role == event.Server && e.Time > since:
		c.PassiveOpens++
	}
	if e.Errno != 0 && e.Time > since { // tcp_done; a process that gives up leaves no error
		c.AttemptFails++
	}
}

// left is when a connection that is over was ESTABLISHED or in CLOSE_WAIT for the last time; 0 where it was
// before it was traced.
func left(r *conn.Record) uint64 {
	if r.Synthesized {
		return r.Time
	}
	switch r.Closer {
	case event.CloserLocal, event.CloserBoth:
		return r.FirstFIN
	case event.CloserPeer: // LAST_ACK, if it was there, takes a round trip
		return r.Time
	}
	if r.OldState == event.Established || r.OldState == event.CloseWait {
		return r.Time
	}
	return 0
}

// minus gives what c has more than base.
func (c Counters) minus(base Counters) Counters {
	for _, k := range counters {
		*k.of(&c) -= *k.of(&base)
	}
	return c
}

// Read gives the counters of a file as /proc/PID/net/snmp.
func Read(path string) (Counters, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Counters{}, fmt.Errorf("reading the kernel's TCP counters: %w", err)
	}
	c, err := parse(b)
	if err != nil {
		return Counters{}, fmt.Errorf("reading the kernel's TCP counters: %s: %w", path, err)
	}
	return c, nil
}

// parse reads the two lines of TCP: the names, and the values in the same order.
func parse(text []byte) (Counters, error) {
	var names [][]byte
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		switch {
		case len(fields) == 0 || string(fields[0]) != "Tcp:":
			continue
		case names == nil:
			names = fields
			continue
		case len(fields) != len(names):
			return Counters{}, fmt.Errorf("%d values of %d names", len(fields)-1, len(names)-1)
		}
		return values(names[1:], fields[1:])
	}
	return Counters{}, errors.New("no counters of TCP")
}

// values wants each counter.
func values(names, fields [][]byte) (c Counters, err error) {
	for _, k := range counters {
		at := 0
		for at < len(names) && string(names[at]) != k.field {
			at++
		}
		if at == len(names) {
			return Counters{}, fmt.Errorf("no %s", k.field)
		}
		if *k.of(&c), err = strconv.ParseInt(string(fields[at]), 10, 64); err != nil {
			return Counters{}, fmt.Errorf("%s: %w", k.field, err)
		}
	}
	return c, nil
}
