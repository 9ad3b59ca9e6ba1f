package exporter

import (
	"cmp"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/connspan/connspan/internal/actor"
)

// pairScenarios are whole connections with a request and a reply. They are made twice, by two processes
// and by one, and held against the times that these have measured themselves.
var pairScenarios = func() (all []scenario) {
	for _, tt := range []struct {
		name           string
		plan           actor.Plan
		client, server end
	}{
		{"IPv4", actor.Plan{Listen: "127.0.0.1:0", How: actor.ClientCloses}, orderly["local"], orderly["peer"]},
		{"IPv6", actor.Plan{Listen: "[::1]:0", How: actor.ClientCloses}, orderly["local"], orderly["peer"]},
		{"C1 IPv4-mapped connect", actor.Plan{Listen: "127.0.0.1:0", Mapped: true, How: actor.ClientCloses}, orderly["local"], orderly["peer"]},
		{"C1 dual-stack listener", actor.Plan{Listen: ":0", How: actor.ClientCloses}, orderly["local"], orderly["peer"]},
		{"C2 non-blocking connect", actor.Plan{Listen: "127.0.0.1:0", NonBlocking: true, How: actor.ClientCloses}, orderly["local"], orderly["peer"]},
		{"C14 server closes first", actor.Plan{Listen: "127.0.0.1:0", How: actor.ServerCloses}, orderly["peer"], orderly["local"]},
		{"C15 half-close", actor.Plan{Listen: "127.0.0.1:0", How: actor.HalfClose}, orderly["local"], orderly["peer"]},
		{"C16 SO_LINGER 0", actor.Plan{Listen: "127.0.0.1:0", How: actor.ClientResets}, resets, isReset},
		{"C16 request unread", actor.Plan{Listen: "127.0.0.1:0", How: actor.ServerUnread}, isReset, resets},
		{"C24 other user", actor.Plan{Listen: "127.0.0.1:0", User: 65534, How: actor.ClientCloses}, orderly["local"], orderly["peer"]},
		{"C25 client killed", actor.Plan{Listen: "127.0.0.1:0", How: actor.ClientKilled}, orderly["local"], orderly["peer"]},
		{"C25 server killed", actor.Plan{Listen: "127.0.0.1:0", How: actor.ServerKilled}, orderly["peer"], orderly["local"]},
	} {
		tt.plan.Request, tt.plan.Reply = 120, 5300
		if tt.plan.How == actor.ServerUnread {
			tt.plan.Reply = 0
		}
		all = append(all, scenario{tt.name, func(s *scene) { s.pairs(tt.plan, tt.client, tt.server) }})
	}
	return all
}()

func (s *scene) pairs(plan actor.Plan, client, server end) {
	s.t.Run("two processes", func(t *testing.T) {
		listener := s.ns.Start("server", plan)
		listening := listener.Report().Local
		plan := plan
		plan.Connect = netip.AddrPortFrom(loopback(listening), listening.Port()).String()
		connector := s.ns.Start("client", plan)
		victim := map[actor.How]*actor.Process{actor.ClientKilled: connector, actor.ServerKilled: listener}[plan.How]
		began := act(connector, victim)
		if victim != listener {
			listener.Report()
			listener.Wait()
		}
		check(t, s.tr, plan, began, expectation{connector.PID(), listener.PID(), client, server})
		s.wanted += 4
	})
	if plan.How == actor.ClientKilled || plan.How == actor.ServerKilled {
		return // the other would be killed too
	}
	s.t.Run("one process", func(t *testing.T) {
		both := s.ns.Start("pair", plan)
		began := act(both, nil)
		both.Wait()
		check(t, s.tr, plan, began, expectation{both.PID(), both.PID(), client, server})
		s.wanted += 4
	})
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
			Event: nameOpen, PID: int64(pid), Process: program, User: int64(user), NetNS: int64(truth.NetNS),
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
