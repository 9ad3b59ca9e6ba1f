package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/event"
)

// Remember finds the sockets that have no storage yet: those that are open as a file in any process
// of this PID namespace, in every network namespace, with their owners, and all others of this process's own namespace.
// Each open connection among them is owed an event, which [Tracer.Adopt] pays; connections that are
// accepted from the listeners among them have an owner from here on.
//
// It may run while events flow, and again at any time. It calls drain now and then, so that the rings
// are read meanwhile.
func (t *Tracer) Remember(drain func() error) error {
	if err := t.iterate(t.objects.RememberFiles, nil, false, drain); err != nil {
		return fmt.Errorf("looking through the files of all processes: %w", err)
	}
	if err := t.iterate(t.objects.RememberTcp, nil, false, drain); err != nil {
		return fmt.Errorf("looking through the TCP sockets: %w", err)
	}
	return t.forgetSubflows()
}

// forgetSubflows removes the owners that no socket of this network namespace took: an address may soon
// be another socket's.
func (t *Tracer) forgetSubflows() error {
	for {
		var address uint64
		switch err := t.objects.Subflows.NextKey(nil, &address); {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return nil
		case err != nil:
			return fmt.Errorf("emptying the owners of subflows: %w", err)
		}
		if err := t.objects.Subflows.Delete(address); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("emptying the owners of subflows: %w", err)
		}
	}
}

// passes is how often, at most, Adopt looks at all sockets. It comes to that only while events are being lost,
// which calls for another Adopt, or sockets come and go by the thousand; what is owed then, the next audit pays.
const passes = 10

// Adopt has the programs submit the event that each open connection is still owed: one that
// Remember has found, or one whose opening was lost. It calls drain whenever that has filled half
// of a ring. What finds no room all the same stays owed.
//
// Where the iterator pauses, sockets that go meanwhile make it skip as many others. So it begins anew until
// it has nothing to submit.
func (t *Tracer) Adopt(drain func() error) error {
	paid := true
	for n := 0; paid && n < passes; n++ {
		paid = false
		err := t.iterate(t.objects.AdoptStored, t.objects.Conns, false, func() error { paid = true; return drain() })
		if err != nil {
			return fmt.Errorf("adopting open connections: %w", err)
		}
	}
	return nil
}

// Sample has the programs submit, of each open connection that has sent or received anything since
// the last time, what it has carried so far. It calls drain like Adopt.
func (t *Tracer) Sample(drain func() error) error {
	if err := t.iterate(t.objects.SampleStored, t.objects.Conns, false, drain); err != nil {
		return fmt.Errorf("sampling open connections: %w", err)
	}
	return nil
}

// iterate runs an iterator to its end. It calls each, where there is one, after every chunk of octets
// that the iterator has written: one for each event, and all of them go to one CPU's ring. With
// onePass it is an error if the kernel wants to do it in several passes.
func (t *Tracer) iterate(p *ebpf.Program, m *ebpf.Map, onePass bool, each func() error) (err error) {
	it, err := link.AttachIter(link.IterOptions{Program: p, Map: m})
	if err != nil {
		return fmt.Errorf("attaching the iterator: %w", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	r, err := it.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	chunk := len(t.rings[0].data) / 2 / (headerSize + event.Size) / 2
	for buf := make([]byte, chunk); ; {
		_, err := r.Read(buf)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, unix.EAGAIN) && !onePass: // a million objects looked at, and nothing written
			continue
		case err != nil:
			return err
		}
		if each != nil {
			if err := each(); err != nil {
				return err
			}
		}
	}
}

// A List says which connections there were at some time between From and To, on the events' clock:
// one that was open all that time is in it, one that had ended before, its last event submitted or
// lost, is not.
type List struct {
	From, To uint64
	cookies  map[uint64]struct{}
}

// Has reports whether the socket was there.
func (l *List) Has(cookie uint64) bool {
	_, ok := l.cookies[cookie]
	return ok
}

const (
	cookieSize = 8 // of a listed cookie
	listSpare  = 4096
)

// List lists the connections that the kernel holds. atLeast is how many are expected; with more,
// the listing is done again.
//
// The iterator runs in one go, for only so is nothing missed that moves in
// the kernel's own lists meanwhile. That makes it an error with more than a million sockets, which is
// what the kernel looks at in one go.
func (t *Tracer) List(atLeast int) (*List, error) {
	for room := atLeast + listSpare; ; room *= 4 {
		l, err := t.list(room)
		if err != nil {
			return nil, fmt.Errorf("listing the connections: %w", err)
		}
		if l != nil {
			return l, nil
		}
	}
}

// list gives nil where the room was not enough.
func (t *Tracer) list(room int) (*List, error) {
	r, err := newRing(ringFor(room * (headerSize + cookieSize)))
	if err != nil {
		return nil, err
	}
	l, err := t.listInto(r)
	return l, errors.Join(err, r.close())
}

// ringFor is the next power of two, and at least a page.
func ringFor(size int) int {
	n := os.Getpagesize()
	for n < size {
		n *= 2
	}
	return n
}

func (t *Tracer) listInto(r *ring) (l *List, err error) {
	slot := uint32(len(t.rings))
	if err := t.objects.Rings.Put(slot, r.m); err != nil {
		return nil, fmt.Errorf("putting the list's ring into its place: %w", err)
	}
	defer func() { err = errors.Join(err, t.objects.Rings.Delete(slot)) }()
	l = &List{cookies: make(map[uint64]struct{})}
	if l.From, err = t.Now(); err != nil {
		return nil, err
	}
	before := atomic.LoadUint64(&t.control.Unlisted)
	if err := t.iterate(t.objects.ListStored, t.objects.Conns, true, nil); err != nil {
		return nil, err
	}
	if atomic.LoadUint64(&t.control.Unlisted) != before {
		return nil, nil
	}
	if l.To, err = t.Now(); err != nil {
		return nil, err
	}
	r.drain(func(b []byte) {
		if len(b) == cookieSize {
			l.cookies[binary.NativeEndian.Uint64(b)] = struct{}{}
		}
	})
	return l, nil
}

// Unstored is how many state changes so far found no memory for their socket's storage: such a socket
// is unknown until Remember finds it.
func (t *Tracer) Unstored() (n uint64) {
	for i := range t.cpus {
		n += atomic.LoadUint64(&t.cpus[i].NoStorage)
	}
	return n
}

// Lost is how many events and state changes have found no room or no program so far, on all CPUs. What
// no program has seen counts when it is still so at the next call: the second may just be about to.
// It must not be called concurrently with itself.
func (t *Tracer) Lost() (uint64, error) {
	misses, err := t.misses()
	if err != nil {
		return 0, err
	}
	sum := t.count()
	now := skipped(misses, sum)
	t.skipped.Store(max(t.skipped.Load(), min(now, t.skippedNow)))
	t.skippedNow = now
	return sum.RingFull + sum.NoRing + sum.NoStorage + t.skipped.Load(), nil
}
