// Package coverage tells what the kernel itself counts of TCP connections, to hold against it what the
// tracer has seen.
//
// The counters are those of RFC 4022 (TCP-MIB) in /proc/net/snmp, of one network namespace. Where the
// kernel counts them (net/ipv4/tcp*.c) decides what they say:
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
// So, of the connections of that network namespace, by what the tracer tells of them,
//
//	ActiveOpens  = opened as client + failed having sent a SYN + not established yet
//	PassiveOpens = opened as server + failed out of SYN_RECV
//	AttemptFails = failed, not by their own process, having sent a SYN + SYN-ACKs that were reset
//	EstabResets  = closed out of ESTABLISHED or CLOSE_WAIT
//	CurrEstab    = open in these states
//
// counting the tracer's own connections, which it leaves out, and once nothing moves. What is left of the
// first two is what the tracer has not seen: nothing in user space adds it up for the kernel. The
// extended counters in /proc/net/netstat have nothing more to say of openings and ends.
package coverage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"go.opentelemetry.io/otel/metric"
)

// snmp is of the calling thread's network namespace: in the agent, that of all its threads.
const snmp = "/proc/thread-self/net/snmp"

// total is a counter of the kernel, told from when it was first looked at.
type total struct{ field, name, description string }

var totals = []total{
	{"ActiveOpens", "connspan.kernel.tcp.active_opens", "Connections for which the kernel has sent a SYN."},
	{"PassiveOpens", "connspan.kernel.tcp.passive_opens", "Connections that the kernel has made for a listener, at the end of their handshake."},
	{"AttemptFails", "connspan.kernel.tcp.attempt_fails", "Attempts that were refused, reset or not answered, by the kernel's count."},
	{"EstabResets", "connspan.kernel.tcp.estab_resets", "Connections that went from ESTABLISHED or CLOSE_WAIT to CLOSE at once."},
}

const current = "CurrEstab"

// Observe has the meter tell, as connspan.kernel.tcp.*, what the kernel has counted since the call, and
// how many connections it has, whenever the meter collects. The counters are those of the network
// namespace of the thread that collects, and all threads have to share that of the caller. A collection
// reads one small file. The error says that this file cannot be read.
func Observe(m metric.Meter) error {
	start, err := read()
	if err != nil {
		return err
	}
	established, err := m.Int64ObservableUpDownCounter("connspan.kernel.tcp.curr_estab",
		metric.WithUnit("{connection}"), metric.WithDescription("Connections that are ESTABLISHED or in CLOSE_WAIT."))
	if err != nil {
		return fmt.Errorf("creating a metric: %w", err)
	}
	counters := make([]metric.Int64Observable, len(totals))
	all := []metric.Observable{established}
	for i, c := range totals {
		counters[i], err = m.Int64ObservableCounter(c.name, metric.WithUnit("{connection}"), metric.WithDescription(c.description))
		if err != nil {
			return fmt.Errorf("creating a metric: %w", err)
		}
		all = append(all, counters[i])
	}
	_, err = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		now, err := read()
		if err != nil {
			return err
		}
		for i, c := range totals {
			o.ObserveInt64(counters[i], now[c.field]-start[c.field])
		}
		o.ObserveInt64(established, now[current])
		return nil
	}, all...)
	if err != nil {
		return fmt.Errorf("observing the kernel's counters: %w", err)
	}
	return nil
}

// read gives the TCP counters by their names.
func read() (map[string]int64, error) {
	b, err := os.ReadFile(snmp)
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's TCP counters: %w", err)
	}
	counters, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's TCP counters: %s: %w", snmp, err)
	}
	return counters, nil
}

// parse reads the two lines of TCP: the names, and the values in the same order.
func parse(text []byte) (map[string]int64, error) {
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
			return nil, fmt.Errorf("%d values of %d names", len(fields)-1, len(names)-1)
		}
		return values(names[1:], fields[1:])
	}
	return nil, errors.New("no counters of TCP")
}

// values wants each counter that is told.
func values(names, fields [][]byte) (map[string]int64, error) {
	all := make(map[string]int64, len(names))
	for i, name := range names {
		n, err := strconv.ParseInt(string(fields[i]), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all[string(name)] = n
	}
	for _, want := range append(totals, total{field: current}) {
		if _, ok := all[want.field]; !ok {
			return nil, fmt.Errorf("no %s", want.field)
		}
	}
	return all, nil
}
