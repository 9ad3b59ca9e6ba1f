package exporter

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/connspan/connspan/internal/actor"
)

// end is what one end of a connection is to tell at its close.
type end struct {
	Reason, Initiator, Error string
}

var orderly = map[string]end{
	"local": {"fin", "local", ""},
	"peer":  {"fin", "peer", ""},
}

// TestScenario makes real connections, each end in a process of its own and then both in one, and
// wants exactly the records of each end.
func TestScenario(t *testing.T) {
	tr := startTrace(t, nil)
	tests := []struct {
		name           string
		plan           actor.Plan
		client, server end
	}{
		{"IPv4", actor.Plan{Listen: "127.0.0.1:0", How: actor.ClientCloses}, orderly["local"], orderly["peer"]},
		{"IPv6", actor.Plan{Listen: "[::1]:0", How: actor.ClientCloses}, orderly["local"], orderly["peer"]},
		{"IPv4-mapped", actor.Plan{Listen: "127.0.0.1:0", Mapped: true, How: actor.ClientCloses}, orderly["local"], orderly["peer"]},
		{"dual-stack listener", actor.Plan{Listen: ":0", How: actor.ClientCloses}, orderly["local"], orderly["peer"]},
		{"non-blocking connect", actor.Plan{Listen: "127.0.0.1:0", NonBlocking: true, How: actor.ClientCloses}, orderly["local"], orderly["peer"]},
		{"server closes first", actor.Plan{Listen: "127.0.0.1:0", How: actor.ServerCloses}, orderly["peer"], orderly["local"]},
		{"half-close", actor.Plan{Listen: "127.0.0.1:0", How: actor.HalfClose}, orderly["local"], orderly["peer"]},
		{
			"SO_LINGER 0",
			actor.Plan{Listen: "127.0.0.1:0", How: actor.ClientResets},
			end{"reset_sent", "local", "connection_aborted"},
			end{"reset_received", "peer", "connection_reset"},
		},
		{
			"request unread",
			actor.Plan{Listen: "127.0.0.1:0", How: actor.ServerUnread},
			end{"reset_received", "peer", "connection_reset"},
			end{"reset_sent", "local", "connection_aborted"},
		},
		{"other user", actor.Plan{Listen: "127.0.0.1:0", User: 65534, How: actor.ClientCloses}, orderly["local"], orderly["peer"]},
		{"client killed", actor.Plan{Listen: "127.0.0.1:0", How: actor.ClientKilled}, orderly["local"], orderly["peer"]},
		{"server killed", actor.Plan{Listen: "127.0.0.1:0", How: actor.ServerKilled}, orderly["peer"], orderly["local"]},
	}
	for _, tt := range tests {
		tt.plan.Request, tt.plan.Reply = 120, 5300
		if tt.plan.How == actor.ServerUnread {
			tt.plan.Reply = 0
		}
		t.Run(tt.name+"/two processes", func(t *testing.T) {
			server := actor.Start(t, "server", tt.plan)
			listening := server.Report().Local
			tt.plan.Connect = netip.AddrPortFrom(loopback(listening), listening.Port()).String()
			client := actor.Start(t, "client", tt.plan)
			victim := map[actor.How]*actor.Process{actor.ClientKilled: client, actor.ServerKilled: server}[tt.plan.How]
			began := act(client, victim)
			if victim != server {
				server.Report()
				server.Wait()
			}
			check(t, tr, tt.plan, began, expectation{client.PID(), server.PID(), tt.client, tt.server})
		})
		if tt.plan.How == actor.ClientKilled || tt.plan.How == actor.ServerKilled {
			continue // the other would be killed too
		}
		t.Run(tt.name+"/one process", func(t *testing.T) {
			both := actor.Start(t, "pair", tt.plan)
			began := act(both, nil)
			both.Wait()
			check(t, tr, tt.plan, began, expectation{both.PID(), both.PID(), tt.client, tt.server})
		})
	}
}

// loopback is the address to connect to where a server listens.
func loopback(listening netip.AddrPort) netip.Addr {
	if a := listening.Addr().Unmap(); !a.IsUnspecified() {
		return a
	}
	return netip.MustParseAddr("127.0.0.1")
}

// act leads a client through its connection and gives its reports as one. The victim, if there is
// one, is killed when the client has the reply.
func act(client, victim *actor.Process) actor.Report {
	r := client.Report()
	client.Cue()
	if victim != nil {
		client.Report()
		r.Closing = time.Now().UnixNano()
		victim.Kill()
		r.Ended = time.Now().UnixNano()
	}
	if victim != client {
		last := client.Report()
		r.Closing, r.Ended = last.Closing, last.Ended
	}
	return r
}

type expectation struct {
	clientPID, serverPID int
	client, server       end
}

// check holds what was told of one connection against what its processes know.
func check(t *testing.T, tr *trace, plan actor.Plan, truth actor.Report, want expectation) {
	t.Helper()
	pids := []int{want.clientPID}
	if want.serverPID != want.clientPID {
		pids = append(pids, want.serverPID)
	}
	got := tr.await(4, pids...)
	sent, received := int64(plan.Request), int64(plan.Reply)
	opened := func(pid, user int, source, role string, local, peer netip.AddrPort) told {
		return told{
			Event: nameOpen, PID: int64(pid), Process: "exporter.test", User: int64(user), NetNS: int64(truth.NetNS),
			OwnerSource: source, Role: role, Local: local, Peer: peer,
		}
	}
	closed := func(o told, sent, received int64, e end) told {
		o.Event, o.Sent, o.Received, o.Reason, o.Initiator, o.Error = nameClose, sent, received, e.Reason, e.Initiator, e.Error
		return o
	}
	client := opened(want.clientPID, truth.User, "connect", "client", truth.Local, truth.Peer)
	server := opened(want.serverPID, os.Getuid(), "listen", "server", truth.Peer, truth.Local)
	wanted := []told{client, closed(client, sent, received, want.client), server, closed(server, received, sent, want.server)}
	sorted := slices.Clone(got)
	slices.SortStableFunc(sorted, func(a, b told) int { return cmp.Compare(a.Role, b.Role) })
	if d := gocmp.Diff(wanted, sorted, cmpopts.IgnoreUnexported(told{}), cmpopts.EquateComparable(netip.AddrPort{})); d != "" {
		t.Fatalf("records (-want +told):\n%s", d)
	}
	checkTimes(t, sorted, truth)
	checkSegments(t, sorted)
}

// checkSegments: packets went both ways, and loopback loses none.
func checkSegments(t *testing.T, records []told) {
	t.Helper()
	for _, r := range records {
		if r.Event == nameClose && (r.segments[0] < 1 || r.segments[1] < 1 || r.resent != 0 || r.rtt <= 0) {
			t.Errorf("%s: %d segments sent and received, %d of them again, round-trip time %v s; want some, none and a time",
				r.Role, r.segments, r.resent, r.rtt)
		}
	}
}

// checkTimes holds the times of both ends against those that the client measured around its calls.
func checkTimes(t *testing.T, sorted []told, truth actor.Report) {
	t.Helper()
	for i, r := range sorted {
		if r.id == "" || r.id != sorted[0].id {
			t.Errorf("connection id %q, want one for both ends: %q", r.id, sorted[0].id)
		}
		if i > 0 && r.Event == nameClose && r.at.Before(sorted[i-1].at) {
			t.Errorf("closed at %v, before it opened", r.at)
		}
	}
	const slack = 5 * time.Millisecond // of the wall clock's calibration
	began, connected := time.Unix(0, truth.Began).Add(-slack), time.Unix(0, truth.Connected).Add(slack)
	open, closed := sorted[0], sorted[1]
	if open.at.Before(began) || open.at.After(connected) {
		t.Errorf("client open at %v, want between %v and %v", open.at, began, connected)
	}
	if h, most := open.handshake, float64(truth.Connected-truth.Began)/1e9; h <= 0 || h > most {
		t.Errorf("handshake %v s, want more than 0 and at most %v", h, most)
	}
	least, most := float64(truth.Closing-truth.Connected)/1e9, time.Since(time.Unix(0, truth.Began)).Seconds()
	if d := closed.duration; d < least || d > most {
		t.Errorf("client lasted %v s, want %v to %v", d, least, most)
	}
	server := sorted[2]
	if most := server.at.Sub(began).Seconds(); server.handshake <= 0 || server.handshake > most {
		t.Errorf("handshake %v s at the server, want more than 0 and at most %v", server.handshake, most)
	}
}

func TestScenarioRefused(t *testing.T) {
	tr := startTrace(t, nil)
	for _, plan := range []actor.Plan{{Connect: "127.0.0.1:1"}, {Connect: "[::1]:1"}, {Connect: "127.0.0.1:1", Mapped: true}} {
		t.Run(fmt.Sprint(plan.Connect, plan.Mapped), func(t *testing.T) {
			p := actor.Start(t, "refused", plan)
			truth := p.Report()
			p.Wait()
			got := tr.await(1, p.PID())
			checkFailed(t, got, truth, p.PID(), netip.MustParseAddrPort(plan.Connect), "connection_refused")
			if got[0].Local.Addr() != got[0].Peer.Addr() || got[0].Local.Port() == 0 {
				t.Errorf("local %v, want the loopback address and a port", got[0].Local)
			}
		})
	}
}

func TestScenarioBlackhole(t *testing.T) {
	tr := startTrace(t, nil)
	peer := netip.MustParseAddrPort("10.9.0.2:80")
	plan := actor.Plan{Connect: peer.String(), NonBlocking: true}

	t.Run("kernel gives up", func(t *testing.T) {
		t.Parallel()
		p := actor.Start(t, "blackhole", plan)
		began, truth := p.Report(), p.Report()
		p.Wait()
		got := tr.await(1, p.PID())
		checkFailed(t, got, truth, p.PID(), peer, "timed_out")
		if got[0].Local != began.Local {
			t.Errorf("local %v, want %v", got[0].Local, began.Local)
		}
	})
	t.Run("process gives up", func(t *testing.T) {
		t.Parallel()
		plan := plan
		plan.How = actor.ClientCloses
		p := actor.Start(t, "blackhole", plan)
		p.Report()
		time.Sleep(20 * time.Millisecond)
		p.Cue()
		truth := p.Report()
		p.Wait()
		checkFailed(t, tr.await(1, p.PID()), truth, p.PID(), peer, "connection_aborted")
	})
	t.Run("process killed", func(t *testing.T) {
		t.Parallel()
		p := actor.Start(t, "blackhole", plan)
		truth := p.Report()
		p.Kill()
		truth.Ended = time.Now().UnixNano()
		checkFailed(t, tr.await(1, p.PID()), truth, p.PID(), peer, "interrupted")
	})
}

func checkFailed(t *testing.T, got []told, truth actor.Report, pid int, peer netip.AddrPort, errorType string) {
	t.Helper()
	want := []told{{
		Event: nameFailed, PID: int64(pid), Process: "exporter.test", User: int64(truth.User), NetNS: int64(truth.NetNS),
		OwnerSource: "connect", Role: "client",
		Local: got[0].Local, Peer: peer, Error: errorType,
	}}
	if d := gocmp.Diff(want, got, cmpopts.IgnoreUnexported(told{}), cmpopts.EquateComparable(netip.AddrPort{})); d != "" {
		t.Fatalf("records (-want +told):\n%s", d)
	}
	if most := float64(truth.Ended-truth.Began) / 1e9; got[0].duration <= 0 || got[0].duration > most {
		t.Errorf("attempt lasted %v s, want more than 0 and at most %v", got[0].duration, most)
	}
}

func TestScenarioUnaccepted(t *testing.T) {
	tr := startTrace(t, nil)
	p := actor.Start(t, "unaccepted", actor.Plan{Listen: "127.0.0.1:0"})
	truth := p.Report()
	p.Wait()
	ends := map[string]end{}
	for _, r := range tr.await(4, p.PID()) {
		if r.Event == nameClose {
			ends[r.Role] = end{r.Reason, r.Initiator, r.Error}
			if r.Role == "client" && r.Local != truth.Local {
				t.Errorf("local %v, want %v", r.Local, truth.Local)
			}
		}
	}
	want := map[string]end{
		"client": {"reset_received", "peer", "connection_reset"},
		"server": {"listener_closed", "local", "connection_aborted"},
	}
	if d := gocmp.Diff(want, ends); d != "" {
		t.Error(d)
	}
}

// TestScenarioDisconnect: one socket, two connections, each told by its own name.
func TestScenarioDisconnect(t *testing.T) {
	tr := startTrace(t, nil)
	p := actor.Start(t, "disconnect", actor.Plan{Listen: "127.0.0.1:0"})
	first, second := p.Report(), p.Report()
	p.Wait()
	var got, want []string
	ids := map[string]bool{}
	for _, r := range tr.await(8, p.PID()) {
		if r.Role == "client" {
			got = append(got, fmt.Sprint(r.Event, r.Local, r.Reason))
			ids[r.id] = true
		}
	}
	for _, truth := range []actor.Report{first, second} {
		want = append(want, fmt.Sprint(nameOpen, truth.Local, ""), fmt.Sprint(nameClose, truth.Local, "disconnect"))
	}
	if d := gocmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if len(ids) != 2 {
		t.Errorf("connection ids %v, want two", ids)
	}
}

// TestScenarioComm: a process may call itself anything; what arrives is text on one line.
func TestScenarioComm(t *testing.T) {
	tr := startTrace(t, nil)
	p := actor.Start(t, "pair", actor.Plan{Listen: "127.0.0.1:0", How: actor.ClientCloses, Comm: []byte("a\xff\x1b[31m\nb")})
	act(p, nil)
	p.Wait()
	for _, r := range tr.await(4, p.PID()) {
		// Its executable has a name of its own, unless it had exited when that was looked at.
		const comm = "a\ufffd\ufffd[31m\ufffdb"
		if r.Role == "client" && !strings.Contains(r.body, " "+comm+"[") || r.Process != "exporter.test" && r.Process != comm {
			t.Errorf("process %q in %q", r.Process, r.body)
		}
	}
}

// TestCrowd: thousands of connections, every end of each told once, none left, none out of order.
func TestCrowd(t *testing.T) {
	// The race detector makes the reader many times slower than the kernel: large rings make up for it.
	tr := startTrace(t, func(cfg *Config) { cfg.Tracer.RingSize = 16 << 20 })
	blind := actor.Blind(t)
	n := 20_000
	if testing.Short() {
		n = 2000
	}
	p := actor.Start(t, "crowd", actor.Plan{Listen: "127.0.0.1:0", Request: 100, Reply: 100, How: actor.ClientCloses, Connections: n, Workers: 8})
	p.Report()
	p.Wait()
	tr.await(4*n-blind(), p.PID())
	tr.stop()
	counts := map[string]int{}
	for _, r := range tr.of(p.PID()) {
		counts[r.Event+" "+r.Role]++
		if r.Event == nameClose && !r.Synthesized && (r.Sent != 100 || r.Received != 100 || r.Reason != "fin") {
			t.Fatalf("%+v, want 100 octets each way and fin", r)
		}
	}
	unseen := blind() + int(tr.stats.Unseen)
	for _, kind := range []string{nameOpen + " client", nameOpen + " server", nameClose + " client", nameClose + " server"} {
		if counts[kind] > n || counts[kind] < n-unseen {
			t.Errorf("%s: %d, want %d less at most %d", kind, counts[kind], n, unseen)
		}
	}
	if open := len(openEnds(tr.of(p.PID()))); open > unseen {
		t.Errorf("%d ends are left open, want at most %d", open, unseen)
	}
	s := tr.stats
	if s.Lost != 0 || s.Gaps > uint64(unseen) {
		t.Errorf("stats %+v, want nothing lost", s)
	}
	t.Logf("measured: of the state changes of %d connections the kernel skipped the first program for %d, and the second for %d of these", n, s.Misses, s.Unseen)
}
