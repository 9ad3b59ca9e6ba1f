package exporter

import (
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/actor"
)

// ownerScenarios pass sockets around.
var ownerScenarios = []scenario{
	{"C24 dup", duplicated},
	{"C24 fork", forked},
	{"C24 fork of a server", forkedServer},
	{"C24 accepted socket passed", passedServer},
	{"C24 connected socket passed", passedClient},
	{"C24 socket activation", activated},
	{"C24 hostile name", hostileName},
	{"C25 exit without close", exitsWithoutClose},
	{"C25 exit with unread data", exitsUnread},
	{"C26 io_uring", func(s *scene) { differently(s, actor.IOURing, "CONFIG_IO_URING, and kernel.io_uring_disabled=0") }},
	{"C27 32-bit system calls", func(s *scene) { differently(s, actor.Compat, "CONFIG_IA32_EMULATION (amd64)") }},
}

// duplicated: the connection goes on until the last descriptor is closed.
func duplicated(s *scene) {
	p := s.caller()
	c, a := connected(p, s.caller())
	other := *c
	fd, errno := p.Call(unix.SYS_DUP, c.FD)
	errnoIs(s.t, "dup", errno, unix.Errno(0))
	other.FD = fd
	c.Close()
	other.Write(120)
	a.Read(120)
	s.expect(opened(client(c)), opened(server(a)))
	hangUp(&other, a)
	s.expect(slices.Concat(whole(client(c), 120, 0, orderly["local"]), whole(server(a), 0, 120, orderly["peer"]))...)
}

// forked: who connected stays the owner, whoever closes it last.
func forked(s *scene) {
	p := s.caller()
	c, a := connected(p, s.caller())
	_, exit := p.Fork()
	c.Close()
	time.Sleep(20 * time.Millisecond)
	s.expect(opened(client(c)), opened(server(a)))
	exit()
	a.Read(0)
	a.Close()
	s.expect(slices.Concat(whole(client(c), 0, 0, orderly["local"]), whole(server(a), 0, 0, orderly["peer"]))...)
}

// forkedServer: the child that ends an accepted connection has served it.
func forkedServer(s *scene) {
	q := s.caller()
	c, a := connected(s.caller(), q)
	pid, exit := q.Fork()
	a.Close()
	time.Sleep(20 * time.Millisecond)
	s.expect(opened(client(c)), opened(server(a)))
	exit()
	c.Read(0)
	c.Close()
	end := closed(server(a), 0, 0, orderly["local"])
	end.PID, end.OwnerSource = int64(pid), "close"
	s.expect(append(whole(client(c), 0, 0, orderly["peer"]), opened(server(a)), end)...)
}

func passedServer(s *scene) {
	q, worker := s.caller(), s.caller()
	c, a := connected(s.caller(), q)
	b := a.Send(worker)
	a.Close()
	b.Write(120)
	c.Read(120)
	hangUp(b, c)
	s.expect(append(whole(client(c), 0, 120, orderly["peer"]),
		opened(server(a)), closed(of(b, "server", "close"), 120, 0, orderly["local"]))...)
}

func passedClient(s *scene) {
	p := s.caller()
	c, a := connected(p, s.caller())
	b := c.Send(s.caller())
	c.Close()
	hangUp(b, a)
	s.expect(slices.Concat(whole(client(c), 0, 0, orderly["local"]), whole(server(a), 0, 0, orderly["peer"]))...)
}

// activated: one process listens, another one accepts, as systemd and inetd have it.
func activated(s *scene) {
	manager, daemon := s.caller(), s.caller()
	l := manager.Listen(anyPort, 16)
	mine := l.Send(daemon)
	c := s.caller().Dial(l.Local)
	a := mine.Accept()
	hangUp(a, c)
	s.expect(append(whole(client(c), 0, 0, orderly["peer"]),
		opened(owned(server(a), manager, "listen")), closed(of(a, "server", s.tr.foundBy("close")), 0, 0, orderly["local"]))...)
}

// hostileName: a process may call itself anything; what arrives is text on one line.
func hostileName(s *scene) {
	p := s.ns.Start("pair", actor.Plan{Listen: anyPort, How: actor.ClientCloses, Comm: []byte("a\xff\x1b[31m\nb")})
	act(p, nil)
	p.Wait()
	s.wanted = 4
	for _, r := range s.tr.await(4, p.PID()) {
		// Its executable has a name of its own, unless it had exited when that was looked at.
		const comm = "a\ufffd\ufffd[31m\ufffdb"
		if r.Role == "client" && !strings.Contains(r.body, " "+comm+"[") || r.Process != program && r.Process != comm {
			s.t.Errorf("process %q in %q", r.Process, r.body)
		}
	}
}

func exitsWithoutClose(s *scene) {
	p := s.caller()
	c, a := connected(p, s.caller())
	c.Write(120)
	a.Read(120)
	p.Exit()
	a.Read(0)
	a.Close()
	s.expect(slices.Concat(whole(client(c), 120, 0, orderly["local"]), whole(server(a), 0, 120, orderly["peer"]))...)
}

func exitsUnread(s *scene) {
	p := s.caller()
	c, a := connected(p, s.caller())
	a.Write(120)
	c.AwaitUnread(120)
	p.Kill()
	errnoIs(s.t, "reading", a.ReadError(), unix.ECONNRESET)
	a.Close()
	s.expect(slices.Concat(whole(client(c), 0, 120, resets), whole(server(a), 120, 0, isReset))...)
}

// differently has connect, accept, read, write and close made in another way than usual.
func differently(s *scene, via actor.Via, needs string) {
	p, q := s.caller(), s.caller()
	l := q.Listen(anyPort, 16)
	s.needs(p.Can(via), needs)
	p, q.Via = s.caller(), via
	p.Via = via
	c := p.Dial(l.Local)
	a := l.Accept()
	s.exchange(c, a)
}
