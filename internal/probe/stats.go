package probe

import (
	"fmt"
	"sync/atomic"

	"github.com/cilium/ebpf"
)

// CPUStats are the totals of one possible CPU since Load (struct cpu in bpf/maps.h).
// Numbered = Submitted + RingFull + NoRing once no program is in flight.
type CPUStats struct {
	Numbered  uint64 // events that got a sequence number
	Submitted uint64
	RingFull  uint64 // lost: no room in the ring
	NoRing    uint64 // lost: no ring for this CPU
	NoStorage uint64 // state changes not seen to: no memory for the socket's storage
	Excluded  uint64 // events of the tracer's own sockets
	Rescued   uint64 // state changes that the first program missed and the second saw to
}

// Stats are totals since Load. Submitted over all CPUs = Read, once the rings are drained and
// as long as Corrupt is 0.
type Stats struct {
	CPU     []CPUStats
	Read    uint64 // samples handed out by Drain
	Corrupt uint64 // rings given up at a header that cannot be true
	Misses  uint64 // times that the kernel skipped the first program because it was running; see Rescued
}

// Stats reads the counters. It may be called concurrently with everything but Close.
func (t *Tracer) Stats() (Stats, error) {
	s := Stats{CPU: make([]CPUStats, len(t.cpus)), Read: t.read.Load(), Corrupt: t.corrupt.Load()}
	for i := range t.cpus {
		c := &t.cpus[i]
		s.CPU[i] = CPUStats{
			Numbered:  atomic.LoadUint64(&c.Seq),
			Submitted: atomic.LoadUint64(&c.Submitted),
			RingFull:  atomic.LoadUint64(&c.RingFull),
			NoRing:    atomic.LoadUint64(&c.NoRing),
			NoStorage: atomic.LoadUint64(&c.NoStorage),
			Excluded:  atomic.LoadUint64(&c.Excluded),
			Rescued:   atomic.LoadUint64(&c.Rescued),
		}
	}
	stats, err := t.objects.First.Stats()
	if err != nil {
		return Stats{}, fmt.Errorf("reading the program's statistics: %w", err)
	}
	s.Misses = stats.RecursionMisses
	return s, nil
}

// Read is how many samples Drain has handed out, and how many rings it has given up.
func (t *Tracer) Read() (samples, corrupt uint64) { return t.read.Load(), t.corrupt.Load() }

// Total sums the CPUs.
func (s Stats) Total() (sum CPUStats) {
	for _, c := range s.CPU {
		sum.Numbered += c.Numbered
		sum.Submitted += c.Submitted
		sum.RingFull += c.RingFull
		sum.NoRing += c.NoRing
		sum.NoStorage += c.NoStorage
		sum.Excluded += c.Excluded
		sum.Rescued += c.Rescued
	}
	return sum
}

// RunTime is what the programs have cost: nanoseconds and runs of both, counted by the kernel
// while statistics are enabled (sysctl kernel.bpf_stats_enabled).
func (t *Tracer) RunTime() (ns, runs uint64, err error) {
	for _, p := range []*ebpf.Program{t.objects.First, t.objects.Second} {
		stats, err := p.Stats()
		if err != nil {
			return 0, 0, fmt.Errorf("reading the program's statistics: %w", err)
		}
		ns += uint64(stats.Runtime.Nanoseconds())
		runs += stats.RunCount
	}
	return ns, runs, nil
}
