package conn

import (
	"cmp"
	"slices"

	"github.com/connspan/connspan/internal/event"
)

// Stats are totals since the table was made, but for Open. Each event applied is counted in one of
// Opened, Closed, Failed, Adopted, Repeated and Sampled, and
//
//	Opened + Adopted = Open + Closed - Strays + Synthesized
//
// as long as Gaps and Violations are 0. The connections that are told of and those that are filtered have
// Stats of their own.
type Stats struct {
	Opened      uint64
	Closed      uint64
	Failed      uint64
	Adopted     uint64 // found open: older than the tracer, or their opening was lost
	Repeated    uint64 // found open, and known to be
	Sampled     uint64 // told what an open connection has carried so far
	Strays      uint64 // of Closed: not in the table
	Synthesized uint64 // closed by Reconcile, or by the next opening of the socket
	Open        int    // connections in the table
	Gaps        uint64 // events that a connection's ordinals show to be missing
	Violations  uint64 // events behind a later one of the same socket; 0 unless the order is broken
}

// A Table holds the open connections, by socket cookie: addresses and tuples are used again within
// milliseconds, cookies never are. It is a pure state machine, bounded by the kernel's own sockets
// plus a fixed memory of ended ones, and not safe for concurrent use.
//
// Per connection it keeps one Event of about 200 octets and a map entry.
type Table struct {
	// Report, where there is one, is given each event whose ordinal does not follow the last that
	// is known of its socket: a violation of the order where it is not above last, else a gap. It
	// must not keep the event.
	Report func(e *event.Event, last uint32)
	// Filter, where there is one, says whether the connection of e is to be told of. It is asked once for
	// each connection, about the first event that the table gets of it: whatever becomes known of the
	// connection later, all of it is told, or nothing. It must not keep the event.
	Filter func(e *event.Event) bool

	open     map[uint64]*event.Event // what was said at its opening, with its newest totals
	ended    ended
	stats    Stats // of the connections that are told of
	filtered Stats // of the others
}

// NewTable makes an empty table.
func NewTable() *Table {
	return &Table{open: make(map[uint64]*event.Event), ended: ended{ordinals: make(map[uint64]uint32)}}
}

// Connections is how many there were: each has begun in one way.
func (s Stats) Connections() uint64 { return s.Opened + s.Failed + s.Adopted + s.Strays }

// Events is how many were applied.
func (s Stats) Events() uint64 {
	return s.Opened + s.Closed + s.Failed + s.Adopted + s.Repeated + s.Sampled
}

// Apply takes the next event of the ordered stream and gives tell what is to be told of it. It
// keeps no reference to e.
func (t *Table) Apply(e *event.Event, tell func(*Record)) {
	t.check(e)
	e.Filtered = t.filters(e)
	stats := t.statsOf(e)
	r := judge(e)
	switch e.Kind {
	case event.Opened:
		stats.Opened++
		t.supersede(e, tell)
		t.enter(e)
		r.Since = totals(e)
	case event.Closed:
		stats.Closed++
		_, known := t.open[e.Cookie]
		r.Stray = !known
		r.Since = t.leave(e)
	case event.Failed:
		stats.Failed++
		t.end(e)
		r.Since = totals(e)
	case event.Adopted:
		if t.knows(e) {
			stats.Repeated++
			return
		}
		stats.Adopted++
		t.enter(e)
		r.Since = unseen(e)
	case event.Sampled:
		stats.Sampled++
		known, ok := t.open[e.Cookie]
		if !ok || known.Ordinal != e.Ordinal {
			return // over, or its opening is still owed: that will say it
		}
		r.Since = update(known, e)
	}
	if !e.Filtered {
		tell(&r)
	}
}

// filters reports whether the connection of e is not to be told of, as it was decided when it began.
func (t *Table) filters(e *event.Event) bool {
	known, ok := t.open[e.Cookie]
	switch {
	case ok && e.Kind != event.Opened && e.Kind != event.Failed:
		return known.Filtered
	case e.Kind == event.Sampled:
		return false // over, or not known yet: it tells nothing
	}
	return t.Filter != nil && !t.Filter(e)
}

// statsOf gives those that count e.
func (t *Table) statsOf(e *event.Event) *Stats {
	if e.Filtered {
		return &t.filtered
	}
	return &t.stats
}

// knows reports whether the connection of an Adopted is in the table, or has ended.
func (t *Table) knows(e *event.Event) bool {
	if _, ok := t.open[e.Cookie]; ok {
		return true
	}
	last, ok := t.ended.ordinals[e.Cookie]
	return ok && e.Ordinal <= last
}

// unseen is what a connection of which nothing was known until e has carried since it is traced:
// unknown, hence nothing, where it is older.
func unseen(e *event.Event) Totals {
	if e.Has(event.Preexisting) {
		return Totals{}
	}
	return totals(e)
}

// update brings the totals and the owner of a known connection up to e, and gives what is new.
func update(known, e *event.Event) Totals {
	since := totals(e).less(totals(known))
	known.BytesSent += since.BytesSent
	known.BytesReceived += since.BytesReceived
	known.Retransmits += uint32(since.Retransmits)
	known.SegsOut, known.SegsIn = e.SegsOut, e.SegsIn
	known.SRTT, known.MinRTT = e.SRTT, e.MinRTT
	known.OldState = e.OldState
	known.PID, known.UID, known.OwnerStarted, known.Comm, known.OwnerSource = e.PID, e.UID, e.OwnerStarted, e.Comm, e.OwnerSource
	return since
}

// Each calls f with every open connection that is told of, in the order of their sockets: what its
// opening said, with its newest totals. f must not keep the event.
func (t *Table) Each(f func(*event.Event)) {
	for _, e := range t.sorted(func(e *event.Event) bool { return !e.Filtered }) {
		f(e)
	}
}

// Heartbeat tells, in the order of their sockets, of the connections that at time now have been in
// the table for longer than after, in nanoseconds: a Sampled with their newest totals.
func (t *Table) Heartbeat(now, after uint64, tell func(*Record)) {
	for _, known := range t.sorted(func(e *event.Event) bool { return !e.Filtered && e.Time+after <= now }) {
		beat := *known
		beat.Kind, beat.Time = event.Sampled, now
		tell(&Record{Event: &beat})
	}
}

// sorted gives the connections that are wanted, by cookie, so that the same table tells the same.
func (t *Table) sorted(wanted func(*event.Event) bool) (found []*event.Event) {
	for _, e := range t.open {
		if wanted(e) {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b *event.Event) int { return cmp.Compare(a.Cookie, b.Cookie) })
	return found
}

// Reconcile ends the connections that are gone: those that were entered before time from, of which
// has says that the kernel no longer has them. Every event up to time now, when has was asked of
// the kernel, must have been applied: then what would have told of their ends is lost.
func (t *Table) Reconcile(from, now uint64, has func(cookie uint64) bool, tell func(*Record)) {
	for _, e := range t.sorted(func(e *event.Event) bool { return e.Time < from && !has(e.Cookie) }) {
		t.synthesize(e, now, tell)
	}
}

// synthesize ends a connection whose own last event is lost.
func (t *Table) synthesize(known *event.Event, now uint64, tell func(*Record)) {
	t.remove(known)
	t.statsOf(known).Synthesized++
	known.Kind, known.Time = event.Closed, now
	known.Ordinal++ // of the event that is lost
	t.ended.add(known.Cookie, known.Ordinal)
	if !known.Filtered {
		tell(&Record{Event: known, Reason: Unknown, Initiator: InitiatorUnknown, Synthesized: true})
	}
}

// supersede ends the connection that e's socket had before, if it is still in the table.
func (t *Table) supersede(e *event.Event, tell func(*Record)) {
	if known, ok := t.open[e.Cookie]; ok && known.Ordinal < e.Ordinal {
		t.synthesize(known, e.Time, tell)
	}
}

// Stats gives the totals of the connections that are told of, and all Gaps and Violations.
func (t *Table) Stats() Stats { return t.stats }

// Filtered gives the totals of the other connections.
func (t *Table) Filtered() Stats { return t.filtered }

// check holds the event's ordinal, which the socket's own lock has made, against the newest one
// that is known of the socket.
func (t *Table) check(e *event.Event) {
	if e.Kind == event.Adopted || e.Kind == event.Sampled {
		return // it has no ordinal of its own
	}
	last := uint32(0)
	if o, ok := t.open[e.Cookie]; ok {
		last = o.Ordinal
	} else if o, ok := t.ended.ordinals[e.Cookie]; ok {
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
	if last, ok := t.ended.ordinals[e.Cookie]; ok && e.Ordinal <= last {
		return // its end has been told: to enter it would leave it open for ever
	}
	opened := *e
	opened.Late = false // what is told of it later is not
	if e.Kind == event.Opened {
		opened.OldState = event.Established
	}
	if known, ok := t.open[e.Cookie]; ok {
		t.remove(known)
	}
	t.open[e.Cookie] = &opened
	t.statsOf(e).Open++
}

func (t *Table) remove(known *event.Event) {
	delete(t.open, known.Cookie)
	t.statsOf(known).Open--
}

// leave takes the connection of a Closed out of the table and gives what is new in its totals.
func (t *Table) leave(e *event.Event) Totals {
	known, ok := t.open[e.Cookie]
	if !ok {
		t.statsOf(e).Strays++
		t.ended.add(e.Cookie, e.Ordinal)
		return unseen(e)
	}
	if e.Ordinal <= known.Ordinal {
		return Totals{} // the end of an earlier connection on the socket, which has been told
	}
	t.remove(known)
	t.end(e)
	return totals(e).less(totals(known))
}

// end remembers a socket that may be used again, since a process still holds it.
func (t *Table) end(e *event.Event) {
	if !e.Has(event.Dead) {
		t.ended.add(e.Cookie, e.Ordinal)
	}
}

// ended remembers the last ordinals of the latest sockets that ended without having been seen to
// begin, or may begin again: a beginning that comes behind its end is found out, and what is missing
// between two connections of a socket is counted right.
type ended struct {
	ordinals map[uint64]uint32
	cookies  [4096]uint64 // in order of arrival, around
	next     int
}

func (s *ended) add(cookie uint64, ordinal uint32) {
	if _, ok := s.ordinals[cookie]; !ok {
		delete(s.ordinals, s.cookies[s.next])
		s.cookies[s.next] = cookie
		s.next = (s.next + 1) % len(s.cookies)
	}
	s.ordinals[cookie] = ordinal
}
