package probe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A poller waits for any of the rings. It is an epoll instance that the Go runtime polls in its turn: a
// thread that slept in epoll_wait itself would have the runtime's monitor look after it, several times each time.
type poller struct {
	fd   int
	file *os.File // of fd
	conn syscall.RawConn
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("creating an epoll instance: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // or NewFile would not have the runtime poll it
		return nil, errors.Join(fmt.Errorf("preparing an epoll instance: %w", err), unix.Close(fd))
	}
	p := &poller{fd: fd, file: os.NewFile(uintptr(fd), "epoll")}
	if p.conn, err = p.file.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("preparing an epoll instance: %w", err), p.close())
	}
	return p, nil
}

func (p *poller) add(fd int) error {
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("adding to epoll: %w", err)
	}
	return nil
}

// wait returns when a ring has something, at the latest after timeout, and at once when ctx ends.
func (p *poller) wait(ctx context.Context, timeout time.Duration) error {
	if err := p.file.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return fmt.Errorf("waiting for events: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = p.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var failure error
	err := p.conn.Read(func(fd uintptr) (ready bool) {
		var events [1]unix.EpollEvent
		n, err := unix.EpollWait(int(fd), events[:], 0)
		if err != nil && !errors.Is(err, unix.EINTR) {
			failure = err
		}
		return n > 0 || failure != nil
	})
	if err = errors.Join(failure, err); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("waiting for events: %w", err)
	}
	return nil
}

func (p *poller) close() error { return p.file.Close() }

// Wait returns when it is time for the next round: after interval while events keep coming, at once
// when they come so fast that a ring has filled to a quarter, at the next event once a round has
// found none, at the latest after idle then, and at once when ctx ends.
func (t *Tracer) Wait(ctx context.Context, interval, idle time.Duration) error {
	if read := t.read.Load(); read != t.lastRead || t.pending() {
		t.lastRead = read
		if t.crowded {
			return nil
		}
		doze(ctx, interval)
		return nil
	}
	// From here the next program to submit wakes us, unless something is there already: either it
	// sees this word, or we see what it has reserved (wake_flags in bpf/emit.h).
	atomic.SwapUint32(&t.control.Asleep, 1)
	defer atomic.SwapUint32(&t.control.Asleep, 0)
	if t.pending() {
		return nil
	}
	return t.poll.wait(ctx, idle)
}

// pending reports whether a record is in a ring or on its way there.
func (t *Tracer) pending() bool {
	for cpu, r := range t.rings {
		if t.InFlight(cpu) || r.filled() > 0 {
			return true
		}
	}
	return false
}

func doze(ctx context.Context, interval time.Duration) {
	timer := time.NewTimer(interval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
