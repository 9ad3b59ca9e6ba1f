package exporter

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/actor"
)

// kernelScenarios have the kernel itself do more than usual.
var kernelScenarios = []scenario{
	{"C28 a socket of the kernel's own", inKernel},
	{"C29 same tuple in two network namespaces", twoNamespaces},
	{"C29 network namespace goes with its sockets", namespaceGoes},
	{"C30 MPTCP", multipath},
	{"C30 MPTCP, falling back", multipathFallback},
	{"C30 MPTCP, killed", multipathKilled},
	{"C30 MPTCP, not accepted", multipathUnaccepted},
	{"C31 sockmap", sockmap},
	{"C31 kTLS", kernelTLS},
	{"TCP_REPAIR", repaired},
}

const protoMPTCP = 262

// multipathListen is a listener of MPTCP and a client's socket.
func (s *scene) multipathListen(p, q *actor.Caller) (l, c *actor.Socket) {
	l, errno := q.TrySocket(unix.AF_INET, protoMPTCP)
	s.needs(errno == 0, "CONFIG_MPTCP, and net.mptcp.enabled=1")
	l.Bind(netip.MustParseAddrPort(anyPort))
	l.Listen(16)
	return l, p.Socket(unix.AF_INET, protoMPTCP)
}

// multipath is told by its subflow, which is a TCP connection like any other.
func multipath(s *scene) {
	l, c := s.multipathListen(s.caller(), s.caller())
	c.Connect(l.Local)
	a := l.Accept()
	s.exchange(c, a)
}

// multipathFallback: the other end is plain TCP.
func multipathFallback(s *scene) {
	l, c := s.multipathListen(s.caller(), s.caller())
	l.Close()
	plain := s.caller().Listen(anyPort, 16)
	c.Connect(plain.Local)
	a := plain.Accept()
	c.Write(120)
	a.Read(120)
	hangUp(c, a)
	s.expect(slices.Concat(whole(client(c), 120, 0, orderly["local"]), whole(server(a), 0, 120, orderly["peer"]))...)
}

func multipathKilled(s *scene) {
	l, c := s.multipathListen(s.caller(), s.caller())
	c.Connect(l.Local)
	a := l.Accept()
	c.By.Kill()
	a.Read(0)
	a.Close()
	s.expect(slices.Concat(whole(client(c), 0, 0, orderly["local"]), whole(server(a), 0, 0, orderly["peer"]))...)
}

func multipathUnaccepted(s *scene) {
	l, c := s.multipathListen(s.caller(), s.caller())
	c.Connect(l.Local)
	l.Close()
	c.ReadError()
	c.Close()
	a := turned(c)
	a.By = l.By
	s.expect(slices.Concat(whole(client(c), 0, 0, isReset), whole(server(a), 0, 0, isNotAccepted))...)
}

// inKernel: a worker of the kernel makes another subflow, from another address.
func inKernel(s *scene) {
	l, c := s.multipathListen(s.caller(), s.caller())
	for _, args := range []string{
		"addr add 10.5.0.1/32 dev lo", "addr add 10.5.0.2/32 dev lo",
		"mptcp limits set subflow 2 add_addr_accepted 2", "mptcp endpoint add 10.5.0.2 dev lo subflow",
	} {
		var out []byte
		var err error
		s.ns.Do("configuring", func() error {
			out, err = exec.Command("ip", strings.Fields(args)...).CombinedOutput()
			return nil
		})
		s.needs(err == nil, fmt.Sprintf("ip %s: %v: %s", args, err, out))
	}
	l.Close()
	c.Close()
	l, c = l.By.Socket(unix.AF_INET, protoMPTCP), c.By.Socket(unix.AF_INET, protoMPTCP) // they look at the limits now
	l.Bind(netip.MustParseAddrPort("10.5.0.1:0"))
	l.Listen(16)
	c.Connect(l.Local)
	a := l.Accept()
	c.Write(120)
	a.Read(120)
	a.Write(300)
	c.Read(300)
	kernels := func() []told {
		return slices.DeleteFunc(s.records(), func(r told) bool { return r.PID == int64(c.By.PID()) || r.PID == int64(a.By.PID()) })
	}
	for deadline := time.Now().Add(3 * time.Second); len(kernels()) == 0 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	hangUp(c, a)
	time.Sleep(50 * time.Millisecond)
	own := kernels()
	want := slices.Concat(whole(client(c), 120, 300, orderly["local"]), whole(server(a), 300, 120, orderly["peer"]))
	if len(own) == 0 {
		s.expect(want...)
		s.needs(false, "an MPTCP path manager that tries another subflow over loopback")
	}
	// Which worker, and from which port, is the kernel's choice.
	worker := told{
		Role: "client", OwnerSource: "connect", PID: own[0].PID, Process: own[0].Process,
		Local: netip.AddrPortFrom(netip.MustParseAddr("10.5.0.2"), own[0].Local.Port()), Peer: l.Local,
	}
	if !strings.HasPrefix(worker.Process, "kworker/") {
		s.t.Errorf("%+v, want it made by a worker of the kernel", own[0])
	}
	joined := *a // to the same listener, which leaves it to the kernel as well
	joined.Local, joined.Peer = worker.Peer, worker.Local
	s.expect(slices.Concat(want, whole(worker, 0, 0, orderly["local"]), whole(server(&joined), 0, 0, orderly["peer"]))...)
}

// twoNamespaces have the same tuple at the same time.
func twoNamespaces(s *scene) {
	other := actor.NewNetNS(s.t)
	elsewhere := *s
	elsewhere.ns, elsewhere.netns = other, other.Inode()
	at := netip.MustParseAddrPort("127.0.0.1:8080")
	connect := func(p *actor.Caller) (c, a *actor.Socket) {
		l := p.Listen(at.String(), 16)
		c = p.Socket(unix.AF_INET, 0)
		c.Bind(fixed)
		c.Connect(at)
		a = l.Accept()
		return c, a
	}
	c, a := connect(s.caller())
	d, b := connect(other.Caller())
	c.Write(100)
	a.Read(100)
	d.Write(200)
	b.Read(200)
	hangUp(c, a)
	hangUp(b, d)
	s.expect(slices.Concat(whole(client(c), 100, 0, orderly["local"]), whole(server(a), 0, 100, orderly["peer"]))...)
	elsewhere.expect(slices.Concat(whole(client(d), 200, 0, orderly["peer"]), whole(server(b), 0, 200, orderly["local"]))...)
}

// namespaceGoes: the last process leaves, and an orphan whose peer does not hear it is all that is left.
func namespaceGoes(s *scene) {
	ns := actor.NewNetNS(s.t)
	elsewhere := *s
	elsewhere.ns, elsewhere.netns = ns, ns.Inode()
	ns.Sysctl("ipv4.tcp_orphan_retries", "1")
	p, q := ns.Caller(), ns.Caller()
	c, a := connected(p, q)
	c.Deafen()
	ns.Release()
	q.Kill()
	p.Kill()
	elsewhere.expect(slices.Concat(whole(client(c), 0, 0, timesOut), whole(server(a), 0, 0, end{"timeout", "both", "timed_out"}))...)
}

// sockmap takes the socket's functions over, close among them.
func sockmap(s *scene) {
	p := s.caller()
	c, a := connected(p, s.caller())
	m, errno := p.Sockmap()
	s.needs(errno != unix.EINVAL, "CONFIG_BPF_STREAM_PARSER")
	errnoIs(s.t, "creating a sockmap", errno, unix.Errno(0))
	errnoIs(s.t, "putting a socket into it", c.Put(m), unix.Errno(0))
	s.exchange(c, a)
}

// kernelTLS counts what is on the wire: the records of TLS with their headers and tags.
func kernelTLS(s *scene) {
	c, a := connected(s.caller(), s.caller())
	const tcpULP, solTLS, tlsTX, tlsRX = 31, 282, 1, 2
	name := actor.Buffer("tls\x00")
	for _, k := range []*actor.Socket{c, a} {
		_, errno := k.By.Call(unix.SYS_SETSOCKOPT, k.FD, unix.IPPROTO_TCP, tcpULP, name, len(name))
		s.needs(errno != unix.ENOENT, "CONFIG_TLS")
		errnoIs(s.t, "setting TCP_ULP", errno, unix.Errno(0))
	}
	key := make(actor.Buffer, 40) // struct tls12_crypto_info_aes_gcm_128, all keys zero
	binary.NativeEndian.PutUint16(key, 0x0303)
	binary.NativeEndian.PutUint16(key[2:], 51)
	for k, way := range map[*actor.Socket]int{c: tlsTX, a: tlsRX} {
		_, errno := k.By.Call(unix.SYS_SETSOCKOPT, k.FD, solTLS, way, key, len(key))
		s.needs(errno != unix.ENOENT, "CONFIG_CRYPTO_GCM and CONFIG_CRYPTO_AES")
		errnoIs(s.t, "setting keys", errno, unix.Errno(0))
	}
	c.Write(120)
	a.Read(120)
	hangUp(c, a)
	const wire = 5 + 8 + 120 + 16
	s.expect(slices.Concat(whole(client(c), wire, 0, orderly["local"]), whole(server(a), 0, wire, orderly["peer"]))...)
}

// repaired is how CRIU takes a connection away, without a word to the peer. By what the socket shows it
// cannot be told from one that is aborted.
func repaired(s *scene) {
	c, a := connected(s.caller(), s.caller())
	errno := c.TrySet(unix.IPPROTO_TCP, unix.TCP_REPAIR, 1)
	s.needs(errno != unix.EPERM, "CAP_NET_ADMIN over the socket's namespace")
	errnoIs(s.t, "setting TCP_REPAIR", errno, unix.Errno(0))
	c.Close()
	s.expect(append(whole(client(c), 0, 0, resets), opened(server(a)))...)
	a.Write(10) // into the void: answered by RST
	errnoIs(s.t, "reading", a.ReadError(), unix.ECONNRESET)
	a.Close()
	s.expect(slices.Concat(whole(client(c), 0, 0, resets), whole(server(a), 10, 0, isReset))...)
}
