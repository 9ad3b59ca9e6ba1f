package exporter

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

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

	end := told{Event: nameOpen, Process: "exporter.test", OwnerSource: "file", Preexisting: true}
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
	act(client, plan.How)
	server.Report()
	server.Wait()
	for _, r := range tr.await(2, server.PID()) {
		if r.OwnerSource != "file" || r.Preexisting || r.Role != "server" {
			t.Errorf("%+v, want a new connection with the listener's owner", r)
		}
	}
}

// openEnds is what the records of a process say to be open.
func openEnds(records []told) map[string]bool {
	open := map[string]bool{}
	for _, r := range records {
		end := fmt.Sprint(r.Role, " ", r.Local, " ", r.Peer)
		if r.Event == nameOpen {
			open[end] = true
		} else {
			delete(open, end)
		}
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

// TestOverflow: with one-page rings and a reader that stands still, most events are lost. The loss
// is seen, and repaired: in the end the records say exactly what is open.
func TestOverflow(t *testing.T) {
	tr := startTrace(t, func(cfg *Config) { cfg.Tracer.RingSize = Size(os.Getpagesize()) })
	holder := actor.Start(t, "hold", actor.Plan{Listen: "127.0.0.1:0", Connections: 400})
	first := holder.Report()
	tr.await(100, holder.PID())

	block := make(chan struct{})
	tr.mu.Lock()
	tr.block = block
	tr.mu.Unlock()
	var last actor.Report
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
		holder.Cue()
		last = holder.Report()
	}
	close(block)
	if len(first.Open) != 400 || len(last.Open) != 400 {
		t.Fatalf("the holder has %d and %d connections open, want 400", len(first.Open), len(last.Open))
	}

	want := wantEnds(last)
	var got map[string]bool
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if got = openEnds(tr.of(holder.PID())); maps.Equal(got, want) {
			break
		}
	}
	if d := gocmp.Diff(want, got); d != "" {
		t.Errorf("open ends (-holder +told):\n%s", d)
	}
	holder.Kill()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if len(openEnds(tr.of(holder.PID()))) == 0 {
			break
		}
	}
	tr.stop()
	if n := len(openEnds(tr.of(holder.PID()))); n != 0 {
		t.Errorf("%d ends are told to be open after their process has gone", n)
	}
	if s := tr.stats; s.Lost == 0 || s.Synthesized == 0 || s.Adopted == 0 || s.Missing == 0 || s.Missing > s.Lost {
		t.Errorf("stats %+v, want losses, located, and their repair", s)
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

// TestManyPreexisting: idle connections in several processes, and a crowd that comes and goes while
// the tracer starts: all are told once, none is invented.
func TestManyPreexisting(t *testing.T) {
	holders, each := 10, 9900
	if testing.Short() {
		holders, each = 2, 2000
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
	const crowdSize = 10_000
	crowd := actor.Start(t, "crowd", actor.Plan{Listen: "127.0.0.1:0", How: actor.ClientCloses, Connections: crowdSize, Workers: 4})
	began := time.Now()
	tr := startTrace(t, func(cfg *Config) { cfg.Tracer.RingSize = 64 << 20 })
	tr.awaitWithin(2*time.Minute, 2*holders*each, pids...)
	t.Logf("%d sockets adopted after %v", 2*holders*each, time.Since(began))
	crowd.Report()
	crowd.Wait()
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
	if n := len(openEnds(tr.of(crowd.PID()))); n != 0 {
		t.Errorf("%d ends of the crowd are told to be open", n)
	}
	checkOnce(t, tr.of(append(pids, crowd.PID())...))
	unseen := uint64(blind())
	if s := tr.stats; s.Lost != 0 || s.Gaps > unseen || s.Synthesized > unseen || s.Repeated != 0 {
		t.Errorf("stats %+v, want nothing lost or repeated, and at most %d ends not seen", s, unseen)
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
