package exporter

import (
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/actor"
)

// reuseScenarios use a socket, its memory, or a tuple again.
var reuseScenarios = []scenario{
	{"C21 disconnect, and a second connection", disconnected},
	{"C21 disconnect while connecting", disconnectedConnecting},
	{"C21 second connection behind a refusal", secondBehindRefusal},
	{"C21 a listener, then a client", listenerThenClient},
	{"C22 socket memory used again", memoryReused},
	{"C23 same tuple within milliseconds", tupleReused},
}

// fixed is a client's address that is used again and again.
var fixed = netip.MustParseAddrPort("127.0.0.1:40001")

// distinct wants so many connections to have names of their own, the same at both ends.
func (s *scene) distinct(n int) {
	s.t.Helper()
	ids := map[string]map[string]bool{"client": {}, "server": {}}
	for _, r := range s.records() {
		ids[r.Role][r.id] = true
	}
	for role, other := range map[string]string{"client": "server", "server": "client"} {
		if len(ids[role]) != n {
			s.t.Errorf("%s: %d connection ids, want %d", role, len(ids[role]), n)
		}
		for id := range ids[role] {
			if !ids[other][id] {
				s.t.Errorf("connection id %q is the %s's alone", id, role)
			}
		}
	}
}

func disconnected(s *scene) {
	p, q := s.caller(), s.caller()
	l := q.Listen(anyPort, 16)
	c := p.Socket(unix.AF_INET, 0)
	var want []told
	for range 2 {
		c.Connect(l.Local)
		a := l.Accept()
		c.Disconnect()
		errnoIs(s.t, "reading", a.ReadError(), unix.ECONNRESET)
		a.Close()
		want = append(want, whole(client(c), 0, 0, disconnects)...)
		want = append(want, whole(server(a), 0, 0, isReset)...)
		s.expect(want...)
	}
	c.Close()
	s.expect(want...)
	s.distinct(2)
}

func disconnectedConnecting(s *scene) {
	p, q := s.caller(), s.caller()
	silent := s.silent()
	c := p.Socket(unix.AF_INET, 0)
	c.NonBlocking()
	errnoIs(s.t, "connecting", c.TryConnect(silent.Local), unix.EINPROGRESS)
	first := *c
	c.Disconnect()
	l := q.Listen(anyPort, 16)
	errnoIs(s.t, "connecting", c.TryConnect(l.Local), unix.EINPROGRESS)
	c.Poll(unix.POLLOUT)
	a := l.Accept()
	hangUp(c, a)
	s.expect(slices.Concat([]told{failed(client(&first), "connection_aborted")},
		whole(client(c), 0, 0, orderly["local"]), whole(server(a), 0, 0, orderly["peer"]))...)
}

func secondBehindRefusal(s *scene) {
	p, q := s.caller(), s.caller()
	l := q.Listen(anyPort, 16)
	c := p.Socket(unix.AF_INET, 0)
	c.Bind(fixed)
	errnoIs(s.t, "connecting", c.TryConnect(netip.MustParseAddrPort("127.0.0.1:1")), unix.ECONNREFUSED)
	first := *c
	first.Local = fixed
	c.Connect(l.Local)
	a := l.Accept()
	hangUp(c, a)
	s.expect(slices.Concat([]told{failed(client(&first), "connection_refused")},
		whole(client(c), 0, 0, orderly["local"]), whole(server(a), 0, 0, orderly["peer"]))...)
}

// listenerThenClient: one socket listens, is disconnected, and connects.
func listenerThenClient(s *scene) {
	p, q := s.caller(), s.caller()
	k := p.Listen(anyPort, 16)
	c := q.Dial(k.Local)
	a := k.Accept()
	hangUp(c, a)
	k.Disconnect()
	l := q.Listen(anyPort, 16)
	k.Connect(l.Local)
	b := l.Accept()
	hangUp(k, b)
	s.expect(slices.Concat(
		whole(client(c), 0, 0, orderly["local"]), whole(server(a), 0, 0, orderly["peer"]),
		whole(client(k), 0, 0, orderly["local"]), whole(server(b), 0, 0, orderly["peer"]),
	)...)
}

// memoryReused: the kernel gives a new socket the memory of one that was just freed.
func memoryReused(s *scene) {
	const n = 200
	plan := actor.Plan{Listen: anyPort, Request: 1, Reply: 1, How: actor.ClientCloses, Connections: n, Workers: 1}
	p := s.ns.Start("crowd", plan)
	p.Report()
	p.Wait()
	s.countPairs(n, 1, 1)
}

func tupleReused(s *scene) {
	const n = 20
	p, q := s.caller(), s.caller()
	l := q.Listen(anyPort, 16)
	var want []told
	began := time.Now()
	for range n {
		c := p.Socket(unix.AF_INET, 0)
		c.Set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		c.Bind(fixed)
		c.Connect(l.Local)
		a := l.Accept()
		c.Linger0()
		c.Close()
		a.Close()
		want = append(want, whole(client(c), 0, 0, resets)...)
		want = append(want, whole(server(a), 0, 0, isReset)...)
	}
	s.t.Logf("%d connections of one tuple in %v", n, time.Since(began))
	s.expect(want...)
	s.distinct(n)
}
