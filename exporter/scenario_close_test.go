package exporter

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/actor"
)

// closeScenarios are the ways in which a connection comes to its end while both ends are there.
var closeScenarios = []scenario{
	{"C15 half-closed for long", halfClosed},
	{"C15 shutdown of reading alone", shutdownReading},
	{"C16 SO_LINGER 0 behind a half-close", lingerBehindHalfClose},
	{"C16 unread data behind the peer's FIN", unreadBehindFIN},
	{"C17 RST received, not closed", resetNotClosed},
	{"C17 RST behind the own FIN", resetBehindFIN},
	{"C17 RST behind the peer's FIN", resetBehindPeersFIN},
	{"C18 orphaned in FIN_WAIT2", orphaned},
	{"C18 TCP_LINGER2", linger2},
	{"C18 data behind close", dataBehindClose},
	{"C19 TIME_WAIT", timeWait},
	{"C20 local port at the end", localPort},
	{"C32 both ends close at once", bothClose},
	{"closed by an administrator", destroyed},
}

func halfClosed(s *scene) {
	c, a := connected(s.caller(), s.caller())
	c.Shutdown(unix.SHUT_WR)
	a.Read(0)
	for range 3 {
		a.Write(1000)
		c.Read(1000)
	}
	s.expect(opened(client(c)), opened(server(a)))
	a.Close()
	c.Read(0)
	c.Close()
	s.expect(slices.Concat(whole(client(c), 0, 3000, orderly["local"]), whole(server(a), 3000, 0, orderly["peer"]))...)
}

// shutdownReading says nothing on the wire, and nothing is told of it.
func shutdownReading(s *scene) {
	c, a := connected(s.caller(), s.caller())
	c.Shutdown(unix.SHUT_RD)
	s.expect(opened(client(c)), opened(server(a)))
	hangUp(c, a)
	s.expect(slices.Concat(whole(client(c), 0, 0, orderly["local"]), whole(server(a), 0, 0, orderly["peer"]))...)
}

// lingerBehindHalfClose: the FIN came first, the RST ended it.
func lingerBehindHalfClose(s *scene) {
	c, a := connected(s.caller(), s.caller())
	c.Shutdown(unix.SHUT_WR)
	a.Read(0)
	c.Linger0()
	c.Close()
	errnoIs(s.t, "the server's error", a.Error(), unix.EPIPE) // tcp_reset, in CLOSE_WAIT
	a.Close()
	s.explained["estab_resets"] = -1 // the client's end left FIN_WAIT2
	s.expect(slices.Concat(whole(client(c), 0, 0, resets),
		whole(server(a), 0, 0, end{"reset_received", "peer", "connection_reset"}))...)
}

// unreadBehindFIN: the peer has closed in order; that its data was not read shows when this end closes.
func unreadBehindFIN(s *scene) {
	c, a := connected(s.caller(), s.caller())
	c.Write(120)
	c.Shutdown(unix.SHUT_WR)
	a.AwaitUnread(120)
	a.AwaitState(unix.BPF_TCP_CLOSE_WAIT)
	s.answerFIN(c, a, 120)
}

// answerFIN has the server close, by RST, a connection that the client has closed in order, with so many
// octets sent.
func (s *scene) answerFIN(c, a *actor.Socket, sent int64) {
	s.t.Helper()
	a.Close()
	errnoIs(s.t, "reading", c.ReadError(), unix.ECONNRESET)
	c.Close()
	s.explained["estab_resets"] = -1 // the client's end left FIN_WAIT2
	s.expect(slices.Concat(
		whole(client(c), sent, 0, end{"reset_received", "local", "connection_reset"}),
		whole(server(a), 0, sent, end{"reset_sent", "peer", "connection_aborted"}),
	)...)
}

// resetNotClosed: the end is told when it comes, whenever the process may notice.
func resetNotClosed(s *scene) {
	c, a := connected(s.caller(), s.caller())
	a.Linger0()
	a.Close()
	want := slices.Concat(whole(client(c), 0, 0, isReset), whole(server(a), 0, 0, resets))
	s.expect(want...)
	errnoIs(s.t, "reading", c.ReadError(), unix.ECONNRESET)
	c.Close()
	time.Sleep(20 * time.Millisecond)
	s.expect(want...)
}

// resetBehindFIN: the other end answers the FIN with RST.
func resetBehindFIN(s *scene) {
	c, a := connected(s.caller(), s.caller())
	c.Shutdown(unix.SHUT_WR)
	a.Read(0)
	a.Linger0()
	s.answerFIN(c, a, 0)
}

// resetBehindPeersFIN: data for an end that has closed is answered with RST (RFC 9293 section 3.6.1).
func resetBehindPeersFIN(s *scene) {
	c, a := connected(s.caller(), s.caller())
	c.Close()
	a.Read(0)
	s.expect(append(whole(client(c), 0, 0, orderly["local"]), opened(server(a)))...) // the FIN is acknowledged
	a.Write(120)
	errnoIs(s.t, "the server's error", a.Error(), unix.EPIPE)
	a.Close()
	s.expect(slices.Concat(whole(client(c), 0, 0, orderly["local"]),
		whole(server(a), 120, 0, end{"reset_received", "peer", "connection_reset"}))...)
}

// orphaned: close has returned; the peer goes on, for as long as it likes.
func orphaned(s *scene) {
	c, a := connected(s.caller(), s.caller())
	c.Close()
	a.Read(0)
	s.expect(append(whole(client(c), 0, 0, orderly["local"]), opened(server(a)))...)
	a.Close()
	s.expect(slices.Concat(whole(client(c), 0, 0, orderly["local"]), whole(server(a), 0, 0, orderly["peer"]))...)
}

// linger2 has the kernel not wait for the peer's FIN.
func linger2(s *scene) {
	c, a := connected(s.caller(), s.caller())
	c.Set(unix.IPPROTO_TCP, unix.TCP_LINGER2, -1)
	c.Close()
	a.Poll(unix.POLLERR)
	a.Close()
	s.explained["estab_resets"] = -1 // the client's end left FIN_WAIT2
	s.expect(slices.Concat(whole(client(c), 0, 0, resets),
		whole(server(a), 0, 0, end{"reset_received", "peer", "connection_reset"}))...)
}

// dataBehindClose: the peer's answer acknowledges the FIN of an end that has closed, and nobody is there to read it.
func dataBehindClose(s *scene) {
	c, a := connected(s.caller(), s.caller())
	a.Deafen()
	c.Close() // unheard
	a.Write(120)
	a.Hear()
	a.Poll(unix.POLLERR)
	a.Close()
	s.explained["estab_resets"] = -1 // the client's end left FIN_WAIT1
	s.expect(slices.Concat(whole(client(c), 0, 0, resets), whole(server(a), 120, 0, isReset))...)
}

// timeWait: the connection is over; what waits is not told. Its tuple is used again meanwhile.
func timeWait(s *scene) {
	p, q := s.caller(), s.caller()
	l := q.Listen(anyPort, 16)
	var want []told
	for range 3 {
		c := p.Socket(unix.AF_INET, 0)
		c.Set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		c.Bind(fixed)
		c.Connect(l.Local)
		a := l.Accept()
		hangUp(a, c)
		want = append(want, whole(client(c), 0, 0, orderly["peer"])...)
		want = append(want, whole(server(a), 0, 0, orderly["local"])...)
		s.expect(want...)
	}
	s.distinct(3)
}

// localPort: inet_put_port has taken it from a socket that was not bound before it is told that it is over.
func localPort(s *scene) {
	c, a := connected(s.caller(), s.caller())
	hangUp(c, a)
	for _, r := range s.expect(slices.Concat(whole(client(c), 0, 0, orderly["local"]), whole(server(a), 0, 0, orderly["peer"]))...) {
		if r.Local.Port() == 0 || r.Peer.Port() == 0 {
			s.t.Errorf("%+v: no port", r)
		}
	}
}

// bothClose: FINs that cross, many times over. Who is told to have begun is whose FIN came first at
// that end; each connection is told whole and once.
func bothClose(s *scene) {
	const n = 50
	p, q := s.caller(), s.caller()
	type pair struct{ c, a *actor.Socket }
	var all []pair
	for range n {
		c, a := connected(p, q)
		all = append(all, pair{c, a})
	}
	for _, x := range all {
		p.Begin(unix.SYS_CLOSE, x.c.FD)
		q.Begin(unix.SYS_CLOSE, x.a.FD)
		p.End()
		q.End()
	}
	began := map[string]string{}
	for _, r := range s.await(4 * n) {
		if r.Event == nameClose {
			began[r.Local.String()+r.Peer.String()] = r.Initiator
		}
	}
	var want []told
	for _, x := range all {
		one := began[x.c.Local.String()+x.c.Peer.String()]
		other := began[x.a.Local.String()+x.a.Peer.String()]
		if one+other != "localpeer" && one+other != "peerlocal" && one+other != "bothboth" {
			s.t.Errorf("the client says that %s began to close, the server that it was %s", one, other)
		}
		want = append(want, whole(client(x.c), 0, 0, end{"fin", one, ""})...)
		want = append(want, whole(server(x.a), 0, 0, end{"fin", other, ""})...)
	}
	s.expect(want...)
}

// destroyed is what ss --kill does.
func destroyed(s *scene) {
	c, a := connected(s.caller(), s.caller())
	var errno unix.Errno
	s.ns.Do("destroying a socket", func() (err error) {
		errno, err = sockDestroy(c)
		return err
	})
	s.needs(errno != unix.EOPNOTSUPP && errno != unix.ENOENT, "CONFIG_INET_DIAG_DESTROY, and CONFIG_INET_TCP_DIAG built in or loaded")
	errnoIs(s.t, "destroying", errno, unix.Errno(0))
	errnoIs(s.t, "reading", c.ReadError(), unix.ECONNABORTED)
	c.Close()
	errnoIs(s.t, "reading", a.ReadError(), unix.ECONNRESET)
	a.Close()
	s.expect(slices.Concat(whole(client(c), 0, 0, resets), whole(server(a), 0, 0, isReset))...)
}

// sockDestroy asks by SOCK_DESTROY (linux/sock_diag.h), and gives the kernel's answer.
func sockDestroy(k *actor.Socket) (unix.Errno, error) {
	const sockDestroy, request = 21, 16 + 56
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return unix.EOPNOTSUPP, nil
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	b := make([]byte, request) // struct nlmsghdr, struct inet_diag_req_v2
	binary.NativeEndian.PutUint32(b, request)
	binary.NativeEndian.PutUint16(b[4:], sockDestroy)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	r := b[16:]
	r[0], r[1] = unix.AF_INET, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(r[4:], 1<<unix.BPF_TCP_ESTABLISHED)
	binary.BigEndian.PutUint16(r[8:], k.Local.Port())
	binary.BigEndian.PutUint16(r[10:], k.Peer.Port())
	copy(r[12:], k.Local.Addr().AsSlice())
	copy(r[28:], k.Peer.Addr().AsSlice())
	binary.NativeEndian.PutUint64(r[48:], ^uint64(0)) // INET_DIAG_NOCOOKIE
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil || n < 20 {
		return 0, err
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(answer[16:]))), nil
}
