package exporter

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/actor"
)

// acceptScenarios are what happens between a listener and accept.
var acceptScenarios = []scenario{
	{"C8 SYN cookie", synCookie},
	{"C9 accept queue overflow", queueOverflow},
	{"C9 accept queue overflow, reset", queueOverflowReset},
	{"C9 SYN dropped", synDropped},
	{"C9 handshake not completed", handshakeReset},
	{"C10 accept blocked before the tracer", acceptBlocked},
	{"C12 closed before accept", closedBeforeAccept},
	{"C12 reset before accept", resetBeforeAccept},
	{"C13 listener closed with a full queue", unaccepted},
	{"C13 listener's process killed", listenerKilled},
	{"C13 listener disconnected", listenerDisconnected},
}

// synCookie: the server has nothing of the handshake but its last ACK.
func synCookie(s *scene) {
	s.needs(s.ns.Sysctl("ipv4.tcp_syncookies", "2"), "CONFIG_SYN_COOKIES")
	p, q := s.caller(), s.caller()
	c, a := connected(p, q)
	c.Write(120)
	a.Read(120)
	a.Write(5300)
	c.Read(5300)
	hangUp(c, a)
	got := s.expect(slices.Concat(whole(client(c), 120, 5300, orderly["local"]), whole(server(a), 5300, 120, orderly["peer"]))...)
	for _, r := range got {
		if r.Event == nameOpen && r.Role == "server" && r.handshake != -1 {
			s.t.Errorf("the server's handshake took %v s, want it unknown", r.handshake)
		}
	}
}

// overflowing gives a client that takes itself for connected, where the server's queue has had no room
// for it, and the listener with the connection that takes the room.
func (s *scene) overflowing() (k, first, l *actor.Socket) {
	p, q := s.caller(), s.caller()
	l = q.Listen(anyPort, 0) // room for one
	k = p.Socket(unix.AF_INET, 0)
	k.NonBlocking()
	k.Deafen() // its SYN is answered while there is room
	errnoIs(s.t, "connecting", k.TryConnect(l.Local), unix.EINPROGRESS)
	first = p.Dial(l.Local)
	k.Hear() // its ACK comes, with the SYN-ACK's retransmission, when there is none
	k.Poll(unix.POLLOUT)
	return k, first, l
}

// queueOverflow: the server drops the ACK, and has the connection once there is room and the client
// has sent something.
func queueOverflow(s *scene) {
	k, first, l := s.overflowing()
	a := turned(first)
	a.By = l.By
	s.expect(opened(client(k)), opened(client(first)), opened(server(a)))
	b := l.Accept()
	k.Write(120)
	c := l.Accept()
	c.Read(120)
	hangUp(first, b)
	hangUp(k, c)
	s.expect(slices.Concat(
		whole(client(first), 0, 0, orderly["local"]), whole(server(b), 0, 0, orderly["peer"]),
		whole(client(k), 120, 0, orderly["local"]), whole(server(c), 0, 120, orderly["peer"]),
	)...)
}

// queueOverflowReset: the server answers the ACK with RST. It never has a socket for it.
func queueOverflowReset(s *scene) {
	s.ns.Sysctl("ipv4.tcp_abort_on_overflow", "1")
	k, first, l := s.overflowing()
	errnoIs(s.t, "reading", k.ReadError(), unix.ECONNRESET)
	k.Close()
	a := l.Accept()
	hangUp(first, a)
	s.expect(slices.Concat(
		whole(client(first), 0, 0, orderly["local"]), whole(server(a), 0, 0, orderly["peer"]),
		whole(client(k), 0, 0, isReset),
	)...)
}

// synDropped: with a full queue the SYN itself goes unanswered.
func synDropped(s *scene) {
	p, q := s.caller(), s.caller()
	l := q.Listen(anyPort, 0)
	first := p.Dial(l.Local)
	k := impatient(p)
	k.Bind(netip.MustParseAddrPort(anyPort))
	local := k.Local
	errnoIs(s.t, "connecting", k.TryConnect(l.Local), unix.ETIMEDOUT)
	k.Local = local
	a := l.Accept()
	hangUp(first, a)
	s.expect(slices.Concat([]told{failed(client(k), "timed_out")},
		whole(client(first), 0, 0, orderly["local"]), whole(server(a), 0, 0, orderly["peer"]))...)
}

// handshakeReset: of a handshake that its client takes back the server has no socket, the kernel counts it alone.
func handshakeReset(s *scene) {
	w := s.wire()
	l := s.caller().Listen(anyPort, 16)
	w.send(packet{from: netip.MustParseAddrPort("127.0.0.1:1"), to: l.Local, seq: 1, flags: flagSYN})
	w.await(func(p packet) bool { return p.to == l.Local && p.flags&flagRST != 0 })
	s.explained["attempt_fails"] = 1
	s.expect()
}

// acceptBlocked: a tracer that comes later knows whose connection it is.
func acceptBlocked(s *scene) {
	p, q := s.caller(), s.caller()
	l := q.Listen(anyPort, 16)
	q.Begin(unix.SYS_ACCEPT4, l.FD, 0, 0, 0)
	q.Await(unix.SYS_ACCEPT4)
	later := *s
	later.tr = startTrace(s.t, undisturbed)
	eventually(s.t, func() bool { return later.tr.now().Running }, nil)
	c := p.Dial(l.Local)
	fd, errno := q.End()
	errnoIs(s.t, "accepting", errno, unix.Errno(0))
	a := turned(c)
	a.By, a.FD = q, fd
	hangUp(c, a)
	want := func(source string) []told {
		return slices.Concat(whole(client(c), 0, 0, orderly["local"]), whole(of(a, "server", source), 0, 0, orderly["peer"]))
	}
	s.expect(want("listen")...)
	later.expect(want("file")...)
}

func closedBeforeAccept(s *scene) {
	p, q := s.caller(), s.caller()
	l := q.Listen(anyPort, 16)
	c := p.Dial(l.Local)
	c.Write(120)
	c.Close()
	a := turned(c)
	a.By = q
	s.expect(append(whole(client(c), 120, 0, orderly["local"]), opened(server(a)))...)
	a = l.Accept()
	a.Read(120)
	a.Read(0)
	a.Close()
	s.expect(slices.Concat(whole(client(c), 120, 0, orderly["local"]), whole(server(a), 0, 120, orderly["peer"]))...)
}

func resetBeforeAccept(s *scene) {
	p, q := s.caller(), s.caller()
	l := q.Listen(anyPort, 16)
	c := p.Dial(l.Local)
	c.Linger0()
	c.Close()
	a := turned(c)
	a.By = q
	want := slices.Concat(whole(client(c), 0, 0, resets), whole(server(a), 0, 0, isReset))
	s.expect(want...)
	a = l.Accept()
	errnoIs(s.t, "reading", a.ReadError(), unix.ECONNRESET)
	a.Close()
	s.expect(want...)
}

// queued are n connections that nobody accepts, and for more than which the queue has no room.
func (s *scene) queued(n int) (l *actor.Socket, clients []*actor.Socket) {
	p, q := s.caller(), s.caller()
	l = q.Listen(anyPort, n-1) // sk_acceptq_is_full: with one more
	for range n {
		clients = append(clients, p.Dial(l.Local))
	}
	return l, clients
}

// rejected are the records of connections that a listener has left unaccepted.
func rejected(t *testing.T, by *actor.Caller, clients []*actor.Socket) (want []told) {
	t.Helper()
	for _, c := range clients {
		errnoIs(t, "reading", c.ReadError(), unix.ECONNRESET)
		c.Close()
		a := turned(c)
		a.By = by
		want = append(want, whole(client(c), 0, 0, isReset)...)
		want = append(want, whole(server(a), 0, 0, isNotAccepted)...)
	}
	return want
}

func unaccepted(s *scene) {
	l, clients := s.queued(10)
	l.Close()
	s.expect(rejected(s.t, l.By, clients)...)
}

func listenerKilled(s *scene) {
	l, clients := s.queued(3)
	l.By.Kill()
	s.expect(rejected(s.t, l.By, clients)...)
}

func listenerDisconnected(s *scene) {
	l, clients := s.queued(3)
	l.Disconnect()
	s.expect(rejected(s.t, l.By, clients)...)
}
