package exporter

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/actor"
)

// connectScenarios are attempts to connect, and their failures.
var connectScenarios = []scenario{
	{"C1 IPv4-mapped crowd", mappedCrowd},
	{"C3 refused", refused},
	{"C3 timed out", timedOut},
	{"C3 host unreachable", func(s *scene) { unreachable(s, 1, unix.EHOSTUNREACH, "host_unreachable") }},
	{"C3 network unreachable", func(s *scene) { unreachable(s, 0, unix.ENETUNREACH, "network_unreachable") }},
	{"C4 killed while connecting", killedConnecting},
	{"C4 gives up connecting", givesUp},
	{"C4 EINTR", interrupted},
	{"C4 stopped while connecting", stopped},
	{"C5 no route", noRoute},
	{"C5 local address in use", addressInUse},
	{"C5 no free port", noFreePort},
	{"C6 Fast Open client", fastOpenClient},
	{"C6 Fast Open client without a cookie", fastOpenWithoutCookie},
	{"C7 accepted in SYN_RECV", acceptedInSynRecv},
	{"C7 closed in SYN_RECV", closedInSynRecv},
	{"C7 never established", neverEstablished},
	{"connects to itself", connectsToItself},
}

func mappedCrowd(s *scene) {
	n := 2000
	if testing.Short() {
		n = 200
	}
	plan := actor.Plan{Listen: "127.0.0.1:0", Mapped: true, Request: 100, Reply: 100, How: actor.ClientCloses, Connections: n, Workers: 4}
	p := s.ns.Start("crowd", plan)
	p.Report()
	p.Wait()
	s.countPairs(n, 100, 100)
}

// countPairs wants n connections of one process over loopback, each told by both ends, in order, the
// client's end first, with so many octets of request and reply, and under one id.
func (s *scene) countPairs(n int, request, reply int64) {
	s.t.Helper()
	counts, ids := map[string]int{}, map[string]int{}
	for _, r := range s.await(4 * n) {
		kind := r.Event + " " + r.Role
		counts[kind]++
		ids[r.id]++
		want := map[string]told{
			"client": {Sent: request, Received: reply, Reason: "fin", Initiator: "local"},
			"server": {Sent: reply, Received: request, Reason: "fin", Initiator: "peer"},
		}[r.Role]
		if r.Event == nameOpen {
			want = told{}
		}
		got := told{Sent: r.Sent, Received: r.Received, Reason: r.Reason, Initiator: r.Initiator, Error: r.Error}
		if r.Synthesized {
			s.excuse()
		}
		if got != want || !r.Local.Addr().Is4() || !r.Peer.Addr().Is4() {
			s.t.Fatalf("%+v, want %+v, and IPv4", r, want)
		}
	}
	for _, kind := range []string{nameOpen + " client", nameClose + " client", nameOpen + " server", nameClose + " server"} {
		if counts[kind] != n {
			s.excuse()
			s.t.Errorf("%s: %d, want %d", kind, counts[kind], n)
		}
	}
	if len(ids) != n {
		s.t.Errorf("%d connection ids, want %d", len(ids), n)
	}
}

func refused(s *scene) {
	p := s.caller()
	var want []told
	for _, to := range []struct {
		family   int
		from, to string
	}{
		{unix.AF_INET, "127.0.0.1:0", "127.0.0.1:1"},
		{unix.AF_INET6, "[::1]:0", "[::1]:1"},
		{unix.AF_INET6, "127.0.0.1:0", "127.0.0.1:1"}, // IPv4-mapped
	} {
		k := p.Socket(to.family, 0)
		k.Bind(netip.MustParseAddrPort(to.from))
		local := k.Local
		errnoIs(s.t, "connecting", k.TryConnect(netip.MustParseAddrPort(to.to)), unix.ECONNREFUSED)
		k.Close()
		k.Local = local
		want = append(want, failed(client(k), "connection_refused"))
	}
	for _, r := range s.expect(want...) {
		if r.duration <= 0 {
			s.t.Errorf("the attempt lasted %v s, want some time", r.duration)
		}
	}
}

// silent is an address that does not answer, and a process that listens there.
func (s *scene) silent() *actor.Socket {
	l := s.caller().Listen(anyPort, 16)
	l.Deafen()
	return l
}

// impatient is a socket that gives up with its first retransmission, after a second.
func impatient(p *actor.Caller) *actor.Socket {
	k := p.Socket(unix.AF_INET, 0)
	k.Set(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 500)
	return k
}

func timedOut(s *scene) {
	k := impatient(s.caller())
	k.Bind(netip.MustParseAddrPort(anyPort))
	local := k.Local
	errnoIs(s.t, "connecting", k.TryConnect(s.silent().Local), unix.ETIMEDOUT)
	k.Local = local
	if got := s.expect(failed(client(k), "timed_out")); got[0].duration < 0.9 {
		s.t.Errorf("the attempt lasted %v s, want about 1", got[0].duration)
	}
}

// unreachable: a router says that there is no way, while the SYN is out.
func unreachable(s *scene, code byte, errno unix.Errno, errorType string) {
	w := s.wire()
	l := s.silent()
	k := s.caller().Socket(unix.AF_INET, 0)
	k.NonBlocking()
	errnoIs(s.t, "connecting", k.TryConnect(l.Local), unix.EINPROGRESS)
	syn := w.await(func(p packet) bool { return p.flags == flagSYN && p.from == k.Local })
	w.unreachable(code, syn)
	k.Poll(unix.POLLOUT)
	errnoIs(s.t, "connecting", k.Error(), errno)
	s.expect(failed(client(k), errorType))
}

func killedConnecting(s *scene) {
	p, l := s.caller(), s.silent()
	k := p.Socket(unix.AF_INET, 0)
	k.Bind(netip.MustParseAddrPort(anyPort))
	k.BeginConnect(l.Local)
	p.Await(unix.SYS_CONNECT)
	p.Kill()
	k.Peer = l.Local
	s.expect(failed(client(k), "interrupted"))
}

func givesUp(s *scene) {
	p, l := s.caller(), s.silent()
	k := p.Socket(unix.AF_INET, 0)
	k.NonBlocking()
	errnoIs(s.t, "connecting", k.TryConnect(l.Local), unix.EINPROGRESS)
	k.Close()
	s.expect(failed(client(k), "connection_aborted"))
}

// interrupted: the call ends with EINTR, the attempt goes on without it.
func interrupted(s *scene) {
	p, l := s.caller(), s.silent()
	k := p.Socket(unix.AF_INET, 0)
	limit := make(actor.Buffer, 16) // struct timeval; without it the call would begin anew
	binary.NativeEndian.PutUint64(limit, 20)
	if _, errno := p.Call(unix.SYS_SETSOCKOPT, k.FD, unix.SOL_SOCKET, unix.SO_SNDTIMEO, limit, len(limit)); errno != 0 {
		s.t.Fatal(errno)
	}
	k.Bind(netip.MustParseAddrPort(anyPort))
	k.BeginConnect(l.Local)
	p.Await(unix.SYS_CONNECT)
	p.Signal(unix.SIGURG)
	_, errno := p.End()
	errnoIs(s.t, "connecting", errno, unix.EINTR)
	s.expect()
	l.Hear()
	k.Poll(unix.POLLOUT)
	k.Peer = l.Local
	a := l.Accept()
	hangUp(k, a)
	got := s.expect(slices.Concat(whole(client(k), 0, 0, orderly["local"]), whole(server(a), 0, 0, orderly["peer"]))...)
	for _, r := range got {
		if r.Role == "client" && r.Event == nameOpen && r.handshake < 0.9 {
			s.t.Errorf("handshake %v s, want more than 1: one SYN was lost", r.handshake)
		}
	}
}

// stopped: a process that does not run has its connection established all the same.
func stopped(s *scene) {
	p, l := s.caller(), s.silent()
	k := p.Socket(unix.AF_INET, 0)
	k.NonBlocking()
	errnoIs(s.t, "connecting", k.TryConnect(l.Local), unix.EINPROGRESS)
	if err := unix.Kill(p.PID(), unix.SIGSTOP); err != nil {
		s.t.Fatal(err)
	}
	l.Hear()
	a := l.Accept()
	s.expect(opened(client(k)), opened(server(a)))
	if err := unix.Kill(p.PID(), unix.SIGCONT); err != nil {
		s.t.Fatal(err)
	}
	hangUp(k, a)
	s.expect(slices.Concat(whole(client(k), 0, 0, orderly["local"]), whole(server(a), 0, 0, orderly["peer"]))...)
}

func noRoute(s *scene) {
	k := s.caller().Socket(unix.AF_INET, 0)
	errnoIs(s.t, "connecting", k.TryConnect(netip.MustParseAddrPort("192.0.2.1:80")), unix.ENETUNREACH)
	k.Close()
	time.Sleep(50 * time.Millisecond)
	s.expect()
}

func addressInUse(s *scene) {
	p := s.caller()
	l := p.Listen(anyPort, 1)
	k := p.Socket(unix.AF_INET, 0)
	_, errno := p.Call(unix.SYS_BIND, k.FD, sockaddr(l.Local), unix.SizeofSockaddrInet4)
	errnoIs(s.t, "binding", errno, unix.EADDRINUSE)
	k.Close()
	s.expect()
}

func sockaddr(a netip.AddrPort) actor.Buffer {
	b := make(actor.Buffer, unix.SizeofSockaddrInet4)
	binary.NativeEndian.PutUint16(b, unix.AF_INET)
	binary.BigEndian.PutUint16(b[2:], a.Port())
	copy(b[4:], a.Addr().AsSlice())
	return b
}

// noFreePort: the one port that there is leads to that server already.
func noFreePort(s *scene) {
	p := s.caller()
	l := p.Listen("127.0.0.1:8080", 16)
	s.ns.Sysctl("ipv4.ip_local_port_range", "40000 40000")
	first := p.Dial(l.Local)
	a := l.Accept()
	second := p.Socket(unix.AF_INET, 0)
	errnoIs(s.t, "connecting", second.TryConnect(l.Local), unix.EADDRNOTAVAIL)
	second.Close()
	second.Local = netip.MustParseAddrPort(anyPort)
	hangUp(first, a)
	s.expect(slices.Concat([]told{failed(client(second), "address_not_available")},
		whole(client(first), 0, 0, orderly["local"]), whole(server(a), 0, 0, orderly["peer"]))...)
}

// fastOpen says to both sides what the namespace is to allow.
func (s *scene) fastOpen(mode string) {
	s.t.Helper()
	s.needs(s.ns.Sysctl("ipv4.tcp_fastopen", mode), "CONFIG_INET with TCP Fast Open")
}

const (
	withCookie    = "3"     // client and server
	withoutCookie = "0x607" // and neither wants one
)

func (s *scene) fastListen(p *actor.Caller) *actor.Socket {
	l := p.Listen(anyPort, 16)
	l.Set(unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 16)
	return l
}

// fastWrite connects and writes in one.
func fastWrite(p *actor.Caller, to netip.AddrPort, n int) *actor.Socket {
	k := p.Socket(unix.AF_INET, 0)
	k.Bind(netip.MustParseAddrPort(anyPort))
	k.SendTo(to, n, unix.MSG_FASTOPEN)
	return k
}

func fastOpenClient(s *scene) {
	s.fastOpen(withCookie)
	p := s.caller()
	l := s.fastListen(p)
	var want []told
	for range 2 { // the first asks for the cookie, the second uses it
		k := fastWrite(p, l.Local, 120)
		a := l.Accept()
		a.Read(120)
		a.Write(5300)
		k.Read(5300)
		hangUp(k, a)
		want = append(want, whole(client(k), 120, 5300, orderly["local"])...)
		want = append(want, whole(server(a), 5300, 120, orderly["peer"])...)
	}
	s.expect(want...)
}

func fastOpenWithoutCookie(s *scene) {
	s.fastOpen(withoutCookie)
	p := s.caller()
	l := s.fastListen(p)
	k := fastWrite(p, l.Local, 120)
	a := l.Accept()
	a.Read(120)
	hangUp(k, a)
	s.expect(slices.Concat(whole(client(k), 120, 0, orderly["local"]), whole(server(a), 0, 120, orderly["peer"]))...)
}

// fastDeaf is a connection whose client does not hear the server's SYN-ACK: the server's end is in SYN_RECV,
// and accepted.
func (s *scene) fastDeaf() (k, a *actor.Socket) {
	s.fastOpen(withoutCookie)
	p, q := s.caller(), s.caller()
	l := s.fastListen(q)
	k = p.Socket(unix.AF_INET, 0)
	k.NonBlocking()
	k.Bind(netip.MustParseAddrPort(anyPort))
	k.Deafen()
	k.SendTo(l.Local, 120, unix.MSG_FASTOPEN)
	a = l.Accept()
	a.Read(120)
	if state := a.State(); state != unix.BPF_TCP_SYN_RECV {
		s.t.Fatalf("the accepted socket is in state %d, want SYN_RECV", state)
	}
	return k, a
}

func acceptedInSynRecv(s *scene) {
	k, a := s.fastDeaf()
	s.expect()
	k.Hear()
	a.AwaitState(unix.BPF_TCP_ESTABLISHED)
	hangUp(k, a)
	s.expect(slices.Concat(whole(client(k), 120, 0, orderly["local"]), whole(server(a), 0, 120, orderly["peer"]))...)
}

// closedInSynRecv: the server has read the request, and closes before it has heard that the client is there.
func closedInSynRecv(s *scene) {
	k, a := s.fastDeaf()
	a.Close()
	k.Hear()
	k.Poll(unix.POLLIN)
	k.Read(0)
	k.Close()
	s.expect(slices.Concat(whole(client(k), 120, 0, orderly["peer"]), whole(server(a), 0, 120, orderly["local"]))...)
}

// neverEstablished: both ends give up before either has heard of the other's SYN-ACK or ACK.
func neverEstablished(s *scene) {
	k, a := s.fastDeaf()
	k.Close()
	a.Linger0()
	a.Close()
	s.expect(failed(client(k), "connection_aborted"), failed(server(a), "connection_aborted"))
}

// connectsToItself is the simultaneous open of RFC 9293 figure 7, and the simultaneous close of figure 13.
func connectsToItself(s *scene) {
	p := s.caller()
	k := p.Socket(unix.AF_INET, 0)
	k.Bind(netip.MustParseAddrPort(anyPort))
	k.Connect(k.Local)
	k.Write(120)
	k.Read(120)
	k.Close()
	s.expect(whole(client(k), 120, 120, end{"fin", "both", ""})...)
}
