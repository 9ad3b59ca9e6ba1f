package actor

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	actors["caller"] = obey
}

// Via is how a system call is made.
type Via string

// The ways.
const (
	Syscall Via = ""
	Compat  Via = "32-bit" // int 0x80, as a 32-bit process does
	IOURing Via = "io_uring"
)

// A call is for a Caller to make. A buffer's address takes the place of its argument; what Links says is
// put into the buffers first.
type call struct {
	Via   Via
	NR    int
	Args  []arg
	Links []link
}

type arg struct {
	Value   int
	Buffer  []byte
	Pointer bool // Buffer counts, not Value
}

// A link has a buffer hold, at an offset, the address of another one; both by their places in Args,
// which may be longer than what the kernel takes.
type link struct{ In, At, To int }

// outcome is what the kernel said, and what it has written into the buffers.
type outcome struct {
	Value   int
	Errno   unix.Errno
	Buffers [][]byte
}

// fork is no system call of its own: a child that waits until the descriptor that is the argument can
// be read, and exits. It has everything open that its parent has.
const fork = -1

// obey makes one call after the other, on the process's main thread.
func obey(_ Plan, s *stage) error {
	runtime.LockOSThread()
	a, err := newArena()
	if err != nil {
		return err
	}
	if err := s.report(Report{TID: unix.Gettid()}); err != nil {
		return err
	}
	for in := json.NewDecoder(s.in); ; {
		var c call
		if err := in.Decode(&c); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := s.out.Encode(a.do(c)); err != nil {
			return err
		}
	}
}

// arena is memory below 4 GiB, where 32-bit system calls find it, too.
type arena []byte

func newArena() (arena, error) {
	b, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|below4GiB)
	if err != nil {
		return nil, fmt.Errorf("mapping memory: %w", err)
	}
	return b, nil
}

func (a arena) do(c call) outcome {
	var o outcome
	var args [6]uintptr
	at, addresses := 0, make([]uintptr, len(c.Args))
	for i, arg := range c.Args {
		o.Buffers = append(o.Buffers, nil)
		addresses[i] = uintptr(arg.Value)
		if arg.Pointer {
			o.Buffers[i] = a[at : at+len(arg.Buffer)]
			copy(o.Buffers[i], arg.Buffer)
			addresses[i] = pointer(&a[at])
			at += (len(arg.Buffer) + 15) &^ 15
		}
	}
	for _, l := range c.Links {
		binary.NativeEndian.PutUint64(o.Buffers[l.In][l.At:], uint64(addresses[l.To]))
	}
	copy(args[:], addresses)
	o.Value, o.Errno = c.make(args)
	return o
}

func (c call) make(args [6]uintptr) (int, unix.Errno) {
	switch {
	case c.NR == fork:
		return forkUntil(args[0])
	case c.Via == Compat:
		return compat(c.NR, args)
	case c.Via == IOURing:
		return uring(c.NR, args)
	}
	r, _, errno := unix.Syscall6(uintptr(c.NR), args[0], args[1], args[2], args[3], args[4], args[5])
	return int(r), errno
}

// forkUntil forks. Nothing but system calls may happen in the child: it has one thread of many.
//
//go:norace
func forkUntil(fd uintptr) (int, unix.Errno) {
	var b [1]byte
	buffer := pointer(&b[0])
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return int(pid), errno
	}
	_, _, _ = unix.RawSyscall(unix.SYS_READ, fd, buffer, 1)
	for {
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// A Caller is a process that makes the system calls that a test wants, one at a time. Where one fails
// and its method does not give the error, the test ends.
type Caller struct {
	*Process
	TID int // its main thread, which makes the calls
	Via Via // how it is to make them
}

// Buffer is an argument that the kernel reads, or writes.
type Buffer []byte

// Begin makes a call, and does not wait for its end.
func (c *Caller) Begin(nr int, args ...any) { c.begin(nr, nil, args) }

func (c *Caller) begin(nr int, links []link, args []any) {
	c.t.Helper()
	call := call{Via: c.Via, NR: nr, Links: links}
	for _, a := range args {
		switch a := a.(type) {
		case int:
			call.Args = append(call.Args, arg{Value: a})
		case Buffer:
			call.Args = append(call.Args, arg{Buffer: a, Pointer: true})
		default:
			c.t.Fatalf("an argument is %T, want int or Buffer", a)
		}
	}
	b, err := json.Marshal(call)
	if err == nil {
		_, err = c.in.Write(append(b, '\n'))
	}
	if err != nil {
		c.t.Fatalf("calling: %v", err)
	}
}

// End waits for the end of what Begin has begun.
func (c *Caller) End() (int, unix.Errno) {
	c.t.Helper()
	o := c.end()
	return o.Value, o.Errno
}

func (c *Caller) end() outcome {
	c.t.Helper()
	var o outcome
	if err := c.out.Decode(&o); err != nil {
		c.t.Fatalf("waiting for a call: %v", err)
	}
	return o
}

// Call makes a call. Buffers are written back.
func (c *Caller) Call(nr int, args ...any) (int, unix.Errno) {
	c.t.Helper()
	return c.linked(nr, nil, args...)
}

// linked is Call with more buffers behind the arguments, and their addresses where the links say.
func (c *Caller) linked(nr int, links []link, args ...any) (int, unix.Errno) {
	c.t.Helper()
	c.begin(nr, links, args)
	o := c.end()
	for i, a := range args {
		if b, ok := a.(Buffer); ok {
			copy(b, o.Buffers[i])
		}
	}
	return o.Value, o.Errno
}

func (c *Caller) must(what string, nr int, args ...any) int {
	c.t.Helper()
	n, errno := c.Call(nr, args...)
	if errno != 0 {
		c.t.Fatalf("%s: %v", what, errno)
	}
	return n
}

// Fork gives the pid of a child that has everything open that the Caller has, and a function that lets
// it exit.
func (c *Caller) Fork() (pid int, exit func()) {
	c.t.Helper()
	ends := make(Buffer, 8)
	c.must("making a pipe", unix.SYS_PIPE2, ends, 0)
	from, to := int(binary.NativeEndian.Uint32(ends)), int(binary.NativeEndian.Uint32(ends[4:]))
	pid = c.must("forking", fork, from)
	return pid, func() {
		c.t.Helper()
		c.must("letting a child exit", unix.SYS_WRITE, to, make(Buffer, 1), 1)
		c.must("waiting for a child", unix.SYS_WAIT4, pid, 0, 0, 0)
	}
}

// Signal sends a signal to the thread that makes the calls.
func (c *Caller) Signal(s unix.Signal) {
	c.t.Helper()
	if err := unix.Tgkill(c.PID(), c.TID, s); err != nil {
		c.t.Fatalf("sending %v: %v", s, err)
	}
}

// Await waits until the thread is inside that system call.
func (c *Caller) Await(nr int) {
	c.t.Helper()
	path, prefix := fmt.Sprintf("/proc/%d/task/%d/syscall", c.PID(), c.TID), fmt.Sprintf("%d ", nr)
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		b, err := os.ReadFile(path)
		if err != nil {
			c.t.Fatal(err)
		}
		if strings.HasPrefix(string(b), prefix) {
			return
		}
	}
	c.t.Fatalf("a process is not inside system call %d", nr)
}

// Exit has the process exit, without closing anything.
func (c *Caller) Exit() {
	c.t.Helper()
	c.Via = Syscall
	c.Begin(unix.SYS_EXIT_GROUP, 0)
	c.Wait()
}

// A Socket is one that a Caller has open.
type Socket struct {
	By          *Caller
	FD          int
	Local, Peer netip.AddrPort // once they are known
	family      int
}

// Socket opens one.
func (c *Caller) Socket(family, protocol int) *Socket {
	c.t.Helper()
	s, errno := c.TrySocket(family, protocol)
	if errno != 0 {
		c.t.Fatalf("opening a socket of family %d, protocol %d: %v", family, protocol, errno)
	}
	return s
}

// TrySocket opens one where the kernel can.
func (c *Caller) TrySocket(family, protocol int) (*Socket, unix.Errno) {
	c.t.Helper()
	fd, errno := c.Call(unix.SYS_SOCKET, family, unix.SOCK_STREAM, protocol)
	return &Socket{By: c, FD: fd, family: family}, errno
}

// TCP opens a socket of an address's family.
func (c *Caller) TCP(at netip.Addr) *Socket {
	c.t.Helper()
	if at.Is4() {
		return c.Socket(unix.AF_INET, 0)
	}
	return c.Socket(unix.AF_INET6, 0)
}

// Listen opens a socket that listens at an address, at any port where it names port 0.
func (c *Caller) Listen(at string, backlog int) *Socket {
	c.t.Helper()
	end := netip.MustParseAddrPort(at)
	s := c.TCP(end.Addr())
	s.Bind(end)
	s.Listen(backlog)
	return s
}

// Dial opens a socket and connects it.
func (c *Caller) Dial(to netip.AddrPort) *Socket {
	c.t.Helper()
	s := c.TCP(to.Addr())
	s.Connect(to)
	return s
}

// address is a struct sockaddr of the socket's family.
func (s *Socket) address(a netip.AddrPort) Buffer {
	if s.family == unix.AF_INET {
		b := make(Buffer, unix.SizeofSockaddrInet4)
		binary.NativeEndian.PutUint16(b, unix.AF_INET)
		binary.BigEndian.PutUint16(b[2:], a.Port())
		copy(b[4:], a.Addr().AsSlice())
		return b
	}
	b := make(Buffer, unix.SizeofSockaddrInet6)
	binary.NativeEndian.PutUint16(b, unix.AF_INET6)
	binary.BigEndian.PutUint16(b[2:], a.Port())
	a16 := a.Addr().As16()
	copy(b[8:], a16[:])
	return b
}

func parseAddress(b Buffer) netip.AddrPort {
	port := binary.BigEndian.Uint16(b[2:])
	if binary.NativeEndian.Uint16(b) == unix.AF_INET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), port)
}

func (s *Socket) must(what string, nr int, args ...any) int {
	s.By.t.Helper()
	return s.By.must(what, nr, append([]any{s.FD}, args...)...)
}

// name asks for the socket's own address, or its peer's; the zero value where it has none.
func (s *Socket) name(nr int) netip.AddrPort {
	s.By.t.Helper()
	b, n := make(Buffer, unix.SizeofSockaddrInet6), Buffer{unix.SizeofSockaddrInet6, 0, 0, 0}
	via := s.By.Via
	s.By.Via = Syscall
	defer func() { s.By.Via = via }()
	if _, errno := s.By.Call(nr, s.FD, b, n); errno != 0 {
		return netip.AddrPort{}
	}
	return parseAddress(b)
}

// Bind binds it, and sets Local.
func (s *Socket) Bind(to netip.AddrPort) {
	s.By.t.Helper()
	a := s.address(to)
	s.must("binding to "+to.String(), unix.SYS_BIND, a, len(a))
	s.Local = s.name(unix.SYS_GETSOCKNAME)
}

// Listen has it listen.
func (s *Socket) Listen(backlog int) {
	s.By.t.Helper()
	s.must("listening", unix.SYS_LISTEN, backlog)
}

// Connect connects it, and sets Local and Peer.
func (s *Socket) Connect(to netip.AddrPort) {
	s.By.t.Helper()
	if errno := s.TryConnect(to); errno != 0 {
		s.By.t.Fatalf("connecting to %v: %v", to, errno)
	}
}

// TryConnect connects it, or begins to, and sets Local and Peer.
func (s *Socket) TryConnect(to netip.AddrPort) unix.Errno {
	s.By.t.Helper()
	s.BeginConnect(to)
	_, errno := s.By.End()
	s.Local, s.Peer = s.name(unix.SYS_GETSOCKNAME), to
	return errno
}

// BeginConnect does not wait for the end of the call.
func (s *Socket) BeginConnect(to netip.AddrPort) {
	s.By.t.Helper()
	a := s.address(to)
	s.By.Begin(unix.SYS_CONNECT, s.FD, a, len(a))
}

// Disconnect is connect(AF_UNSPEC).
func (s *Socket) Disconnect() {
	s.By.t.Helper()
	s.must("connect(AF_UNSPEC)", unix.SYS_CONNECT, make(Buffer, unix.SizeofSockaddrInet4), unix.SizeofSockaddrInet4)
}

// Accept accepts a connection.
func (s *Socket) Accept() *Socket {
	s.By.t.Helper()
	peer, n := make(Buffer, unix.SizeofSockaddrInet6), Buffer{unix.SizeofSockaddrInet6, 0, 0, 0}
	fd := s.must("accepting", unix.SYS_ACCEPT4, peer, n, 0)
	a := &Socket{By: s.By, FD: fd, family: s.family, Peer: parseAddress(peer)}
	a.Local = a.name(unix.SYS_GETSOCKNAME)
	return a
}

// Write writes n octets.
func (s *Socket) Write(n int) {
	s.By.t.Helper()
	if m := s.must("writing", unix.SYS_WRITE, make(Buffer, n), n); m != n {
		s.By.t.Fatalf("wrote %d octets, want %d", m, n)
	}
}

// Read reads n octets; with n 0 it wants the peer's FIN.
func (s *Socket) Read(n int) {
	s.By.t.Helper()
	if n == 0 {
		if m := s.must("reading", unix.SYS_READ, make(Buffer, 1), 1); m != 0 {
			s.By.t.Fatalf("read %d octets, want the peer's FIN", m)
		}
		return
	}
	for n > 0 {
		m := s.must("reading", unix.SYS_READ, make(Buffer, n), n)
		if m == 0 {
			s.By.t.Fatalf("%d octets are missing when the peer's FIN comes", n)
		}
		n -= m
	}
}

// ReadError wants read to fail, and gives the error.
func (s *Socket) ReadError() unix.Errno {
	s.By.t.Helper()
	n, errno := s.By.Call(unix.SYS_READ, s.FD, make(Buffer, 1), 1)
	if errno == 0 {
		s.By.t.Fatalf("read %d octets, want an error", n)
	}
	return errno
}

// AwaitUnread waits until n octets have arrived that nobody has read.
func (s *Socket) AwaitUnread(n int) {
	s.By.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		b := make(Buffer, 4)
		s.must("asking what is unread", unix.SYS_IOCTL, unix.TIOCINQ, b)
		if binary.NativeEndian.Uint32(b) == uint32(n) {
			return
		}
	}
	s.By.t.Fatalf("%d unread octets have not arrived", n)
}

// Poll waits until one of the events has happened.
func (s *Socket) Poll(events int16) {
	s.By.t.Helper()
	b := make(Buffer, 8)
	binary.NativeEndian.PutUint32(b, uint32(s.FD))
	binary.NativeEndian.PutUint16(b[4:], uint16(events))
	limit := make(Buffer, 16) // struct timespec
	limit[0] = 20
	if n := s.By.must("polling", unix.SYS_PPOLL, b, 1, limit, 0, 0); n != 1 {
		s.By.t.Fatalf("no event of %#x", events)
	}
}

// Error takes the socket's error.
func (s *Socket) Error() unix.Errno {
	s.By.t.Helper()
	b, n := make(Buffer, 4), Buffer{4, 0, 0, 0}
	s.must("asking for the socket's error", unix.SYS_GETSOCKOPT, unix.SOL_SOCKET, unix.SO_ERROR, b, n)
	return unix.Errno(binary.NativeEndian.Uint32(b))
}

// State is the socket's TCP state, by TCP_INFO.
func (s *Socket) State() int {
	s.By.t.Helper()
	b, n := make(Buffer, 8), Buffer{8, 0, 0, 0}
	s.must("asking for TCP_INFO", unix.SYS_GETSOCKOPT, unix.IPPROTO_TCP, unix.TCP_INFO, b, n)
	return int(b[0])
}

// AwaitState waits for a TCP state.
func (s *Socket) AwaitState(state int) {
	s.By.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); s.State() != state; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			s.By.t.Fatalf("a socket is in state %d, want %d", s.State(), state)
		}
	}
}

// Set sets an option that is an int.
func (s *Socket) Set(level, option, value int) {
	s.By.t.Helper()
	if errno := s.TrySet(level, option, value); errno != 0 {
		s.By.t.Fatalf("setting option %d of level %d to %d: %v", option, level, value, errno)
	}
}

// TrySet sets an option where the kernel has it.
func (s *Socket) TrySet(level, option, value int) unix.Errno {
	s.By.t.Helper()
	b := make(Buffer, 4)
	binary.NativeEndian.PutUint32(b, uint32(value))
	_, errno := s.By.Call(unix.SYS_SETSOCKOPT, s.FD, level, option, b, len(b))
	return errno
}

// NonBlocking has its calls not block.
func (s *Socket) NonBlocking() {
	s.By.t.Helper()
	s.must("making it non-blocking", unix.SYS_FCNTL, unix.F_SETFL, unix.O_NONBLOCK)
}

// Linger0 has close and disconnect send RST (SO_LINGER with a time of 0).
func (s *Socket) Linger0() {
	s.By.t.Helper()
	on := make(Buffer, 8)
	binary.NativeEndian.PutUint32(on, 1)
	s.must("setting SO_LINGER", unix.SYS_SETSOCKOPT, unix.SOL_SOCKET, unix.SO_LINGER, on, len(on))
}

// Deafen has the socket take no packet any more: to its peer it has vanished. A listener's peers get no
// answer either.
func (s *Socket) Deafen() {
	s.By.t.Helper()
	program := make(Buffer, 8) // BPF_RET | BPF_K, 0: none of the packet's octets
	program[0] = unix.BPF_RET | unix.BPF_K
	fprog := make(Buffer, 16)
	fprog[0] = 1
	_, errno := s.By.linked(unix.SYS_SETSOCKOPT, []link{{In: 3, At: 8, To: 5}},
		s.FD, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, fprog, len(fprog), program)
	if errno != 0 {
		s.By.t.Fatalf("attaching a filter: %v", errno)
	}
}

// Hear ends what Deafen has begun.
func (s *Socket) Hear() {
	s.By.t.Helper()
	s.Set(unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
}

// Shutdown shuts it down.
func (s *Socket) Shutdown(how int) {
	s.By.t.Helper()
	s.must("shutting down", unix.SYS_SHUTDOWN, how)
}

// Close closes it.
func (s *Socket) Close() {
	s.By.t.Helper()
	s.must("closing", unix.SYS_CLOSE)
}

// Send passes the socket to another Caller of the same network namespace (SCM_RIGHTS), which then has
// it open, too.
func (s *Socket) Send(to *Caller) *Socket {
	s.By.t.Helper()
	name := make(Buffer, 2+1+4)
	binary.NativeEndian.PutUint16(name, unix.AF_UNIX)
	copy(name[3:], fmt.Sprintf("%04x", s.FD&0xffff))
	in := to.must("opening a socket", unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	to.must("binding it", unix.SYS_BIND, in, name, len(name))
	out := s.By.must("opening a socket", unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	s.By.must("connecting it", unix.SYS_CONNECT, out, name, len(name))

	control := Buffer(unix.UnixRights(s.FD))
	if _, errno := s.By.message(unix.SYS_SENDMSG, out, control); errno != 0 {
		s.By.t.Fatalf("sending a socket: %v", errno)
	}
	if _, errno := to.message(unix.SYS_RECVMSG, in, control); errno != 0 {
		s.By.t.Fatalf("receiving a socket: %v", errno)
	}
	fd := int(binary.NativeEndian.Uint32(control[unix.CmsgLen(0):]))
	s.By.must("closing it", unix.SYS_CLOSE, out)
	to.must("closing it", unix.SYS_CLOSE, in)
	return &Socket{By: to, FD: fd, Local: s.Local, Peer: s.Peer, family: s.family}
}

// message sends or receives one octet and what is in control.
func (c *Caller) message(nr, fd int, control Buffer) (int, unix.Errno) {
	c.t.Helper()
	const header, iovec, data, ancillary = 1, 3, 4, 5 // places
	msghdr, vec := make(Buffer, unix.SizeofMsghdr), make(Buffer, unix.SizeofIovec)
	binary.NativeEndian.PutUint64(msghdr[24:], 1) // iovecs
	binary.NativeEndian.PutUint64(msghdr[40:], uint64(len(control)))
	binary.NativeEndian.PutUint64(vec[8:], 1)
	links := []link{{header, 16, iovec}, {header, 32, ancillary}, {iovec, 0, data}}
	return c.linked(nr, links, fd, msghdr, 0, vec, make(Buffer, 1), control)
}

// SendTo is sendto, of n octets.
func (s *Socket) SendTo(to netip.AddrPort, n, flags int) {
	s.By.t.Helper()
	a := s.address(to)
	if m := s.must("sending", unix.SYS_SENDTO, make(Buffer, n), n, flags, a, len(a)); m != n {
		s.By.t.Fatalf("sent %d octets, want %d", m, n)
	}
	s.Peer = to
}

// Can reports whether the kernel has that way of making calls. The Caller may not survive it.
func (c *Caller) Can(via Via) bool {
	c.t.Helper()
	c.Via = via
	c.Begin(unix.SYS_CLOSE, -1)
	var o outcome
	return c.out.Decode(&o) == nil && o.Errno == unix.EBADF
}

// Sockmap makes a BPF map that takes one socket (BPF_MAP_TYPE_SOCKMAP).
func (c *Caller) Sockmap() (fd int, errno unix.Errno) {
	c.t.Helper()
	const mapCreate, sockmap = 0, 15
	attr := make(Buffer, 16)
	for i, field := range []uint32{sockmap, 4, 4, 1} { // type, octets of key and value, entries
		binary.NativeEndian.PutUint32(attr[4*i:], field)
	}
	return c.Call(unix.SYS_BPF, mapCreate, attr, len(attr))
}

// Put puts the socket into a Sockmap.
func (s *Socket) Put(fd int) unix.Errno {
	s.By.t.Helper()
	const mapUpdate, key, value = 2, 3, 4
	attr, socket := make(Buffer, 32), make(Buffer, 4)
	binary.NativeEndian.PutUint32(attr, uint32(fd))
	binary.NativeEndian.PutUint32(socket, uint32(s.FD))
	links := []link{{1, 8, key}, {1, 16, value}}
	_, errno := s.By.linked(unix.SYS_BPF, links, mapUpdate, attr, len(attr), make(Buffer, 4), socket)
	return errno
}
