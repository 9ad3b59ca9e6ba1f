package exporter

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/actor"
)

// vanishScenarios have a peer that is not heard of any more.
var vanishScenarios = []scenario{
	{"C17 keepalive", keepalive},
	{"C17 user timeout", userTimeout},
	{"C17 retransmission timeout", retransmissionTimeout},
	{"C17 timeout behind ICMP", timeoutBehindICMP},
	{"C18 orphaned in FIN_WAIT1", orphanedUnheard},
	{"C18 in LAST_ACK", lastACK},
}

// vanished is a connection whose server's end takes nothing any more.
func (s *scene) vanished() (c, a *actor.Socket) {
	c, a = connected(s.caller(), s.caller())
	a.Deafen()
	return c, a
}

// findOut has the server hear again, and close: the client's end is gone, so it is reset behind its FIN.
func (s *scene) findOut(a *actor.Socket) []told {
	a.Hear()
	a.Close()
	s.explained["estab_resets"]-- // the server's end left FIN_WAIT1
	return whole(server(a), 0, 0, end{"reset_received", "local", "connection_reset"})
}

func keepalive(s *scene) {
	c, a := s.vanished()
	for _, option := range []int{unix.TCP_KEEPIDLE, unix.TCP_KEEPINTVL, unix.TCP_KEEPCNT} {
		c.Set(unix.IPPROTO_TCP, option, 1)
	}
	c.Set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	errnoIs(s.t, "reading", c.ReadError(), unix.ETIMEDOUT)
	s.expect(append(whole(client(c), 0, 0, timesOut), opened(server(a)))...) // nobody has closed it
	c.Close()
	s.expect(slices.Concat(whole(client(c), 0, 0, timesOut), s.findOut(a))...)
}

func userTimeout(s *scene) {
	c, a := s.vanished()
	c.Set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 300)
	c.Write(120)
	errnoIs(s.t, "reading", c.ReadError(), unix.ETIMEDOUT)
	c.Close()
	got := s.expect(slices.Concat(whole(client(c), 120, 0, timesOut), s.findOut(a))...)
	s.wantResent(got)
}

// wantResent: what is sent again is counted as such, and its octets once.
func (s *scene) wantResent(got []told) {
	s.t.Helper()
	for _, r := range got {
		if r.Event == nameClose && r.Role == "client" && r.resent == 0 {
			s.t.Errorf("%+v: nothing sent again", r)
		}
	}
}

func retransmissionTimeout(s *scene) {
	s.ns.Sysctl("ipv4.tcp_retries2", "2")
	c, a := s.vanished()
	c.Write(120)
	errnoIs(s.t, "reading", c.ReadError(), unix.ETIMEDOUT)
	c.Close()
	got := s.expect(slices.Concat(whole(client(c), 120, 0, timesOut), s.findOut(a))...)
	s.wantResent(got)
}

// timeoutBehindICMP: a router says that nobody is at the port. That ends nothing that is open; once the
// retransmissions have no answer it is the socket's error.
func timeoutBehindICMP(s *scene) {
	w := s.wire()
	c, a := s.vanished()
	c.Set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1000)
	c.Write(120)
	const portUnreachable = 3
	w.unreachable(portUnreachable, w.await(func(p packet) bool { return p.from == c.Local && p.payload > 0 }))
	s.expect(opened(client(c)), opened(server(a)))
	errnoIs(s.t, "reading", c.ReadError(), unix.ECONNREFUSED)
	c.Close()
	got := s.expect(slices.Concat(whole(client(c), 120, 0, end{"timeout", "local", "connection_refused"}), s.findOut(a))...)
	s.wantResent(got)
}

// orphanedUnheard: nobody acknowledges the FIN of a socket that no process has any more.
func orphanedUnheard(s *scene) {
	s.ns.Sysctl("ipv4.tcp_orphan_retries", "1")
	c, a := s.vanished()
	c.Close()
	s.expect(slices.Concat(whole(client(c), 0, 0, timesOut), []told{opened(server(a))})...)
	s.explained["estab_resets"]-- // the client's end left FIN_WAIT1
	s.expect(slices.Concat(whole(client(c), 0, 0, timesOut), s.findOut(a))...)
}

// lastACK: the last segment of all is never acknowledged.
func lastACK(s *scene) {
	s.ns.Sysctl("ipv4.tcp_orphan_retries", "1")
	c, a := connected(s.caller(), s.caller())
	c.Shutdown(unix.SHUT_WR)
	c.AwaitState(unix.BPF_TCP_FIN_WAIT2)
	c.Deafen()
	a.Close()
	s.explained["estab_resets"]-- // the server's end left LAST_ACK
	s.expect(slices.Concat([]told{opened(client(c))}, whole(server(a), 0, 0, end{"timeout", "peer", "timed_out"}))...)
	c.Close()
	s.expect(slices.Concat(whole(client(c), 0, 0, orderly["local"]), whole(server(a), 0, 0, end{"timeout", "peer", "timed_out"}))...)
}
