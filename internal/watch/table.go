package watch

import (
	"net/netip"
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"
)

const (
	// maxConnections bounds the table: some 30 MB.
	maxConnections = 100_000
	// linger is how long what has ended is shown.
	linger = 5 * time.Second
)

// table holds the connections that are open and those that ended a moment ago. It is a pure state
// machine, bounded by its limit, and not safe for concurrent use.
type table struct {
	limit  int // of open; and of both together, where the oldest of ended make room
	serial uint64
	open   map[key]*connection
	ended  []connection // in the order of their ends
}

// key tells the ends of connections that are open at one time apart: the kernel has no two sockets
// with the same addresses in a network namespace.
type key struct {
	netns       int64
	local, peer netip.AddrPort
}

func newTable(limit int) *table {
	return &table{limit: limit, open: make(map[key]*connection)}
}

// apply takes a batch. Its records are grouped by process: what makes the order is their time.
func (t *table) apply(batch plog.Logs) {
	all := make([]*connection, 0, batch.LogRecordCount())
	for _, rl := range batch.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, record := range sl.LogRecords().All() {
				if c, ok := newConnection(rl.Resource().Attributes(), record); ok {
					all = append(all, c)
				}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b *connection) int { return a.at.Compare(b.at) })
	for _, c := range all {
		t.add(c)
	}
}

// add takes the next record of the stream, and keeps c.
func (t *table) add(c *connection) {
	k := key{c.netns, c.local, c.peer}
	known := t.open[k]
	if known != nil && known.id != "" && c.id != "" && known.id != c.id {
		known = nil // another connection, by the same addresses
	}
	if known != nil {
		c.follow(known)
	} else {
		t.serial++
		c.serial = t.serial
	}
	if c.state == opened {
		t.enter(k, c)
		return
	}
	if known != nil {
		delete(t.open, k)
	}
	t.end(c)
}

// follow adds what is known of the connection from the records before.
func (c *connection) follow(known *connection) {
	c.serial = known.serial
	if !known.began.IsZero() {
		c.began = known.began
	}
	if !c.known {
		c.totals, c.rtt, c.rate = known.totals, known.rtt, known.rate
		return
	}
	if since := c.at.Sub(known.at); known.known && since > 0 {
		c.rate = float64(max(c.sent+c.received-known.sent-known.received, 0)) / since.Seconds()
	}
}

// enter takes an open connection, unless there is no room: then one of its heartbeats may find some.
func (t *table) enter(k key, c *connection) {
	if t.open[k] != nil || len(t.open) < t.limit {
		t.open[k] = c
		t.bound()
	}
}

func (t *table) end(c *connection) {
	c.rate = -1
	t.ended = append(t.ended, *c)
	t.bound()
}

func (t *table) bound() {
	if more := len(t.open) + len(t.ended) - t.limit; more > 0 {
		t.ended = t.ended[min(more, len(t.ended)):]
	}
}

// full reports whether there may be open connections that found no room.
func (t *table) full() bool { return len(t.open) >= t.limit }

// expire forgets what ended before linger.
func (t *table) expire(now time.Time) {
	n := 0
	for n < len(t.ended) && now.Sub(t.ended[n].at) > linger {
		n++
	}
	t.ended = t.ended[n:]
}

// appendTo appends a copy of each connection to all, in no order.
func (t *table) appendTo(all []connection) []connection {
	for _, c := range t.open {
		all = append(all, *c)
	}
	return append(all, t.ended...)
}
