package conn

import (
	"math/rand/v2"
	"reflect"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connspan/connspan/internal/event"
)

func ev(kind event.Kind, cookie uint64, ordinal uint32) *event.Event {
	return &event.Event{Kind: kind, Cookie: cookie, Ordinal: ordinal, OldState: event.LastAck}
}

func apply(t *Table, events ...*event.Event) (kinds []event.Kind) {
	for _, e := range events {
		t.Apply(e, func(r *Record) { kinds = append(kinds, r.Kind) })
	}
	return kinds
}

func TestTable(t *testing.T) {
	const o, c, f, s = event.Opened, event.Closed, event.Failed, event.Sampled
	tests := []struct {
		name   string
		events []*event.Event
		want   Stats
	}{
		{"whole life", []*event.Event{ev(o, 1, 1), ev(c, 1, 2)}, Stats{Opened: 1, Closed: 1}},
		{"open", []*event.Event{ev(o, 1, 1), ev(o, 2, 1)}, Stats{Opened: 2, Open: 2}},
		{"failed", []*event.Event{ev(f, 1, 1)}, Stats{Failed: 1}},
		{"failed, then connected", []*event.Event{ev(f, 1, 1), ev(o, 1, 2), ev(c, 1, 3)}, Stats{Failed: 1, Opened: 1, Closed: 1}},
		{"two on one socket", []*event.Event{ev(o, 1, 1), ev(c, 1, 2), ev(o, 1, 3), ev(c, 1, 4)}, Stats{Opened: 2, Closed: 2}},
		{"older than the tracer", []*event.Event{ev(c, 1, 1)}, Stats{Closed: 1, Strays: 1}},
		{"opening lost", []*event.Event{ev(c, 1, 2)}, Stats{Closed: 1, Strays: 1, Gaps: 1}},
		{"closing lost, socket used again", []*event.Event{ev(o, 1, 1), ev(o, 1, 3)}, Stats{Opened: 2, Open: 1, Gaps: 1, Synthesized: 1}},
		{"opening lost, socket used again", []*event.Event{ev(o, 1, 1), ev(c, 1, 2), ev(c, 1, 4)}, Stats{Opened: 1, Closed: 2, Strays: 1, Gaps: 1}},
		{"sampled", []*event.Event{ev(o, 1, 1), ev(s, 1, 1), ev(c, 1, 2)}, Stats{Opened: 1, Closed: 1, Sampled: 1}},
		{"closed before opened", []*event.Event{ev(c, 1, 2), ev(o, 1, 1)}, Stats{Opened: 1, Closed: 1, Strays: 1, Gaps: 1, Violations: 1}},
		{"second opened before first closed", []*event.Event{ev(o, 1, 1), ev(o, 1, 3), ev(c, 1, 2), ev(c, 1, 4)}, Stats{Opened: 2, Closed: 2, Gaps: 1, Violations: 1, Synthesized: 1}},
		{"twice", []*event.Event{ev(o, 1, 1), ev(o, 1, 1)}, Stats{Opened: 2, Open: 1, Violations: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := NewTable()
			told := apply(table, tt.events...)
			if d := cmp.Diff(tt.want, table.Stats()); d != "" {
				t.Error(d)
			}
			if want := len(tt.events) + int(tt.want.Synthesized); len(told) != want {
				t.Errorf("%d events made %d records, want %d: each is told", len(tt.events), len(told), want)
			}
		})
	}
}

func TestAdopted(t *testing.T) {
	table := NewTable()
	adopted := func(cookie uint64, ordinal uint32, flags event.Flags) *event.Event {
		e := ev(event.Adopted, cookie, ordinal)
		e.Flags = flags
		return e
	}
	told := apply(table,
		adopted(1, 0, event.Preexisting), ev(event.Closed, 1, 1), // older than the tracer
		adopted(2, 1, 0), ev(event.Closed, 2, 2), // its opening was lost
		ev(event.Opened, 3, 1), adopted(3, 1, 0), // known
		ev(event.Closed, 4, 2), adopted(4, 1, 0), // over already
		adopted(5, 0, event.Preexisting),
	)
	want := Stats{Opened: 1, Closed: 3, Adopted: 3, Repeated: 2, Strays: 1, Open: 2, Gaps: 1}
	if d := cmp.Diff(want, table.Stats()); d != "" {
		t.Error(d)
	}
	if len(told) != 7 {
		t.Errorf("told %v, want all but the two repeated", told)
	}
}

func TestReconcile(t *testing.T) {
	table := NewTable()
	for cookie, time := range []uint64{10, 20, 30, 40} {
		e := ev(event.Opened, uint64(cookie+1), 1)
		e.Time, e.Began, e.Established = time, 1, 2
		apply(table, e)
	}
	var told []uint64
	table.Reconcile(35, 50, func(cookie uint64) bool { return cookie == 2 }, func(r *Record) {
		told = append(told, r.Cookie)
		if _, ok := r.Duration(); ok || !r.Synthesized || r.Kind != event.Closed || r.Time != 50 || r.Reason != Unknown {
			t.Errorf("record %+v, want an end of which nothing is known", r)
		}
	})
	if d := cmp.Diff([]uint64{1, 3}, told); d != "" {
		t.Errorf("closed sockets:\n%s", d)
	}
	if d := cmp.Diff(Stats{Opened: 4, Synthesized: 2, Open: 2}, table.Stats()); d != "" {
		t.Error(d)
	}
	apply(table, ev(event.Closed, 1, 2))
	if s := table.Stats(); s.Violations != 1 {
		t.Errorf("stats %+v: the end of a connection that is over goes unnoticed", s)
	}
}

func TestReport(t *testing.T) {
	table := NewTable()
	var got [][2]uint32
	table.Report = func(e *event.Event, last uint32) { got = append(got, [2]uint32{e.Ordinal, last}) }
	apply(table, ev(event.Opened, 1, 1), ev(event.Opened, 1, 3), ev(event.Closed, 1, 2), ev(event.Closed, 1, 4), ev(event.Closed, 2, 1))
	if d := cmp.Diff([][2]uint32{{3, 1}, {2, 3}}, got); d != "" {
		t.Errorf("ordinals out of step, and the last ones before:\n%s", d)
	}
}

// TestSince: over all its records each octet of a connection is new once, whatever was sampled on the way.
func TestSince(t *testing.T) {
	carrying := func(kind event.Kind, ordinal uint32, sent, received uint64, retransmits uint32, flags event.Flags) *event.Event {
		e := ev(kind, 1, ordinal)
		e.BytesSent, e.BytesReceived, e.Retransmits, e.Flags = sent, received, retransmits, flags
		return e
	}
	tests := []struct {
		name   string
		events []*event.Event
		want   []Totals
	}{
		{
			"sampled",
			[]*event.Event{
				carrying(event.Opened, 1, 5, 0, 1, 0), // what a SYN carried (RFC 7413)
				carrying(event.Sampled, 1, 100, 10, 1, 0),
				carrying(event.Sampled, 1, 90, 10, 1, 0), // read while it moved
				carrying(event.Closed, 2, 120, 30, 3, 0),
			},
			[]Totals{{5, 0, 1}, {95, 10, 0}, {}, {20, 20, 2}},
		},
		{"not sampled", []*event.Event{carrying(event.Opened, 1, 0, 0, 0, 0), carrying(event.Closed, 2, 7, 8, 9, 0)}, []Totals{{}, {7, 8, 9}}},
		{
			"older than the tracer",
			[]*event.Event{
				carrying(event.Adopted, 0, 1000, 1000, 9, event.Preexisting), carrying(event.Closed, 1, 1001, 1002, 9, event.Preexisting),
			},
			[]Totals{{}, {1, 2, 0}},
		},
		{"opening lost", []*event.Event{carrying(event.Adopted, 1, 10, 0, 0, 0), carrying(event.Closed, 2, 11, 0, 0, 0)}, []Totals{{10, 0, 0}, {1, 0, 0}}},
		{"opening never told", []*event.Event{carrying(event.Closed, 2, 11, 0, 0, 0)}, []Totals{{11, 0, 0}}},
		{"older and never told", []*event.Event{carrying(event.Closed, 1, 11, 0, 0, event.Preexisting)}, []Totals{{}}},
		{"failed", []*event.Event{carrying(event.Failed, 1, 0, 0, 6, 0)}, []Totals{{0, 0, 6}}},
		{"sampled before it is known", []*event.Event{carrying(event.Sampled, 1, 10, 0, 0, 0), carrying(event.Adopted, 1, 11, 0, 0, 0)}, []Totals{{11, 0, 0}}},
		{
			"sample of the socket's next connection", []*event.Event{carrying(event.Opened, 1, 0, 0, 0, 0), carrying(event.Sampled, 3, 10, 0, 0, 0)}, []Totals{{}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := NewTable()
			var got []Totals
			for _, e := range tt.events {
				table.Apply(e, func(r *Record) { got = append(got, r.Since) })
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestLateIsForgotten: what is told of a connection later is not late because its opening was.
func TestLateIsForgotten(t *testing.T) {
	table := NewTable()
	opened := ev(event.Opened, 1, 1)
	opened.Late, opened.OldState = true, event.SynSent
	var told []bool
	tell := func(r *Record) {
		told = append(told, r.Late)
		if r.Kind == event.Sampled && r.OldState != event.Established {
			t.Errorf("state %d while it is open, want established", r.OldState)
		}
	}
	table.Apply(opened, tell)
	table.Heartbeat(10, 0, tell)
	table.Reconcile(10, 11, func(uint64) bool { return false }, tell)
	if d := cmp.Diff([]bool{true, false, false}, told); d != "" {
		t.Errorf("late:\n%s", d)
	}
}

func TestHeartbeat(t *testing.T) {
	table := NewTable()
	for cookie, time := range []uint64{10, 20, 30} {
		e := ev(event.Opened, uint64(cookie+1), 1)
		e.Time, e.Established = time, time
		apply(table, e)
	}
	sampled := ev(event.Sampled, 2, 1)
	sampled.BytesSent = 7
	apply(table, sampled)
	var got []Record
	table.Heartbeat(125, 100, func(r *Record) {
		if d, ok := r.Duration(); !ok || d != time.Duration(125-r.Established) {
			t.Errorf("duration %v, %v", d, ok)
		}
		got = append(got, Record{Event: &event.Event{Kind: r.Kind, Cookie: r.Cookie, Time: r.Time, BytesSent: r.BytesSent}})
	})
	want := []Record{
		{Event: &event.Event{Kind: event.Sampled, Cookie: 1, Time: 125}},
		{Event: &event.Event{Kind: event.Sampled, Cookie: 2, Time: 125, BytesSent: 7}},
	}
	if d := cmp.Diff(want, got, cmp.Exporter(func(reflect.Type) bool { return true })); d != "" {
		t.Error(d)
	}
	open := 0
	table.Each(func(e *event.Event) { open += int(e.Ordinal) })
	if open != 3 || table.Stats().Open != 3 {
		t.Errorf("%d connections after the heartbeat, want the 3 as they were", open)
	}
}

func TestTableForgetsEnded(t *testing.T) {
	table := NewTable()
	for cookie := range uint64(3 * len(table.ended.cookies)) {
		apply(table, ev(event.Closed, cookie+1, 2))
	}
	if n := len(table.ended.ordinals); n > len(table.ended.cookies) {
		t.Errorf("%d ended kept, want at most %d", n, len(table.ended.cookies))
	}
}

func TestTableKeepsNoEvent(t *testing.T) {
	table := NewTable()
	e := ev(event.Opened, 1, 1)
	apply(table, e)
	e.Ordinal = 9
	apply(table, ev(event.Closed, 1, 2))
	if s := table.Stats(); s.Violations != 0 || s.Gaps != 0 {
		t.Errorf("stats %+v: the table has kept the caller's event", s)
	}
}

// TestFilter: whatever the filter would say of a connection later, everything is told of it, or nothing;
// told and filtered ones have totals of their own, which add up.
func TestFilter(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	table := NewTable()
	table.Filter = func(*event.Event) bool { return r.IntN(2) == 0 }
	told := map[uint64]bool{} // by cookie: of those that are open
	tell := func(r *Record) {
		switch {
		case r.Kind == event.Opened || r.Kind == event.Adopted:
			told[r.Cookie] = true
		case r.Kind != event.Failed && !r.Stray && !told[r.Cookie]:
			t.Fatalf("%+v of a connection of which nothing was told", r.Event)
		case r.Kind == event.Closed:
			delete(told, r.Cookie)
		}
	}
	lives := [][]event.Kind{
		{event.Opened, event.Sampled, event.Closed},
		{event.Adopted, event.Adopted, event.Closed},
		{event.Failed},
		{event.Closed},
		{event.Opened},
		{event.Opened, event.Closed, event.Adopted},
	}
	events := uint64(0)
	for cookie := range uint64(5000) {
		ordinal := uint32(0)
		for _, kind := range lives[r.IntN(len(lives))] {
			if kind != event.Sampled && kind != event.Adopted {
				ordinal++
			}
			e := ev(kind, cookie, ordinal)
			events++
			table.Apply(e, tell)
		}
	}
	open := table.Stats().Open
	table.Each(func(e *event.Event) {
		if open--; !told[e.Cookie] {
			t.Errorf("%+v is open, and nothing was told of it", e)
		}
	})
	if open != 0 || table.Filtered().Open == 0 {
		t.Errorf("%d more are open than there are; filtered %+v", open, table.Filtered())
	}
	table.Reconcile(1, 1, func(uint64) bool { return false }, tell)
	if len(told) != 0 {
		t.Errorf("%d connections have not ended", len(told))
	}
	for _, s := range []Stats{table.Stats(), table.Filtered()} {
		if s.Opened+s.Adopted != s.Closed-s.Strays+s.Synthesized || s.Open != 0 || s.Connections() < 2000 {
			t.Errorf("%+v does not add up", s)
		}
	}
	if got := table.Stats().Events() + table.Filtered().Events(); got != events {
		t.Errorf("%d events are counted, want %d", got, events)
	}
}

// TestTableRandom: whatever comes, nothing panics and the totals add up.
func TestTableRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	table := NewTable()
	told := uint64(0)
	for range 100_000 {
		e := ev(event.Kind(1+r.IntN(5)), uint64(r.IntN(50)), uint32(1+r.IntN(6)))
		e.BytesSent = r.Uint64N(1000)
		table.Apply(e, func(r *Record) {
			if r.Kind != event.Sampled {
				told++
			}
			if r.Since.BytesSent >= 1000 {
				t.Fatalf("%d octets are new, of %d", r.Since.BytesSent, e.BytesSent)
			}
		})
	}
	s := table.Stats()
	if s.Opened+s.Closed+s.Failed+s.Adopted+s.Synthesized != told || told-s.Synthesized+s.Repeated+s.Sampled != 100_000 || s.Open > 50 {
		t.Errorf("%d told, stats %+v", told, s)
	}
}

func TestJudgeClosed(t *testing.T) {
	const gone = event.Shut | event.Dead
	type want struct {
		Reason    Reason
		Initiator Initiator
		ErrorType string
	}
	tests := []struct {
		name string
		e    event.Event
		want want
	}{
		{"server closed first", event.Event{OldState: event.LastAck, Closer: event.CloserPeer, Flags: gone | event.FINReceived}, want{FIN, InitiatorPeer, ""}},
		{"closed first", event.Event{OldState: event.FinWait2, Closer: event.CloserLocal, Flags: gone | event.FINReceived}, want{FIN, InitiatorLocal, ""}},
		{"closed first, left to a time-wait socket", event.Event{OldState: event.FinWait2, Closer: event.CloserLocal, Flags: gone}, want{FIN, InitiatorLocal, ""}},
		{"FINs crossed", event.Event{OldState: event.Closing, Closer: event.CloserBoth, Flags: gone | event.FINReceived}, want{FIN, InitiatorBoth, ""}},
		{"RST received", event.Event{OldState: event.Established, Errno: uint32(syscall.ECONNRESET)}, want{ResetReceived, InitiatorPeer, "connection_reset"}},
		{"RST in CLOSE_WAIT", event.Event{OldState: event.CloseWait, Closer: event.CloserPeer, Errno: uint32(syscall.EPIPE)}, want{ResetReceived, InitiatorPeer, "connection_reset"}},
		{"RST after our FIN", event.Event{OldState: event.FinWait1, Closer: event.CloserLocal, Errno: uint32(syscall.ECONNRESET)}, want{ResetReceived, InitiatorLocal, "connection_reset"}},
		{"linger 0", event.Event{OldState: event.Established, Flags: event.Shut}, want{ResetSent, InitiatorLocal, "connection_aborted"}},
		{"unread data after the peer's FIN", event.Event{OldState: event.CloseWait, Closer: event.CloserPeer, Flags: event.Shut}, want{ResetSent, InitiatorPeer, "connection_aborted"}},
		{"TCP_LINGER2 below 0", event.Event{OldState: event.FinWait2, Closer: event.CloserLocal, Flags: gone | event.Linger2}, want{ResetSent, InitiatorLocal, "connection_aborted"}},
		{"destroyed", event.Event{OldState: event.Established, Errno: uint32(syscall.ECONNABORTED)}, want{ResetSent, InitiatorLocal, "connection_aborted"}},
		{"timed out", event.Event{OldState: event.Established, Errno: uint32(syscall.ETIMEDOUT)}, want{Timeout, InitiatorLocal, "timed_out"}},
		{"unreachable", event.Event{OldState: event.Established, Errno: uint32(syscall.EHOSTUNREACH)}, want{Timeout, InitiatorLocal, "host_unreachable"}},
		{"connect(AF_UNSPEC)", event.Event{OldState: event.Established}, want{Disconnect, InitiatorLocal, "connection_aborted"}},
		{"never accepted", event.Event{OldState: event.Established, Flags: event.Unaccepted}, want{ListenerClosed, InitiatorLocal, "connection_aborted"}},
		{"port unreachable, then timed out", event.Event{OldState: event.Established, Errno: uint32(syscall.ECONNREFUSED)}, want{Timeout, InitiatorLocal, "connection_refused"}},
		{"FIN timed out, port unreachable", event.Event{OldState: event.FinWait1, Closer: event.CloserLocal, Flags: gone, Errno: uint32(syscall.ECONNREFUSED)}, want{Timeout, InitiatorLocal, "connection_refused"}},
		{"other error", event.Event{OldState: event.Established, Errno: uint32(syscall.EBADMSG)}, want{Unknown, InitiatorUnknown, "_OTHER"}},
		{"nameless error", event.Event{OldState: event.Established, Errno: 4095}, want{Unknown, InitiatorUnknown, "_OTHER"}},
		{"preexisting, in LAST_ACK", event.Event{OldState: event.LastAck, Flags: gone | event.Preexisting}, want{FIN, InitiatorPeer, ""}},
		{"preexisting, in FIN_WAIT2", event.Event{OldState: event.FinWait2, Flags: gone | event.Preexisting}, want{FIN, InitiatorLocal, ""}},
		{"preexisting, reset", event.Event{OldState: event.Established, Errno: uint32(syscall.ECONNRESET), Flags: event.Preexisting}, want{ResetReceived, InitiatorPeer, "connection_reset"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.e.Kind = event.Closed
			r := judge(&tt.e)
			if d := cmp.Diff(tt.want, want{r.Reason, r.Initiator, r.ErrorType}); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestJudgeFailed(t *testing.T) {
	tests := []struct {
		name  string
		errno syscall.Errno
		segs  uint32
		flags event.Flags
		want  string
	}{
		{"refused", syscall.ECONNREFUSED, 1, 0, "connection_refused"},
		{"timed out", syscall.ETIMEDOUT, 2, 0, "timed_out"},
		{"unreachable", syscall.ENETUNREACH, 1, 0, "network_unreachable"},
		{"given up", 0, 1, 0, "connection_aborted"},
		{"killed", 0, 1, event.Exiting, "interrupted"},
		{"no port left, or the tuple in use", 0, 0, 0, "address_not_available"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := event.Event{Kind: event.Failed, OldState: event.SynSent, Errno: uint32(tt.errno), Flags: tt.flags, SegsOut: tt.segs}
			if r := judge(&e); r.ErrorType != tt.want || r.Reason != "" {
				t.Errorf("error type %q reason %q, want %q and none", r.ErrorType, r.Reason, tt.want)
			}
		})
	}
}

func TestTimes(t *testing.T) {
	type want struct {
		Handshake, Duration     time.Duration
		HasHandshake, HasLength bool
	}
	tests := []struct {
		name string
		e    event.Event
		want want
	}{
		{"whole", event.Event{Began: 10, Established: 15, Time: 115}, want{5, 105, true, true}},
		{"beginning unknown", event.Event{Established: 15, Time: 115}, want{0, 100, false, true}},
		{"attempt", event.Event{Began: 10, Time: 115}, want{0, 105, false, true}},
		{"nothing known", event.Event{Time: 115}, want{}},
		{"clock ran back", event.Event{Began: 120, Established: 119, Time: 115}, want{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := Record{Event: &tt.e}
			var got want
			got.Handshake, got.HasHandshake = r.Handshake()
			got.Duration, got.HasLength = r.Duration()
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestIDIsTheSameAtBothEnds(t *testing.T) {
	client := Record{Event: &event.Event{Role: event.Client, LocalISN: 1, PeerISN: 2, Flags: event.HasISN}}
	server := Record{Event: &event.Event{Role: event.Server, LocalISN: 2, PeerISN: 1, Flags: event.HasISN}}
	a, okA := client.ID()
	b, okB := server.ID()
	if !okA || !okB || a != b || a != [8]byte{0, 0, 0, 1, 0, 0, 0, 2} {
		t.Errorf("client %x %v, server %x %v", a, okA, b, okB)
	}
	if _, ok := (&Record{Event: &event.Event{LocalISN: 1, PeerISN: 2}}).ID(); ok {
		t.Error("an unknown id is given")
	}
}
