package main

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// threads is how many connections the client has on their way at a time, and as many threads serve them.
const threads = 4

// maxHeld is how many of the connections that stay open the server can serve.
const maxHeld = 16

// A load is what a client is to do, and where.
type load struct {
	Port    int // of a server; 0: its own, of a pair
	For     time.Duration
	Rate    int // connections a second; 0: as many as there can be
	Threads int // at a time
	Payload int // octets of request and of reply; 0: none, and the server closes first
	Held    int // connections that stay open and have one request after the other; 0: each has one
}

// done is what a client has done. Of held connections it counts requests.
type done struct {
	Count   int
	Elapsed time.Duration
}

// ports are where a server serves.
type ports struct {
	Bare int // closes at once
	Echo int // sends back what comes, and closes when the client has
}

func (p ports) of(payload int) int {
	if payload == 0 {
		return p.Bare
	}
	return p.Echo
}

func runServer() error {
	p, err := listen()
	if err != nil {
		return err
	}
	return serve(func(struct{}) (ports, error) { return p, nil })
}

func runClient() error {
	return serve(func(l load) (done, error) { return l.run() })
}

// runPair is both ends in one process, in the network namespace that it finds itself in.
func runPair() error {
	if err := prepareNetwork(); err != nil {
		return err
	}
	p, err := listen()
	if err != nil {
		return err
	}
	return serve(func(l load) (done, error) {
		l.Port = p.of(l.Payload)
		return l.run()
	})
}

// listen serves both ports, each from threads of its own.
func listen() (p ports, err error) {
	bare, err := listener(&p.Bare)
	if err != nil {
		return p, err
	}
	echo, err := listener(&p.Echo)
	if err != nil {
		return p, err
	}
	for range threads {
		go accept(bare, func(int) {})
	}
	for range threads + maxHeld {
		go accept(echo, sendBack)
	}
	return p, nil
}

func listener(port *int) (fd int, err error) {
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return 0, err
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{}), unix.Listen(fd, 65535)); err != nil {
		return 0, fmt.Errorf("listening: %w", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	*port = name.(*unix.SockaddrInet4).Port
	return fd, nil
}

// accept serves one connection after the other.
func accept(listener int, serve func(fd int)) {
	runtime.LockOSThread()
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err != nil {
			continue
		}
		serve(fd)
		_ = unix.Close(fd)
	}
}

func sendBack(fd int) {
	b := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		if _, err := unix.Write(fd, b[:n]); err != nil {
			return
		}
	}
}

// run does it, from as many threads as it says.
func (l load) run() (done, error) {
	type result struct {
		count int
		err   error
	}
	results := make(chan result)
	began := time.Now()
	for thread := range l.Threads {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			w := &worker{load: l, thread: thread, began: began, payload: make([]byte, l.Payload), reply: make([]byte, max(l.Payload, 1))}
			err := w.work()
			results <- result{w.count, err}
		}()
	}
	var d done
	var errs []error
	for range l.Threads {
		r := <-results
		d.Count += r.count
		errs = append(errs, r.err)
	}
	d.Elapsed = time.Since(began)
	return d, errors.Join(errs...)
}

// A worker is a thread of the client.
type worker struct {
	load
	thread         int
	began          time.Time
	count          int
	payload, reply []byte
}

func (w *worker) work() error {
	if w.Held > 0 {
		return w.talk()
	}
	for w.wait() {
		fd, err := dial(w.Port, w.thread, w.count)
		if err != nil {
			return err
		}
		if err := errors.Join(w.exchange(fd), unix.Close(fd)); err != nil {
			return err
		}
		w.count++
	}
	return nil
}

// wait returns when it is time for the next connection, and false when there is none.
func (w *worker) wait() bool {
	for {
		elapsed := time.Since(w.began)
		if elapsed >= w.For {
			return false
		}
		if w.Rate == 0 || float64(w.count) < elapsed.Seconds()*float64(w.Rate)/float64(w.Threads) {
			return true
		}
		time.Sleep(time.Millisecond)
	}
}

// talk has requests and replies go through this thread's share of the connections.
func (w *worker) talk() error {
	var fds []int
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	for i := range w.Held / w.Threads {
		fd, err := dial(w.Port, w.thread, i)
		if err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	for w.wait() {
		if err := w.exchange(fds[w.count%len(fds)]); err != nil {
			return err
		}
		w.count++
	}
	return nil
}

// exchange has a request and a reply go through a connection; without any it waits for the server to close.
func (w *worker) exchange(fd int) error {
	if w.Payload > 0 {
		if _, err := unix.Write(fd, w.payload); err != nil {
			return fmt.Errorf("writing a request: %w", err)
		}
	}
	for got := 0; got < len(w.reply); {
		n, err := unix.Read(fd, w.reply[got:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("reading a reply: %w", err)
		case n == 0 && w.Payload == 0:
			return nil
		case n == 0:
			return fmt.Errorf("reading a reply: %w", io.ErrUnexpectedEOF)
		}
		got += n
	}
	return nil
}

// dial connects over loopback. Each connection has another address to go to, or those in TIME_WAIT would
// take up all ports.
func dial(port, thread, i int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	to := unix.SockaddrInet4{Port: port, Addr: [4]byte{127, byte(1 + thread), byte(i >> 8), byte(i)}}
	if err := unix.Connect(fd, &to); err != nil {
		return 0, errors.Join(fmt.Errorf("connecting to %v port %d: %w", to.Addr, port, err), unix.Close(fd))
	}
	return fd, nil
}

// runHolder keeps connections open, both ends in this process.
func runHolder() error {
	if err := prepareNetwork(); err != nil {
		return err
	}
	var port int
	l, err := listener(&port)
	if err != nil {
		return err
	}
	held := 0
	return serve(func(connections int) (int, error) {
		for ; held < connections; held++ {
			if _, err := dial(port, held>>16, held); err != nil {
				return 0, err
			}
			if _, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC); err != nil {
				return 0, fmt.Errorf("accepting: %w", err)
			}
		}
		return held, nil
	})
}

// Holders are as many processes as it takes: the limit of open files is each one's own.
type holders struct {
	children []*child
	each     int // connections
}

func newHolders() (*holders, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, err
	}
	return &holders{each: int(min(limit.Max, 1<<17)-100) / 2}, nil
}

// hold has so many connections open.
func (h *holders) hold(connections int) error {
	for i := 0; connections > 0; i++ {
		if i == len(h.children) {
			c, err := newChild("holder", true)
			if err != nil {
				return err
			}
			h.children = append(h.children, c)
		}
		var held int
		if err := h.children[i].ask(min(connections, h.each), &held); err != nil {
			return err
		}
		connections -= held
	}
	return nil
}

func (h *holders) close() error { return endAll(h.children...) }
