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
	Filtered  uint64 // connections that Config.Filter excludes
	Rescued   uint64 // state changes that the first program missed and the second saw to
	Retried   uint64 // of Rescued: the first had no memory for the socket's storage
	Foreign   int64  // state changes of no TCP connection: runs of the second program less those of the first
	Processes uint64 // records of processes put into the ring
	Unnamed   uint64 // times that there was no room for one; it is tried again with the process's next connection
}

// Stats are totals since Load. Submitted + Processes over all CPUs = Read, once the rings are drained
// and as long as Corrupt is 0.
type Stats struct {
	CPU     []CPUStats
	Read    uint64 // samples handed out by Drain
	Corrupt uint64 // rings given up at a header that cannot be true
	Misses  uint64 // times that the kernel skipped the first program because it was running
	Skipped uint64 // of Misses: the second was skipped too, and the state change seen by neither; see Lost
}

// Stats reads the counters. It may be called concurrently with everything but Close.
func (t *Tracer) Stats() (Stats, error) {
	s := Stats{CPU: make([]CPUStats, len(t.cpus)), Read: t.read.Load(), Corrupt: t.corrupt.Load(), Skipped: t.skipped.Load()}
	var err error
	if s.Misses, err = t.misses(); err != nil {
		return Stats{}, err
	}
	for i := range t.cpus {
		s.CPU[i] = t.cpus[i].stats()
	}
	return s, nil
}

// count sums the counters of all CPUs.
func (t *Tracer) count() (sum CPUStats) {
	for i := range t.cpus {
		sum.add(t.cpus[i].stats())
	}
	return sum
}

func (c *tracerCpu) stats() CPUStats {
	return CPUStats{
		Numbered:  atomic.LoadUint64(&c.Seq),
		Submitted: atomic.LoadUint64(&c.Submitted),
		RingFull:  atomic.LoadUint64(&c.RingFull),
		NoRing:    atomic.LoadUint64(&c.NoRing),
		NoStorage: atomic.LoadUint64(&c.NoStorage),
		Excluded:  atomic.LoadUint64(&c.Excluded),
		Filtered:  atomic.LoadUint64(&c.Filtered),
		Rescued:   atomic.LoadUint64(&c.Rescued),
		Retried:   atomic.LoadUint64(&c.Retried),
		Foreign:   int64(atomic.LoadUint64(&c.Foreign)),
		Processes: atomic.LoadUint64(&c.Processes),
		Unnamed:   atomic.LoadUint64(&c.Unnamed),
	}
}

func (s *CPUStats) add(c CPUStats) {
	s.Numbered += c.Numbered
	s.Submitted += c.Submitted
	s.RingFull += c.RingFull
	s.NoRing += c.NoRing
	s.NoStorage += c.NoStorage
	s.Excluded += c.Excluded
	s.Filtered += c.Filtered
	s.Rescued += c.Rescued
	s.Retried += c.Retried
	s.Foreign += c.Foreign
	s.Processes += c.Processes
	s.Unnamed += c.Unnamed
}

func (t *Tracer) misses() (uint64, error) {
	stats, err := t.objects.First.Stats()
	if err != nil {
		return 0, fmt.Errorf("reading the program's statistics: %w", err)
	}
	return stats.RecursionMisses, nil
}

// skipped is what the first program was skipped for and the second did not rescue. While the second is
// about to, it counts too.
func skipped(misses uint64, total CPUStats) uint64 {
	rescued := int64(total.Rescued-total.Retried) + total.Foreign
	return uint64(max(int64(misses)-rescued, 0))
}

// Read is how many samples Drain has handed out, and how many rings it has given up.
func (t *Tracer) Read() (samples, corrupt uint64) { return t.read.Load(), t.corrupt.Load() }

// Total sums the CPUs.
func (s Stats) Total() (sum CPUStats) {
	for _, c := range s.CPU {
		sum.add(c)
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
