package watch

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// column is one of the table's.
type column struct {
	name, title string
	right       bool
	descending  bool // at first, when it is chosen to sort by
	text        func(c *connection, width int, now time.Time) string
	compare     func(a, b *connection, now time.Time) int
}

// The columns, in their order on the screen.
const (
	columnState = iota
	columnAge
	columnProcess
	columnRole
	columnLocal
	columnPeer
	columnSent
	columnReceived
	columnRate
	columnRTT
	columnRetransmits
	columnEnd
)

var columns = [...]column{
	columnState: words("state", "STATE", func(c *connection) string { return c.state.String() }),
	columnAge: {
		name: "age", title: "AGE", right: true,
		text: func(c *connection, _ int, now time.Time) string {
			if c.state == opened {
				return elapsed(c.age(now))
			}
			return span(c.duration)
		},
		compare: func(a, b *connection, now time.Time) int { return cmp.Compare(a.age(now), b.age(now)) },
	},
	columnProcess: {
		name: "process", title: "PROCESS",
		text: func(c *connection, width int, _ time.Time) string { return name(c, width) },
		compare: func(a, b *connection, _ time.Time) int {
			return cmp.Or(strings.Compare(a.serviceName(), b.serviceName()), strings.Compare(a.process, b.process), cmp.Compare(a.pid, b.pid))
		},
	},
	columnRole:     words("role", "ROLE", func(c *connection) string { return roleTitle(c.role) }),
	columnLocal:    addresses("local", "LOCAL", func(c *connection) netip.AddrPort { return c.local }),
	columnPeer:     addresses("peer", "PEER", func(c *connection) netip.AddrPort { return c.peer }),
	columnSent:     sizes("sent", "SENT", func(c *connection) float64 { return c.size(c.sent) }),
	columnReceived: sizes("received", "RECV", func(c *connection) float64 { return c.size(c.received) }),
	columnRate:     sizes("rate", "RATE/S", func(c *connection) float64 { return c.rate }),
	columnRTT: {
		name: "rtt", title: "RTT", right: true, descending: true,
		text: func(c *connection, _ int, _ time.Time) string {
			if c.rtt == 0 {
				return unknown
			}
			return span(c.rtt)
		},
		compare: func(a, b *connection, _ time.Time) int { return cmp.Compare(a.rtt, b.rtt) },
	},
	columnRetransmits: {
		name: "retransmits", title: "RTX", right: true, descending: true,
		text: func(c *connection, _ int, _ time.Time) string {
			if !c.known {
				return unknown
			}
			return strconv.FormatInt(c.retransmits, 10)
		},
		compare: func(a, b *connection, _ time.Time) int { return cmp.Compare(a.retransmits, b.retransmits) },
	},
	columnEnd: words("end", "END", func(c *connection) string { return c.end }),
}

func roleTitle(role string) string {
	if role == roleUnknown {
		return unknown
	}
	return role
}

func words(name, title string, of func(*connection) string) column {
	return column{
		name: name, title: title,
		text:    func(c *connection, _ int, _ time.Time) string { return of(c) },
		compare: func(a, b *connection, _ time.Time) int { return strings.Compare(of(a), of(b)) },
	}
}

func addresses(name, title string, of func(*connection) netip.AddrPort) column {
	return column{
		name: name, title: title,
		text:    func(c *connection, width int, _ time.Time) string { return address(of(c), width) },
		compare: func(a, b *connection, _ time.Time) int { return of(a).Compare(of(b)) },
	}
}

func sizes(name, title string, of func(*connection) float64) column {
	return column{
		name: name, title: title, right: true, descending: true,
		text:    func(c *connection, _ int, _ time.Time) string { return octets(of(c)) },
		compare: func(a, b *connection, _ time.Time) int { return cmp.Compare(of(a), of(b)) },
	}
}

// size is n, negative where the totals are not known.
func (c *connection) size(n int64) float64 {
	if !c.known {
		return -1
	}
	return float64(n)
}

// order is what the rows are sorted by.
type order struct {
	column     int
	descending bool
}

// choose gives the order by the column that is steps further, around.
func (o order) choose(steps int) order {
	n := (o.column + steps + len(columns)) % len(columns)
	return order{n, columns[n].descending}
}

// sort sorts rows. Those that are equal keep the order in which they appeared, so that no row moves
// without a reason.
func (o order) sort(rows []*connection, now time.Time) {
	compare := columns[o.column].compare
	slices.SortFunc(rows, func(a, b *connection) int {
		n := compare(a, b, now)
		if o.descending {
			n = -n
		}
		return cmp.Or(n, cmp.Compare(a.serial, b.serial))
	})
}

// placed is a column that is on the screen.
type placed struct{ column, width int }

// steps are how the columns come and grow with the width of the screen. Together the first ten have 80.
var steps = []placed{
	{columnProcess, 13},
	{columnPeer, 15},
	{columnState, 6},
	{columnLocal, 6},
	{columnAge, 6},
	{columnSent, 5},
	{columnReceived, 5},
	{columnRTT, 6},
	{columnRole, 6},
	{columnRetransmits, 3},
	{columnPeer, 21},
	{columnLocal, 21},
	{columnRate, 6},
	{columnProcess, 24},
	{columnEnd, 18},
	{columnProcess, 40},
	{columnEnd, 30},
	{columnPeer, 47},
	{columnLocal, 47},
}

// layout gives the columns for a screen of that width, in their order.
func layout(width int) (all []placed) {
	var widths [len(columns)]int
	for i, step := range steps {
		more := step.width - widths[step.column]
		if widths[step.column] == 0 && i > 0 {
			if width < more+1 {
				break // not a later one in its place: what there is to see grows with the screen
			}
			width--
		}
		more = min(more, width)
		widths[step.column] += more
		width -= more
	}
	for column, width := range widths {
		if width > 0 {
			all = append(all, placed{column, width})
		}
	}
	return all
}
