package conn

import (
	"cmp"
	"slices"

	"github.com/connspan/connspan/internal/event"
)

// Stats are totals since the table was made, but for Open. Each event applied is counted in one of
// Opened, Closed, Failed, Adopted and Repeated, and
//
//	Opened + Adopted = Open + Closed - Strays + Synthesized
//
// as long as Gaps and Violations are 0.
type Stats struct {
	Opened      uint64
	Closed      uint64
	Failed      uint64
	Adopted     uint64 // found open: older than the tracer, or their opening was lost
	Repeated    uint64 // found open, and known to be
	Strays      uint64 // of Closed: not in the table
	Synthesized uint64 // closed by Reconcile
	Open        int    // connections in the table
	Gaps        uint64 // events that a connection's ordinals show to be missing
	Violations  uint64 // events behind a later one of the same socket; 0 unless the order is broken
}

// A Table holds the open connections, by socket cookie: addresses and tuples are used again within
// milliseconds, cookies never are. It is a pure state machine, bounded by the kernel's own sockets
// plus a fixed memory of strays, and not safe for concurrent use.
//
// Per connection it keeps one Event of about 200 octets and a map entry.
type Table struct {
	// Report, where there is one, is given each event whose ordinal does not follow the last that
	// is known of its socket: a violation of the order where it is not above last, else a gap. It
	// must not keep the event.
	Report func(e *event.Event, last uint32)

	open   map[uint64]*event.Event // what was said at its opening
	strays strays
	stats  Stats
}

// NewTable makes an empty table.
func NewTable() *Table {
	return &Table{open: make(map[uint64]*event.Event), strays: strays{ordinals: make(map[uint64]uint32)}}
}

// Apply takes the next event of the ordered stream and gives tell what is to be told of it. It
// keeps no reference to e.
func (t *Table) Apply(e *event.Event, tell func(*Record)) {
	t.check(e)
	switch e.Kind {
	case event.Opened:
		t.stats.Opened++
		t.enter(e)
	case event.Closed:
		t.stats.Closed++
		t.leave(e)
	case event.Failed:
		t.stats.Failed++
	case event.Adopted:
		if t.knows(e) {
			t.stats.Repeated++
			return
		}
		t.stats.Adopted++
		t.enter(e)
	}
	r := judge(e)
	tell(&r)
}

// knows reports whether the connection of an Adopted is in the table, or has ended.
func (t *Table) knows(e *event.Event) bool {
	if _, ok := t.open[e.Cookie]; ok {
		return true
	}
	last, ok := t.strays.ordinals[e.Cookie]
	return ok && e.Ordinal <= last
}

// Reconcile ends the connections that are gone: those that were entered before time from, of which
// has says that the kernel no longer has them. Every event up to time now, when has was asked of
// the kernel, must have been applied: then what would have told of their ends is lost.
func (t *Table) Reconcile(from, now uint64, has func(cookie uint64) bool, tell func(*Record)) {
	var gone []*event.Event
	for cookie, e := range t.open {
		if e.Time < from && !has(cookie) {
			gone = append(gone, e)
		}
	}
	slices.SortFunc(gone, func(a, b *event.Event) int { return cmp.Compare(a.Cookie, b.Cookie) })
	for _, e := range gone {
		delete(t.open, e.Cookie)
		t.stats.Synthesized++
		e.Kind, e.Time = event.Closed, now
		e.Ordinal++ // of the event that is lost
		t.strays.add(e.Cookie, e.Ordinal)
		tell(&Record{Event: e, Reason: Unknown, Initiator: InitiatorUnknown, Synthesized: true})
	}
}

// Stats gives the totals.
func (t *Table) Stats() Stats {
	s := t.stats
	s.Open = len(t.open)
	return s
}

// check holds the event's ordinal, which the socket's own lock has made, against the newest one
// that is known of the socket.
func (t *Table) check(e *event.Event) {
	if e.Kind == event.Adopted {
		return // it has no ordinal of its own
	}
	last := uint32(0)
	if o, ok := t.open[e.Cookie]; ok {
		last = o.Ordinal
	} else if o, ok := t.strays.ordinals[e.Cookie]; ok {
		last = o
	} else if e.Kind != event.Closed {
		return // the socket's first connection, or a later one of which the earlier are forgotten
	}
	switch {
	case e.Ordinal == last+1:
		return
	case e.Ordinal <= last:
		t.stats.Violations++
	default:
		t.stats.Gaps += uint64(e.Ordinal - last - 1)
	}
	if t.Report != nil {
		t.Report(e, last)
	}
}

func (t *Table) enter(e *event.Event) {
	if last, ok := t.strays.ordinals[e.Cookie]; ok && e.Ordinal <= last {
		return // its end has been told: to enter it would leave it open for ever
	}
	opened := *e
	t.open[e.Cookie] = &opened
}

func (t *Table) leave(e *event.Event) {
	if opened, ok := t.open[e.Cookie]; ok {
		if e.Ordinal > opened.Ordinal { // else it is the end of an earlier connection on the socket
			delete(t.open, e.Cookie)
		}
		return
	}
	t.stats.Strays++
	t.strays.add(e.Cookie, e.Ordinal)
}

// strays remembers the latest sockets that ended without having been seen to begin, so that a
// beginning that comes behind its end is found out.
type strays struct {
	ordinals map[uint64]uint32
	cookies  [4096]uint64 // in order of arrival, around
	next     int
}

func (s *strays) add(cookie uint64, ordinal uint32) {
	delete(s.ordinals, s.cookies[s.next])
	s.cookies[s.next] = cookie
	s.next = (s.next + 1) % len(s.cookies)
	s.ordinals[cookie] = ordinal
}
