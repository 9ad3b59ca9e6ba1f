package coverage

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/internal/conn"
	"github.com/connspan/connspan/internal/event"
)

const (
	// maxNamespaces bounds how many network namespaces are looked at: each takes some hundred octets, two
	// small files in a collection, and three series of each counter.
	maxNamespaces = 256
	// maxTries is how often a namespace is looked at for a moment in which nothing happens.
	maxTries = 64
	// patience is how long what was read counts as new.
	patience = time.Second
)

// A Tally counts, for each network namespace in which a process owns a connection, what the tracer tells
// in the kernel's terms, and reads beside it what the kernel counts there, both since the namespace was first
// looked at; CurrEstab goes on from what the kernel had then. It enters no namespace: the counters are read
// through one of the processes inside, and one of which no living process is known is forgotten until the next
// connection, then to begin anew. Processes of other users can be looked at with CAP_SYS_PTRACE alone, and out of
// a PID namespace only those inside. It is safe for concurrent use; Add never waits for a file.
type Tally struct {
	now  func() uint64 // on the clock of the events
	proc string

	mu         sync.Mutex
	namespaces map[uint32]*namespace
	leftOut    int64 // records of namespaces for which there was no room

	reading sync.Mutex // before mu
	read    time.Time
	found   []finding
}

// namespace is guarded by mu, but for base, last and begun, which are guarded by reading.
type namespace struct {
	processes []uint32 // that may be inside, in the order in which they became known
	since     uint64   // when it was first looked at; 0: it was not yet
	seen      Counters // after since
	base      Counters // the kernel's at that time
	last      Counters // the kernel's when they were last read
	begun     bool     // since and base are of one moment
}

// maxProcesses is how many processes of a namespace are known at most, from one look to the next. Those that
// have lived for long are likely to go on.
const maxProcesses = 64

// finding is what a collection tells of a namespace.
type finding struct {
	inode        uint32
	kernel, seen Counters
}

// NewTally makes a Tally that looks at the caller's own network namespace from the beginning. now gives the
// time in nanoseconds on the clock of the events.
func NewTally(now func() uint64) (*Tally, error) {
	t := &Tally{now: now, proc: "/proc", namespaces: map[uint32]*namespace{}}
	self := uint32(unix.Getpid())
	inode, err := t.inode(self)
	if err != nil {
		return nil, err
	}
	t.namespaces[inode] = &namespace{processes: []uint32{self}}
	return t, nil
}

// Add counts a record of the ordered stream.
func (t *Tally) Add(r *conn.Record) {
	if r.Kind == event.Sampled {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.namespaces[r.NetNS]
	switch {
	case n != nil:
	case r.PID == 0:
		return
	case len(t.namespaces) == maxNamespaces:
		t.leftOut++
		return
	default:
		n = &namespace{}
		t.namespaces[r.NetNS] = n
	}
	n.meet(r.PID)
	if n.since != 0 {
		n.seen.Add(r, n.since)
	}
}

// meet makes a process known, and where there is no room forgets the one that was last.
func (n *namespace) meet(pid uint32) {
	if pid == 0 || slices.Contains(n.processes, pid) {
		return
	}
	if len(n.processes) == maxProcesses {
		n.processes = n.processes[:maxProcesses-1]
	}
	n.processes = append(n.processes, pid)
}

// look gives what there is to tell, in the order of the namespaces, and how many records were of others.
func (t *Tally) look() (found []finding, leftOut int64) {
	t.reading.Lock()
	defer t.reading.Unlock()
	if now := time.Now(); now.Sub(t.read) >= patience {
		t.read, t.found = now, nil
		for _, inode := range t.inodes() {
			if f, ok := t.lookAt(inode); ok {
				t.found = append(t.found, f)
			}
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.found, t.leftOut
}

func (t *Tally) inodes() (all []uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for inode := range t.namespaces {
		all = append(all, inode)
	}
	slices.Sort(all)
	return all
}

// lookAt reads a namespace through a process inside, and forgets it if there is none.
func (t *Tally) lookAt(inode uint32) (finding, bool) {
	t.mu.Lock()
	n := t.namespaces[inode]
	known := slices.Clone(n.processes)
	t.mu.Unlock()
	gone := slices.DeleteFunc(known, func(pid uint32) bool { return t.isInside(pid, inode) })
	t.mu.Lock()
	n.processes = slices.DeleteFunc(n.processes, func(pid uint32) bool { return slices.Contains(gone, pid) })
	inside := slices.Clone(n.processes)
	if len(inside) == 0 {
		delete(t.namespaces, inode)
	}
	t.mu.Unlock()
	for _, pid := range inside {
		if now, ok := t.counters(pid, inode); ok {
			return t.compare(n, pid, inode, now)
		}
	}
	return finding{}, false
}

// compare holds what the kernel has counted by now against what was seen.
func (t *Tally) compare(n *namespace, pid, inode uint32, now Counters) (finding, bool) {
	if n.begun && n.last.exceeds(now) {
		n.begun = false // another namespace with the number of one that has gone
	}
	if !n.begun {
		if !t.begin(n, pid, inode) {
			return finding{}, false
		}
		now = n.base
	}
	n.last = now
	f := finding{inode: inode, kernel: now.minus(n.base)}
	f.kernel.CurrEstab = now.CurrEstab
	t.mu.Lock()
	defer t.mu.Unlock()
	f.seen = n.seen
	f.seen.CurrEstab += n.base.CurrEstab
	return f, true
}

// exceeds reports whether one of the totals is above that of other.
func (c Counters) exceeds(other Counters) bool {
	return c.ActiveOpens > other.ActiveOpens || c.PassiveOpens > other.PassiveOpens ||
		c.AttemptFails > other.AttemptFails || c.EstabResets > other.EstabResets
}

// begin looks for a moment at which the kernel's counters are known: they are the same before and after it. What
// is stamped later is counted later then, but for what is under way from the one to the other, some
// microseconds. Counting from the time that events bear, and not from when they are told, leaves none out
// and counts none twice, however far behind the tracer is. One that never stands still is not told.
func (t *Tally) begin(n *namespace, pid, inode uint32) bool {
	for range maxTries {
		before, ok := t.counters(pid, inode)
		if !ok {
			return false
		}
		t.mu.Lock()
		n.since, n.seen = t.now(), Counters{}
		t.mu.Unlock()
		n.base, ok = t.counters(pid, inode)
		if n.begun = ok && n.base == before; n.begun {
			return true
		}
	}
	return false
}

// counters are those of the namespace, if the process is there, and inside.
func (t *Tally) counters(pid, inode uint32) (Counters, bool) {
	if !t.isInside(pid, inode) {
		return Counters{}, false
	}
	c, err := Read(fmt.Sprintf("%s/%d/net/snmp", t.proc, pid))
	return c, err == nil
}

func (t *Tally) isInside(pid, inode uint32) bool {
	at, err := t.inode(pid)
	return err == nil && at == inode
}

// inode names the network namespace of a process.
func (t *Tally) inode(pid uint32) (uint32, error) {
	path := fmt.Sprintf("%s/%d/ns/net", t.proc, pid)
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, fmt.Errorf("looking at network namespace %s: %w", path, err)
	}
	return uint32(stat.Ino), nil
}
