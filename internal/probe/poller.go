package probe

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A poller waits for any of the rings, or for an interrupt.
type poller struct {
	epoll int
	event int // eventfd
}

func newPoller() (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("creating an epoll instance: %w", err)
	}
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("creating an eventfd: %w", err), unix.Close(epoll))
	}
	p := &poller{epoll: epoll, event: event}
	if err := p.add(event); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

func (p *poller) add(fd int) error {
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("adding to epoll: %w", err)
	}
	return nil
}

func (p *poller) wait(timeout time.Duration) error {
	var events [1]unix.EpollEvent
	_, err := unix.EpollWait(p.epoll, events[:], int(timeout.Milliseconds()))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("waiting for events: %w", err)
	}
	return nil
}

func (p *poller) interrupt() {
	_, _ = unix.Write(p.event, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

func (p *poller) close() error {
	return errors.Join(unix.Close(p.event), unix.Close(p.epoll))
}

// Wait returns when it is time for the next round: after interval while events keep coming, at once
// when they come so fast that a ring has filled to a quarter, at the next event once a round has
// found none, at the latest after idle then, and at once when ctx ends.
func (t *Tracer) Wait(ctx context.Context, interval, idle time.Duration) error {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		t.poll.interrupt()
	})
	defer func() {
		if !stop() {
			<-interrupted // or it could write after Close
		}
	}()
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
	return t.poll.wait(idle)
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
