package exporter

import (
	"log/slog"
	"time"

	"github.com/connspan/connspan/internal/probe"
)

// Stats are totals since New, but for Open and Pending. Nothing is lost without being counted in
// one of them:
//
//	happened = Read + Lost, while Corrupt is 0
//	Read = Released + Pending + Malformed
//	Released = Opened + Closed + Failed + Adopted + Repeated
//	Opened + Adopted = Open + Closed - Strays + Synthesized, while Gaps and Violations are 0
type Stats struct {
	Opened      uint64 // connections that reached ESTABLISHED
	Closed      uint64
	Failed      uint64
	Adopted     uint64 // connections found open: older than the tracer, or their opening was lost
	Repeated    uint64 // connections found open that were known
	Strays      uint64 // of Closed: not known to be open
	Synthesized uint64 // connections found gone whose end was lost
	Open        int    // connections open now
	Read        uint64 // events read from the rings
	Lost        uint64 // events for which a ring had no room, tries to adopt among them
	Missing     uint64 // of Lost: located, by the numbers that are missing between two events of a CPU
	Unseen      uint64 // state changes for which the kernel had no memory
	Excluded    uint64 // events of this process's own connections
	Malformed   uint64 // of Read: samples that could not be decoded
	Corrupt     uint64 // rings that could not be read on, and what they held was given up
	Released    uint64 // events that left the merge
	Pending     int    // events that wait in the merge
	Late        uint64 // of Released: behind a younger one
	Gaps        uint64 // events that a connection's own numbering shows to be missing
	Violations  uint64 // events behind a later one of the same connection; 0 unless the order is broken
	Refused     uint64 // log records that a consumer did not take, counted once for each
}

// Stats reads the totals.
func (x *Exporter) Stats() (Stats, error) {
	kernel, err := x.tracer.Stats()
	if err != nil {
		return Stats{}, err
	}
	total, merged, table := kernel.Total(), x.merge.Stats(), x.table.Stats()
	return Stats{
		Opened: table.Opened, Closed: table.Closed, Failed: table.Failed, Adopted: table.Adopted,
		Repeated: table.Repeated, Strays: table.Strays, Synthesized: table.Synthesized, Open: table.Open,
		Missing: x.loss.missing,
		Read:    kernel.Read, Lost: total.RingFull + total.NoRing, Unseen: total.NoStorage, Excluded: total.Excluded,
		Malformed: x.malformed, Corrupt: kernel.Corrupt,
		Released: merged.Released, Pending: merged.Pending, Late: merged.Late,
		Gaps: table.Gaps, Violations: table.Violations,
		Refused: x.refusals.records,
	}, nil
}

// refusals counts what consumers refuse, and says so without flooding the log.
type refusals struct {
	logger  *slog.Logger
	records uint64
	said    rarely
}

// rarely is for what may happen with every event and is to be said once in a while.
type rarely struct{ last time.Time }

const sayEvery = 10 * time.Second

// again reports whether it is time to say it again, and takes it as said.
func (r *rarely) again() bool {
	if time.Since(r.last) < sayEvery {
		return false
	}
	r.last = time.Now()
	return true
}

func newRefusals(logger *slog.Logger) *refusals { return &refusals{logger: logger} }

func (r *refusals) add(n uint64, err error) {
	r.records += n
	if !r.said.again() {
		return
	}
	r.logger.Warn("a consumer refused log records", "error", err, "refused", r.records)
}

// A Need is something that tracing cannot do without.
type Need struct {
	Name   string // what is needed
	Found  string // what there is, where the need is met
	Err    error  // why it is not met; nil where it is
	Remedy string // what an administrator can do about it
}

// Check tries each need on the running kernel and as the current user. btf is a file with the
// kernel's types, empty for the kernel's own.
func Check(btf string) []Need {
	var needs []Need
	for _, n := range probe.Check(btf) {
		needs = append(needs, Need(n))
	}
	return needs
}
