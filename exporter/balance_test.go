package exporter

import (
	"fmt"
	"math"
	"testing"

	"github.com/connspan/connspan/internal/merge"
)

// checkBalance holds the counters of every stage against each other, from the programs to the
// records, once the programs are detached and the rings read: each event is in one place, and in one
// alone. records is how many were told.
func checkBalance(t testing.TB, x *Exporter, records uint64) Stats {
	t.Helper()
	s, err := x.Stats()
	if err != nil {
		t.Error(err)
	}
	type identity struct {
		name        string
		left, right uint64
	}
	var submitted, lost, processes uint64
	var rescued int64 // of what the first program was skipped for
	var identities []identity
	for cpu, c := range s.CPUs {
		submitted, lost, processes = submitted+c.Submitted, lost+c.RingFull+c.NoRing, processes+c.Processes
		rescued += int64(c.Rescued-c.Retried) + c.Foreign
		name := fmt.Sprintf("Numbered = Submitted + RingFull + NoRing on CPU %d", cpu)
		identities = append(identities, identity{name, c.Numbered, c.Submitted + c.RingFull + c.NoRing})
	}
	identities = append(identities, []identity{
		{"Lost = RingFull + NoRing", s.Lost, lost},
		{"Lost = Missing + what no event has followed", s.Lost, s.Missing + unlocated(t, x, s.CPUs)},
		{"Submitted = Read", submitted, s.Read},
		{"Processes = Introduced", processes, s.Introduced},
		{"Misnamed = 0", s.Misnamed, 0},
		{"Rescued - Retried + Foreign beyond Misses = 0", uint64(max(rescued-int64(s.Misses), 0)), 0},
		{"Read = Released + Pending + Malformed", s.Read, s.Released + uint64(s.Pending) + s.Malformed},
		{"Released = Opened + Closed + Failed + Adopted + Repeated + Sampled + FilteredEvents", s.Released, s.Opened + s.Closed + s.Failed + s.Adopted + s.Repeated + s.Sampled + s.FilteredEvents},
		{"records = Opened + Closed + Failed + Adopted + Synthesized + Heartbeats", records, s.Opened + s.Closed + s.Failed + s.Adopted + s.Synthesized + s.Heartbeats},
		{"Opened + Adopted + Strays = Open + Closed + Synthesized", s.Opened + s.Adopted + s.Strays, uint64(s.Open) + s.Closed + s.Synthesized},
		{"Pending = 0", uint64(s.Pending), 0},
		{"Malformed = 0", s.Malformed, 0},
		{"Corrupt = 0", s.Corrupt, 0},
		{"Late = 0", s.Late, 0},
		{"Violations = 0", s.Violations, 0},
	}...)
	for _, i := range identities {
		if i.left != i.right {
			t.Errorf("%s: %d and %d differ by %d", i.name, i.left, i.right, int64(i.left-i.right))
		}
	}
	if t.Failed() {
		t.Logf("%+v", s)
	}
	return s
}

// unlocated counts the losses behind the last event of each CPU, which one more event would locate.
// Those before it are located by now. The Exporter is of no use afterwards.
func unlocated(t testing.TB, x *Exporter, cpus []CPUStats) (n uint64) {
	t.Helper()
	for cpu, c := range cpus {
		sequence := &x.loss.sequences[cpu]
		sequence.See(c.Numbered, math.MaxUint64)
		sequence.Settle(cpu, math.MaxUint64, func(g merge.Gap) {
			if g.Before != math.MaxUint64 {
				t.Errorf("a gap has not been told of: %+v", g)
			}
			n += g.Missing
		})
	}
	return n
}
