package coverage

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/connspan/connspan/internal/conn"
	"github.com/connspan/connspan/internal/event"
)

func TestParse(t *testing.T) {
	const names = "Tcp: RtoMin MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab\n"
	for _, tt := range []struct{ name, text, err string }{
		{"all there is", "Ip: Forwarding\nIp: 1\n" + names + "Tcp: 200 -1 5 4 3 2 1\nUdp: InDatagrams\nUdp: 7\n", ""},
		{"empty", "", "no counters of TCP"},
		{"names alone", names, "no counters of TCP"},
		{"too few", names + "Tcp: 1 2\n", "2 values of 7 names"},
		{"no number", names + "Tcp: 200 -1 five 4 3 2 1\n", "ActiveOpens: "},
		{"one is missing", "Tcp: ActiveOpens PassiveOpens AttemptFails EstabResets\nTcp: 1 2 3 4\n", "no CurrEstab"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parse([]byte(tt.text))
			if tt.err == "" {
				if d := cmp.Diff(Counters{5, 4, 3, 2, 1}, got); d != "" || err != nil {
					t.Errorf("error %v, counters (-want +got):\n%s", err, d)
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
		})
	}
}

// TestAdd: what the kernel has counted since time 100.
func TestAdd(t *testing.T) {
	const o, a, c, f = event.Opened, event.Adopted, event.Closed, event.Failed
	for _, tt := range []struct {
		name string
		r    conn.Record
		want Counters
	}{
		{"client", conn.Record{Event: &event.Event{Kind: o, Role: event.Client, Began: 101, Established: 102, Time: 102}}, Counters{ActiveOpens: 1, CurrEstab: 1}},
		{"client, SYN before", conn.Record{Event: &event.Event{Kind: o, Role: event.Client, Began: 100, Established: 102, Time: 102}}, Counters{CurrEstab: 1}},
		{"server", conn.Record{Event: &event.Event{Kind: o, Role: event.Server, Established: 102, Time: 102}}, Counters{PassiveOpens: 1, CurrEstab: 1}},
		{"before, told later", conn.Record{Event: &event.Event{Kind: o, Role: event.Server, Established: 100, Time: 100}}, Counters{}},
		{"older than the tracer", conn.Record{Event: &event.Event{Kind: a, Role: event.Client, Time: 150, Flags: event.Preexisting}}, Counters{}},
		{"opening lost", conn.Record{Event: &event.Event{Kind: a, Role: event.Client, Began: 101, Established: 102, Time: 150}}, Counters{ActiveOpens: 1, CurrEstab: 1}},
		{"opening lost before", conn.Record{Event: &event.Event{Kind: a, Role: event.Server, Established: 90, Time: 150}}, Counters{}},
		{"no program run at its opening", conn.Record{Event: &event.Event{Kind: a, Role: event.Server, Time: 150}}, Counters{PassiveOpens: 1, CurrEstab: 1}},
		{"refused", conn.Record{Event: &event.Event{Kind: f, Role: event.Client, OldState: event.SynSent, Began: 101, Time: 102, SegsOut: 1, Errno: 111}}, Counters{ActiveOpens: 1, AttemptFails: 1}},
		{"refused, SYN before", conn.Record{Event: &event.Event{Kind: f, Role: event.Client, OldState: event.SynSent, Began: 99, Time: 102, SegsOut: 1, Errno: 111}}, Counters{AttemptFails: 1}},
		{"given up", conn.Record{Event: &event.Event{Kind: f, Role: event.Client, OldState: event.SynSent, Began: 101, Time: 102, SegsOut: 1}}, Counters{ActiveOpens: 1}},
		{"no port", conn.Record{Event: &event.Event{Kind: f, Role: event.Client, OldState: event.SynSent, Began: 101, Time: 102}}, Counters{}},
		{"failed in SYN_RECV", conn.Record{Event: &event.Event{Kind: f, Role: event.Server, OldState: event.SynRecv, Time: 102, Errno: 104}}, Counters{PassiveOpens: 1, AttemptFails: 1}},
		{"reset", conn.Record{Event: &event.Event{Kind: c, OldState: event.Established, Time: 102}}, Counters{EstabResets: 1, CurrEstab: -1}},
		{"reset before", conn.Record{Event: &event.Event{Kind: c, OldState: event.Established, Time: 100}}, Counters{}},
		{"reset behind the peer's FIN", conn.Record{Event: &event.Event{Kind: c, OldState: event.CloseWait, Closer: event.CloserPeer, FirstFIN: 90, Time: 102}}, Counters{EstabResets: 1, CurrEstab: -1}},
		{"reset behind the own FIN", conn.Record{Event: &event.Event{Kind: c, OldState: event.FinWait1, Closer: event.CloserLocal, FirstFIN: 101, Time: 102}}, Counters{CurrEstab: -1}},
		{"half closed before", conn.Record{Event: &event.Event{Kind: c, OldState: event.FinWait2, Closer: event.CloserLocal, FirstFIN: 99, Time: 102}}, Counters{}},
		{"half closed before the tracer", conn.Record{Event: &event.Event{Kind: c, OldState: event.FinWait2, Flags: event.Preexisting, Time: 102}}, Counters{}},
		{"in order", conn.Record{Event: &event.Event{Kind: c, OldState: event.LastAck, Closer: event.CloserPeer, FirstFIN: 90, Time: 102}}, Counters{CurrEstab: -1}},
		{"FINs crossed", conn.Record{Event: &event.Event{Kind: c, OldState: event.Closing, Closer: event.CloserBoth, FirstFIN: 101, Time: 102}}, Counters{CurrEstab: -1}},
		{"end lost", conn.Record{Event: &event.Event{Kind: c, OldState: event.Established, Time: 102}, Synthesized: true}, Counters{CurrEstab: -1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got Counters
			got.Add(&tt.r, 100)
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("counters (-want +got):\n%s", d)
			}
		})
	}
}

// host is a /proc of files: the number of a namespace is the inode of the file ns/net of its processes.
type host struct {
	t    *testing.T
	path string
}

// enter has a process be inside the namespace of another one, or of its own.
func (h host) enter(pid, other uint32) (inode uint32) {
	h.t.Helper()
	dir := filepath.Join(h.path, fmt.Sprint(pid))
	at := filepath.Join(dir, "ns/net")
	for _, d := range []string{"ns", "net"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			h.t.Fatal(err)
		}
	}
	err := os.Link(filepath.Join(h.path, fmt.Sprint(other), "ns/net"), at)
	if other == pid {
		err = os.WriteFile(at, nil, 0o600)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.count(pid, Counters{})
	inode, err = (&Tally{proc: h.path}).inode(pid)
	if err != nil {
		h.t.Fatal(err)
	}
	return inode
}

// count is what the kernel says when it is asked through that process.
func (h host) count(pid uint32, c Counters) {
	h.t.Helper()
	text := fmt.Sprintf("Tcp: ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab\nTcp: %d %d %d %d %d\n",
		c.ActiveOpens, c.PassiveOpens, c.AttemptFails, c.EstabResets, c.CurrEstab)
	if err := os.WriteFile(filepath.Join(h.path, fmt.Sprint(pid), "net/snmp"), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h host) exit(pid uint32) {
	h.t.Helper()
	if err := os.RemoveAll(filepath.Join(h.path, fmt.Sprint(pid))); err != nil {
		h.t.Fatal(err)
	}
}

// newTally looks at a host that is not there yet, at time 100.
func newTally(t *testing.T) (host, *Tally) {
	h := host{t, t.TempDir()}
	return h, &Tally{now: func() uint64 { return 100 }, proc: h.path, namespaces: map[uint32]*namespace{}}
}

// looks gives the findings as if the last ones were old, with namespaces that are named by a process.
func (t *Tally) looks() map[uint32]Counters {
	t.read = t.read.Add(-patience)
	all := map[uint32]Counters{}
	found, _ := t.look()
	for _, f := range found {
		all[f.inode] = f.kernel.minus(f.seen)
	}
	return all
}

func (t *Tally) opened(pid, inode uint32, at uint64) {
	t.Add(&conn.Record{Event: &event.Event{Kind: event.Opened, Role: event.Client, PID: pid, NetNS: inode, Began: at, Established: at, Time: at}})
}

func wantUnseen(t *testing.T, what string, got, want map[uint32]Counters) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// TestTally: what was counted before the first look is on neither side, whenever it is told; what is counted
// later is on both.
func TestTally(t *testing.T) {
	h, tally := newTally(t)
	one, two := h.enter(1, 1), h.enter(2, 2)
	h.count(1, Counters{ActiveOpens: 40, CurrEstab: 4})
	tally.opened(1, one, 90)
	wantUnseen(t, "at the beginning", tally.looks(), map[uint32]Counters{one: {}})
	tally.opened(1, one, 99) // on its way when it was looked at
	tally.opened(1, one, 101)
	h.count(1, Counters{ActiveOpens: 42, CurrEstab: 5})
	wantUnseen(t, "one more than was seen", tally.looks(), map[uint32]Counters{one: {ActiveOpens: 1}})
	h.count(1, Counters{ActiveOpens: 43, CurrEstab: 5})
	found, _ := tally.look()
	want := []finding{{one, Counters{ActiveOpens: 2, CurrEstab: 5}, Counters{ActiveOpens: 1, CurrEstab: 5}}}
	if d := cmp.Diff(want, found, cmp.AllowUnexported(finding{})); d != "" {
		t.Errorf("within a second (-want +got):\n%s", d)
	}
	tally.opened(2, two, 102)
	wantUnseen(t, "another namespace", tally.looks(), map[uint32]Counters{one: {ActiveOpens: 2}, two: {}})
}

// TestTallyProcesses: a namespace is looked at through another process when one has gone, or moved, and is
// left out when none is known.
func TestTallyProcesses(t *testing.T) {
	h, tally := newTally(t)
	one, other := h.enter(1, 1), h.enter(9, 9)
	for pid := uint32(5); pid < 8; pid++ {
		h.enter(pid, 1)
	}
	for _, pid := range []uint32{1, 5, 6, 7} {
		tally.opened(pid, one, 90)
	}
	for pid := uint32(100); pid < 200; pid++ { // gone before anybody looks
		tally.opened(pid, one, 90)
	}
	if n := len(tally.namespaces[one].processes); n != maxProcesses {
		t.Errorf("%d processes are known, want %d", n, maxProcesses)
	}
	wantUnseen(t, "all there", tally.looks(), map[uint32]Counters{one: {}})
	if d := cmp.Diff([]uint32{1, 5, 6, 7}, tally.namespaces[one].processes); d != "" {
		t.Errorf("processes that are known (-want +got):\n%s", d)
	}
	tally.opened(7, one, 101)
	h.exit(1)
	h.exit(5)
	h.enter(5, 9) // another process, elsewhere
	for _, pid := range []uint32{6, 7} {
		h.count(pid, Counters{ActiveOpens: 3, CurrEstab: 1})
	}
	wantUnseen(t, "the first has gone", tally.looks(), map[uint32]Counters{one: {ActiveOpens: 2}})
	h.exit(6)
	h.exit(7)
	wantUnseen(t, "all have gone", tally.looks(), map[uint32]Counters{})
	tally.opened(9, one, 102) // which is not inside
	wantUnseen(t, "a stranger", tally.looks(), map[uint32]Counters{})
	tally.opened(9, other, 102)
	wantUnseen(t, "the other one", tally.looks(), map[uint32]Counters{other: {}})
}

// TestTallyAnotherNamespace: a number that is used again is that of a namespace that begins at 0.
func TestTallyAnotherNamespace(t *testing.T) {
	h, tally := newTally(t)
	one := h.enter(1, 1)
	h.count(1, Counters{PassiveOpens: 10})
	tally.opened(1, one, 90)
	wantUnseen(t, "the first", tally.looks(), map[uint32]Counters{one: {}})
	tally.opened(1, one, 101)
	h.count(1, Counters{PassiveOpens: 3})
	wantUnseen(t, "the second", tally.looks(), map[uint32]Counters{one: {}})
}

// TestTallyMoving: a namespace that never stands still is not told, and another one is.
func TestTallyMoving(t *testing.T) {
	h, tally := newTally(t)
	one, two := h.enter(1, 1), h.enter(2, 2)
	moving, n := true, int64(0)
	tally.now = func() uint64 {
		if n++; moving {
			h.count(1, Counters{ActiveOpens: n})
		}
		return 100
	}
	tally.opened(1, one, 90)
	tally.opened(2, two, 90)
	wantUnseen(t, "one moves", tally.looks(), map[uint32]Counters{two: {}})
	moving = false
	wantUnseen(t, "none moves", tally.looks(), map[uint32]Counters{one: {}, two: {}})
}

// TestTallyBounded: what there is no room for is counted.
func TestTallyBounded(t *testing.T) {
	_, tally := newTally(t)
	for inode := range uint32(maxNamespaces + 10) {
		tally.opened(1, inode, 90)
		tally.opened(0, 1000+inode, 90) // nobody's
	}
	if _, leftOut := tally.look(); leftOut != 10 || len(tally.namespaces) != 0 {
		t.Errorf("%d records left out and %d namespaces known, want 10, and none without a process", leftOut, len(tally.namespaces))
	}
}
