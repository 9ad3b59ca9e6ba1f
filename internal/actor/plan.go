package actor

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Plan is what an actor is to do.
type Plan struct {
	Listen      string // where the server listens, as net.Listen takes it
	Connect     string // address and port that the client connects to
	Mapped      bool   // the client uses an AF_INET6 socket and an IPv4-mapped address
	NonBlocking bool   // the client's connect does not block
	Request     int    // octets from client to server
	Reply       int    // octets from server to client
	How         How    // how the connection ends
	Comm        []byte // name that the process gives itself
	User        int    // that the process becomes; 0: it stays who it is
	Connections int    // of a crowd, of a holder, of one that is refused
	Workers     int    // of a crowd
}

// How a connection ends.
type How string

// The ways.
const (
	ClientCloses How = "client closes first"
	ServerCloses How = "server closes first"
	HalfClose    How = "client shuts down its sending side, the reply comes, server closes"
	ClientResets How = "client closes with SO_LINGER 0"
	ServerUnread How = "server closes without having read the request"
	ClientKilled How = "client waits to be killed, with the reply read"
	ServerKilled How = "server waits to be killed, with the reply read by the client"
)

// A Report is what an actor knows to be true. Times are Unix nanoseconds.
type Report struct {
	PID       int
	TID       int // of a caller: the thread that makes the calls
	User      int
	NetNS     uint64 // inode of the network namespace
	Local     netip.AddrPort
	Peer      netip.AddrPort
	Began     int64 // before connect or listen
	Connected int64 // after connect
	Closing   int64 // before the end
	Ended     int64 // after it
	Error     string
	Open      []netip.AddrPort // local addresses of a holder's open connections, the clients' ends
}

var actors = map[string]func(Plan, *stage) error{
	"server":  serve,
	"client":  connect,
	"pair":    pair,
	"refused": refused,
	"crowd":   crowd,
	"hold":    hold,
}

// serve reports where it listens and when its one connection is over.
func serve(p Plan, s *stage) error {
	l, err := net.Listen("tcp", p.Listen)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	if err := s.report(Report{Local: l.Addr().(*net.TCPAddr).AddrPort()}); err != nil {
		return err
	}
	c, err := l.Accept()
	if err != nil {
		return err
	}
	if err := p.answer(c.(*net.TCPConn)); err != nil {
		return err
	}
	return s.report(Report{Ended: now()})
}

// answer is the server's side of the connection.
func (p Plan) answer(c *net.TCPConn) error {
	defer func() { _ = c.Close() }()
	if p.How == ServerUnread {
		return p.awaitUnread(c)
	}
	if _, err := io.CopyN(io.Discard, c, int64(p.Request)); err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	if p.How == HalfClose {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			return fmt.Errorf("want the client's FIN, got %w", err)
		}
	}
	if _, err := c.Write(make([]byte, p.Reply)); err != nil {
		return fmt.Errorf("writing the reply: %w", err)
	}
	if p.How == ServerCloses || p.How == HalfClose {
		return nil
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("waiting for the client's end: %w", err)
	}
	return nil
}

func (p Plan) awaitUnread(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var n int
		var failed error
		if err := raw.Control(func(fd uintptr) { n, failed = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); err != nil {
			return err
		}
		if failed != nil || n == p.Request {
			return failed
		}
		time.Sleep(time.Millisecond)
	}
}

// connect reports when its connection is open, waits for a cue, goes on and reports again; where a
// process is to be killed, also when it is time to.
func connect(p Plan, s *stage) error {
	if p.Comm != nil {
		if err := rename(p.Comm); err != nil {
			return err
		}
	}
	if p.User != 0 {
		if err := unix.Setuid(p.User); err != nil {
			return fmt.Errorf("becoming user %d: %w", p.User, err)
		}
	}
	r := Report{Began: now()}
	fd, err := p.dial()
	if err != nil {
		return err
	}
	r.Connected = now()
	r.Local, r.Peer = ends(fd)
	if err := s.report(r); err != nil {
		return err
	}
	if err := s.cue(); err != nil {
		return err
	}
	if r.Closing, err = p.ask(fd, s); err != nil {
		return err
	}
	r.Ended = now()
	return s.report(r)
}

// rename is PR_SET_NAME for the main thread, whose name is the process's.
func rename(comm []byte) error {
	return os.WriteFile(fmt.Sprintf("/proc/self/task/%d/comm", os.Getpid()), comm, 0)
}

func (p Plan) socket() (fd int, to unix.Sockaddr, err error) {
	addr, err := netip.ParseAddrPort(p.Connect)
	if err != nil {
		return 0, nil, err
	}
	family := unix.AF_INET
	if addr.Addr().Is6() || p.Mapped {
		family = unix.AF_INET6
		to = &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
	} else {
		to = &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	}
	kind := unix.SOCK_STREAM | unix.SOCK_CLOEXEC
	if p.NonBlocking {
		kind |= unix.SOCK_NONBLOCK
	}
	fd, err = unix.Socket(family, kind, 0)
	return fd, to, err
}

func (p Plan) dial() (int, error) {
	fd, to, err := p.socket()
	if err != nil {
		return 0, err
	}
	err = retry(func() error { return unix.Connect(fd, to) })
	if p.NonBlocking && errors.Is(err, unix.EINPROGRESS) {
		err = finishConnect(fd)
	}
	if err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	return fd, unix.SetNonblock(fd, false)
}

func finishConnect(fd int) error {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	if err := retry(func() error { _, err := unix.Poll(poll, -1); return err }); err != nil {
		return err
	}
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return err
}

// retry goes on after the signals that the Go runtime sends to its own threads.
func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func ends(fd int) (local, peer netip.AddrPort) {
	if sa, err := unix.Getsockname(fd); err == nil {
		local = addrPort(sa)
	}
	if sa, err := unix.Getpeername(fd); err == nil {
		peer = addrPort(sa)
	}
	return local, peer
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// ask is the client's side, up to and with the end. It says when the end began.
func (p Plan) ask(fd int, s *stage) (closing int64, err error) {
	closing = now() // where the peer's end is ours too: it may come as soon as it has the request
	if err := write(fd, p.Request); err != nil {
		return 0, fmt.Errorf("writing the request: %w", err)
	}
	switch p.How {
	case HalfClose:
		if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
			return 0, err
		}
		err = read(fd, p.Reply+1)
	case ServerCloses:
		err = read(fd, p.Reply+1)
	case ServerUnread:
		if err := read(fd, 1); !errors.Is(err, unix.ECONNRESET) {
			return 0, fmt.Errorf("want the server's RST, got %w", err)
		}
	default:
		err = read(fd, p.Reply)
	}
	if err != nil {
		return 0, fmt.Errorf("reading the reply: %w", err)
	}
	switch p.How {
	case ClientCloses:
		closing = now()
	case ClientKilled, ServerKilled:
		closing = now()
		if err := s.report(Report{Closing: closing}); err != nil {
			return 0, err
		}
		if err := p.awaitKill(fd, s); err != nil {
			return 0, err
		}
	case ClientResets:
		closing = now()
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return 0, err
		}
	}
	return closing, unix.Close(fd)
}

// awaitKill goes on when the server has been killed, and never where the client is to be.
func (p Plan) awaitKill(fd int, s *stage) error {
	if p.How == ClientKilled {
		return s.cue()
	}
	return read(fd, 1)
}

func write(fd, n int) error {
	for n > 0 {
		m, err := unix.Write(fd, make([]byte, n))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		n -= max(m, 0)
	}
	return nil
}

// read reads n octets, or fewer up to the peer's FIN.
func read(fd, n int) error {
	b := make([]byte, max(n, 1))
	for n > 0 {
		m, err := unix.Read(fd, b[:n])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case m == 0:
			return nil
		}
		n -= m
	}
	return nil
}

// pair is server and client in one process; the report is the client's.
func pair(p Plan, s *stage) error {
	l, err := net.Listen("tcp", p.Listen)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	p.Connect = l.Addr().String()
	served := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			err = p.answer(c.(*net.TCPConn))
		}
		served <- err
	}()
	return errors.Join(connect(p, s), <-served)
}

// refused connects to where nobody listens, as many times as there are to be connections, or once.
func refused(p Plan, s *stage) error {
	r := Report{Began: now()}
	for range max(1, p.Connections) {
		fd, to, err := p.socket()
		if err != nil {
			return err
		}
		refusal := retry(func() error { return unix.Connect(fd, to) })
		if refusal == nil {
			return errors.New("connected, want it refused")
		}
		r.Error = refusal.Error()
		r.Ended = now()
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	return s.report(r)
}

// crowd makes many connections over loopback, each with a request and a reply, client closing
// first, and reports once all are over.
func crowd(p Plan, s *stage) error {
	l, err := net.Listen("tcp", p.Listen)
	if err != nil {
		return err
	}
	p.Connect = l.Addr().String()
	served := make(chan error, p.Connections)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { served <- p.answer(c.(*net.TCPConn)) }()
		}
	}()
	tasks := make(chan struct{})
	errs := make(chan error, p.Workers)
	var workers sync.WaitGroup
	for range p.Workers {
		workers.Go(func() {
			for range tasks {
				fd, err := p.dial()
				if err == nil {
					_, err = p.ask(fd, s)
				}
				if err != nil {
					select {
					case errs <- err:
					default:
					}
				}
			}
		})
	}
	r := Report{Began: now(), Local: l.Addr().(*net.TCPAddr).AddrPort()}
	for range p.Connections {
		tasks <- struct{}{}
	}
	close(tasks)
	workers.Wait()
	for range p.Connections {
		if err := <-served; err != nil {
			return err
		}
	}
	r.Ended = now()
	select {
	case err := <-errs:
		return err
	default:
	}
	return errors.Join(l.Close(), s.report(r))
}

// hold keeps so many connections open, both ends in this process, has a request and a reply go through
// each, and reports them. With each cue it closes every other one of them, opens as many new ones, and
// does so again.
func hold(p Plan, s *stage) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	l, err := net.Listen("tcp", p.Listen)
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	var held []holding
	for {
		for len(held) < p.Connections {
			c, err := open(l)
			if err != nil {
				return err
			}
			held = append(held, c)
		}
		r := Report{Local: l.Addr().(*net.TCPAddr).AddrPort()}
		for _, c := range held {
			if err := p.exchange(c); err != nil {
				return err
			}
			r.Open = append(r.Open, c.client.LocalAddr().(*net.TCPAddr).AddrPort())
		}
		if err := s.report(r); err != nil {
			return err
		}
		if err := s.cue(); err != nil {
			return nil // the test has ended
		}
		kept := held[:0]
		for i, c := range held {
			if i%2 == 0 {
				kept = append(kept, c)
				continue
			}
			if err := errors.Join(c.client.Close(), c.server.Close()); err != nil {
				return err
			}
		}
		held = kept
	}
}

// holding is both ends of a connection.
type holding struct{ client, server net.Conn }

// exchange has a request and a reply go through the connection.
func (p Plan) exchange(c holding) error {
	for _, way := range []struct {
		from, to net.Conn
		octets   int
	}{{c.client, c.server, p.Request}, {c.server, c.client, p.Reply}} {
		if _, err := way.from.Write(make([]byte, way.octets)); err != nil {
			return err
		}
		if _, err := io.ReadFull(way.to, make([]byte, way.octets)); err != nil {
			return err
		}
	}
	return nil
}

func open(l net.Listener) (holding, error) {
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return holding{}, err
	}
	server, err := l.Accept()
	return holding{client, server}, err
}

func now() int64 { return time.Now().UnixNano() }
