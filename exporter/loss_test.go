package exporter

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/actor"
)

// TestPreexisting: connections that are older than the tracer are taken in with owner and role,
// flagged, and their ends are told; nothing about their beginnings is invented.
func TestPreexisting(t *testing.T) {
	plan := actor.Plan{Listen: "127.0.0.1:0", Request: 120, Reply: 5300, How: actor.ClientCloses}
	server := actor.Start(t, "server", plan)
	plan.Connect = server.Report().Local.String()
	client := actor.Start(t, "client", plan)
	truth := client.Report()

	tr := startTrace(t, nil)
	tr.await(2, client.PID(), server.PID())
	client.Cue()
	client.Report()
	client.Wait()
	server.Report()
	server.Wait()
	got := tr.await(4, client.PID(), server.PID())

	end := told{
		Event: nameOpen, Process: "exporter.test", User: int64(truth.User), NetNS: int64(truth.NetNS),
		OwnerSource: "file", Preexisting: true,
	}
	a, b := end, end
	a.PID, a.Role, a.Local, a.Peer = int64(client.PID()), "client", truth.Local, truth.Peer
	b.PID, b.Role, b.Local, b.Peer = int64(server.PID()), "server", truth.Peer, truth.Local
	c, d := a, b
	c.Event, c.Sent, c.Received, c.Reason, c.Initiator = nameClose, 120, 5300, "fin", "local"
	d.Event, d.Sent, d.Received, d.Reason, d.Initiator = nameClose, 5300, 120, "fin", "peer"
	slices.SortStableFunc(got, func(x, y told) int { return cmpStrings(x.Role, y.Role) })
	if d := gocmp.Diff([]told{a, c, b, d}, got, cmpopts.IgnoreUnexported(told{}), cmpopts.EquateComparable(netip.AddrPort{})); d != "" {
		t.Fatalf("records (-want +told):\n%s", d)
	}
	for _, r := range got {
		if r.handshake != -1 || r.duration != -1 {
			t.Errorf("%s: handshake %v, duration %v: want none, nobody saw it begin", r.Event, r.handshake, r.duration)
		}
		if r.id == "" || r.id != got[0].id {
			t.Errorf("connection id %q, want one for both ends: %q", r.id, got[0].id)
		}
	}
}

func cmpStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// TestListenerOlderThanTracer: what is accepted from it has an owner all the same.
func TestListenerOlderThanTracer(t *testing.T) {
	plan := actor.Plan{Listen: "127.0.0.1:0", How: actor.ClientCloses}
	server := actor.Start(t, "server", plan)
	plan.Connect = server.Report().Local.String()
	tr := startTrace(t, nil)
	// Until the listener is found, its children have no owner.
	time.Sleep(100 * time.Millisecond)
	client := actor.Start(t, "client", plan)
	act(client, nil)
	server.Report()
	server.Wait()
	for _, r := range tr.await(2, server.PID()) {
		if r.OwnerSource != "file" || r.Preexisting || r.Role != "server" {
			t.Errorf("%+v, want a new connection with the listener's owner", r)
		}
	}
}

// openEnds is what the records of a process say to be open. An end that was lost may be told when its
// addresses are another connection's.
func openEnds(records []told) map[string]bool {
	connections := map[[2]string]bool{}
	for _, r := range records {
		name := [2]string{r.id, fmt.Sprint(r.Role, " ", r.Local, " ", r.Peer)}
		if r.Event == nameOpen {
			connections[name] = true
		} else {
			delete(connections, name)
		}
	}
	open := map[string]bool{}
	for name := range connections {
		open[name[1]] = true
	}
	return open
}

func wantEnds(r actor.Report) map[string]bool {
	want := map[string]bool{}
	for _, local := range r.Open {
		want[fmt.Sprint("client ", local, " ", r.Local)] = true
		want[fmt.Sprint("server ", r.Local, " ", local)] = true
	}
	return want
}

// kernelEnds is what the kernel says to be open at that port, in the process's network namespace. The
// port is a server's.
func kernelEnds(t *testing.T, pid int, port uint16) map[string]bool {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
	if err != nil {
		t.Fatal(err)
	}
	const established = 1
	open := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		var slot, localAddr, localPort, peerAddr, peerPort, state uint32
		if n, _ := fmt.Sscanf(line, "%d: %x:%x %x:%x %x", &slot, &localAddr, &localPort, &peerAddr, &peerPort, &state); n < 6 || state != established {
			continue
		}
		local, peer := hexEnd(localAddr, localPort), hexEnd(peerAddr, peerPort)
		if local.Port() == port {
			open[fmt.Sprint("server ", local, " ", peer)] = true
		}
		if peer.Port() == port {
			open[fmt.Sprint("client ", local, " ", peer)] = true
		}
	}
	return open
}

// hexEnd reads an address as /proc/net/tcp has it: a word in the machine's order.
func hexEnd(addr, port uint32) netip.AddrPort {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], addr)
	return netip.AddrPortFrom(netip.AddrFrom4(b), uint16(port))
}

// guestSlowness is how many times slower than a real one an emulated processor may be.
const guestSlowness = 20

// within waits until something holds, and says how long that took. What counts is the time that the
// machine leaves to the reader, not that in which others have its processor. In a guest the limit is as much
// longer as its processors are slower.
func (tr *trace) within(limit time.Duration, what string, holds func() bool) {
	tr.t.Helper()
	if os.Getenv(guestEnv) != "" {
		limit *= guestSlowness
	}
	began, waited := time.Now(), tr.waited()
	for !holds() {
		if spent := time.Since(began) - (tr.waited() - waited); spent > limit {
			tr.t.Errorf("not within %v: %s", limit, what)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	tr.t.Logf("%s: after %v, %v of it without a processor", what, time.Since(began), tr.waited()-waited)
}

// waited is how long the reader could have run, and had no processor.
func (tr *trace) waited() time.Duration {
	tr.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/schedstat", tr.reader.Load()))
	if err != nil {
		tr.t.Fatal(err)
	}
	var ran, waited int64
	if _, err := fmt.Sscan(string(b), &ran, &waited); err != nil {
		tr.t.Fatalf("reading %q: %v", b, err)
	}
	return time.Duration(waited)
}

// now gives the counters as they are.
func (tr *trace) now() Stats {
	tr.t.Helper()
	s, err := tr.x.Stats()
	if err != nil {
		tr.t.Fatal(err)
	}
	return s
}

// overflowing has rings of one page, and no audit: what is repaired is so because a loss was seen.
func overflowing(cfg *Config) {
	cfg.Tracer.RingSize = Size(os.Getpagesize())
	cfg.Tracer.Audit = time.Hour
}

// TestOverflow: with one-page rings and a reader that stands still for two seconds, most events are
// lost. Then nothing happens any more. The loss is seen all the same, and repaired: two seconds later
// the records say exactly what the kernel says to be open in a network namespace, of which alone is told, and
// the table has as many, whatever else comes and goes on the host during the repair.
func TestOverflow(t *testing.T) {
	here := actor.NewNetNS(t)
	tr := startTrace(t, func(cfg *Config) {
		overflowing(cfg)
		cfg.Filter = []FilterRule{
			{Include: &FilterMatch{NetNS: []NetNS{NetNS(fmt.Sprint(here.Inode()))}}},
			{Exclude: &FilterMatch{CIDR: []string{"0.0.0.0/0", "::/0"}}},
		}
	})
	holder := here.Start("hold", actor.Plan{Listen: "127.0.0.1:0", Connections: 400})
	last := holder.Report()
	tr.await(100, holder.PID())

	goOn := tr.stand()
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
		holder.Cue()
		last = holder.Report()
	}
	if tr.now().Lost == 0 {
		t.Error("the kernel counts no loss")
	}
	want := kernelEnds(t, holder.PID(), last.Local.Port())
	if d := gocmp.Diff(wantEnds(last), want); d != "" || len(want) != 800 {
		t.Fatalf("open ends (-holder +kernel):\n%s", d)
	}
	others := actor.Start(t, "crowd", actor.Plan{Listen: anyPort, How: actor.ClientCloses, Connections: 10_000, Workers: 4})
	goOn()
	tr.within(time.Second, "the log says that events are lost", func() bool { return strings.Contains(tr.said.String(), "events lost") })
	tr.within(2*time.Second, "the records say what is open", func() bool { return maps.Equal(openEnds(tr.of(holder.PID())), want) })
	tr.within(time.Second, "the table has as many", func() bool { return tr.now().Open == len(want) })

	others.Report()
	others.Wait()
	holder.Kill()
	tr.within(2*time.Second, "the records say that all is closed", func() bool { return len(openEnds(tr.of(holder.PID()))) == 0 })
	tr.within(time.Second, "the table is empty", func() bool { return tr.now().Open == 0 })
	tr.stop()
	if s := tr.stats; s.Lost == 0 || s.Synthesized == 0 || s.Adopted == 0 || s.Missing == 0 {
		t.Errorf("stats %+v, want losses, located, and their repair", s)
	}
}

// TestQuietLoss: a CPU loses events and then has none, so no number is seen to be missing. The loss is
// seen all the same, and repaired, and located with the next event of that CPU.
func TestQuietLoss(t *testing.T) {
	awake, quiet := twoCPUs(t)
	tr := startTraceOn(t, []int{awake}, overflowing)
	for range 2 { // then it has taken in what is older
		p := actor.Start(t, "refused", actor.Plan{Connect: "127.0.0.1:1"})
		p.Report()
		p.Wait()
		tr.await(1, p.PID())
	}
	goOn := tr.stand()
	holder := startOn(t, int(quiet), "hold", actor.Plan{Listen: "127.0.0.1:0", Connections: 100})
	want := wantEnds(holder.Report())
	if lost := tr.now().Lost; lost < 100 {
		t.Errorf("%d events lost, want most of 200", lost)
	}
	goOn()
	tr.within(time.Second, "the log says that events are lost", func() bool { return strings.Contains(tr.said.String(), "events lost") })
	tr.within(2*time.Second, "the records say what is open", func() bool { return maps.Equal(openEnds(tr.of(holder.PID())), want) })
	for _, cpu := range allowedCPUs(t) {
		p := startOn(t, cpu, "refused", actor.Plan{Connect: "127.0.0.1:1"})
		p.Report()
		p.Wait()
		tr.await(1, p.PID())
	}
	tr.stop()
	if s := tr.stats; s.Lost < 100 || s.Missing != s.Lost || s.Adopted < 100 {
		t.Errorf("stats %+v, want 100 losses or more, all located, and their repair", s)
	}
}

// TestRestart: a second tracer takes in what the first had opened, as older than itself, and opens
// nothing twice.
func TestRestart(t *testing.T) {
	holder := actor.Start(t, "hold", actor.Plan{Listen: "127.0.0.1:0", Connections: 50})
	holder.Report()
	for range 2 {
		tr := startTrace(t, nil)
		for _, r := range tr.await(100, holder.PID()) {
			if r.Event != nameOpen || !r.Preexisting {
				t.Fatalf("%+v, want it open and older than the tracer", r)
			}
		}
		tr.stop()
	}
}

// TestManyPreexisting: idle connections in several processes, and crowds that come and go while the
// tracer starts: all are told once, with no more work than startUp from New on, none is invented. Of a
// crowd that begins once the programs are attached each opening and each end is told.
func TestManyPreexisting(t *testing.T) {
	holders, each, crowdSize := 10, 9900, 10_000
	if testing.Short() {
		holders, each, crowdSize = 2, 2000, 2000
	}
	var processes []*actor.Process
	var pids []int
	for range holders {
		p := actor.Start(t, "hold", actor.Plan{Listen: "127.0.0.1:0", Connections: each})
		processes, pids = append(processes, p), append(pids, p.PID())
	}
	for _, p := range processes {
		p.Report()
	}
	blind := actor.Blind(t)
	plan := actor.Plan{Listen: "127.0.0.1:0", How: actor.ClientCloses, Connections: crowdSize, Workers: 4}
	older := actor.Start(t, "crowd", plan)
	began, before := time.Now(), processorTime(t)
	tr := startTrace(t, func(cfg *Config) { cfg.Tracer.RingSize = 64 << 20 })
	crowd := actor.Start(t, "crowd", plan)
	tr.awaitWithin(2*time.Minute, 2*holders*each, pids...)
	took, worked := time.Since(began), processorTime(t)-before
	t.Logf("%d sockets adopted after %v, with %v of processor time", 2*holders*each, took, worked)
	if worked > startUp && os.Getenv(guestEnv) == "" { // a guest's processors are slower
		t.Errorf("to start took %v of processor time, want %v at most", worked, startUp)
	}
	for _, p := range []*actor.Process{older, crowd} {
		p.Report()
		p.Wait()
	}
	for _, r := range tr.of(pids...) {
		if r.Event != nameOpen || !r.Preexisting || r.Role == "unknown" {
			t.Fatalf("%+v, want it open, older than the tracer, with its role", r)
		}
	}
	for _, p := range processes {
		p.Kill()
	}
	tr.awaitWithin(time.Minute, 4*holders*each, pids...)
	tr.stop()
	if n := len(openEnds(tr.of(pids...))); n != 0 {
		t.Errorf("%d ends are told to be open after their processes have gone", n)
	}
	if n := len(openEnds(tr.of(older.PID(), crowd.PID()))); n != 0 {
		t.Errorf("%d ends of the crowds are told to be open", n)
	}
	checkOnce(t, tr.of(append(pids, older.PID(), crowd.PID())...))
	unseen := uint64(blind())
	checkWhole(t, tr.of(crowd.PID()), 2*crowdSize, int(unseen+tr.stats.Unseen))
	if s := tr.stats; s.Lost != 0 || s.Gaps > unseen || s.Synthesized > unseen || s.Repeated != 0 {
		t.Errorf("stats %+v, want nothing lost or repeated, and at most %d ends not seen", s, unseen)
	}
}

// processorTime is what this process has used, in the kernel and out of it.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// checkWhole: of so many ends of connections, each is told to open and to close, less what the kernel ran no
// program for.
func checkWhole(t *testing.T, records []told, ends, unseen int) {
	t.Helper()
	n := map[string]int{}
	for _, r := range records {
		n[r.Event]++
	}
	for _, name := range []string{nameOpen, nameClose} {
		if n[name] > ends || n[name] < ends-unseen {
			t.Errorf("%s is told %d times of %d ends, at most %d of them not seen", name, n[name], ends, unseen)
		}
	}
	if len(records) != n[nameOpen]+n[nameClose] {
		t.Errorf("%d records of %d openings and %d ends", len(records), n[nameOpen], n[nameClose])
	}
}

// checkOnce: no end of a connection is opened twice or closed twice.
func checkOnce(t *testing.T, records []told) {
	t.Helper()
	seen := map[string]int{}
	for _, r := range records {
		key := fmt.Sprint(r.Event, " ", r.Role, " ", r.id, " ", r.Local, " ", r.Peer)
		if seen[key]++; seen[key] > 1 {
			t.Fatalf("told twice: %s", key)
		}
	}
}
