package exporter

import (
	"log/slog"
	"time"

	"github.com/connspan/connspan/internal/probe"
)

// Stats are totals since New, but for Open, Pending and WatermarkLag. Nothing is lost without being
// counted in one of them:
//
//	happened = Read + Lost, while Corrupt is 0
//	Read = Released + Pending + Malformed
//	Released = Opened + Closed + Failed + Adopted + Repeated + Sampled + FilteredEvents
//	Opened + Adopted = Open + Closed - Strays + Synthesized, while Gaps and Violations are 0
type Stats struct {
	Running     bool   // Run has taken in what was open, and reads on
	Opened      uint64 // connections that reached ESTABLISHED
	Closed      uint64
	Failed      uint64
	Adopted     uint64 // connections found open: older than the tracer, or their opening was lost
	Repeated    uint64 // connections found open that were known
	Sampled     uint64 // totals of an open connection, read while it is open
	Strays      uint64 // of Closed: not known to be open
	Synthesized uint64 // connections found gone, or their socket used again, whose end was lost
	Open        int    // connections open now
	// Filtered are the connections that the filter leaves out, open or over: none of the other totals of
	// connections counts them.
	Filtered       uint64
	FilteredEvents uint64 // of Released: events of such connections, of which the programs have left out others
	Read           uint64 // events read from the rings
	Lost           uint64 // events for which a ring had no room, tries to adopt among them
	Missing        uint64 // of Lost: located, by the numbers that are missing between two events of a CPU
	Unseen         uint64 // state changes for which the kernel had no memory, or ran no program
	Excluded       uint64 // events of this process's own connections
	Malformed      uint64 // of Read: samples that could not be decoded
	Corrupt        uint64 // rings that could not be read on, and what they held was given up
	Released       uint64 // events that left the merge
	Pending        int    // events that wait in the merge
	Late           uint64 // of Released: behind a younger one
	Gaps           uint64 // events that a connection's own numbering shows to be missing
	Violations     uint64 // events behind a later one of the same connection; 0 unless the order is broken
	Told
	CPUs []CPUStats // of every possible CPU
	// Introduced is how many records of processes were read, one when a process first owns a connection, and
	// one when it does so as somebody else: Processes of all CPUs, once nothing moves.
	Introduced uint64
	Misnamed   uint64 // of Introduced: could not be decoded
	Unnamed    uint64 // times that a ring had no room for one; it is tried again with the next connection
	// Misses is how often the kernel skipped the first program because it was running on that CPU. The
	// second one saw to what it missed, but for Skipped, which are in Unseen:
	// Misses = Rescued - Retried + Foreign + Skipped over all CPUs, once nothing moves.
	Misses, Skipped uint64
	// WatermarkLag is how far behind its round's time everything was known: how long a CPU has been asleep
	// inside the tracer, if it is more than the guard.
	WatermarkLag time.Duration
}

// CPUStats are the events of one CPU. Numbered = Submitted + RingFull + NoRing once nothing moves.
type CPUStats struct {
	Numbered  uint64 // events that got a number
	Submitted uint64 // put into the ring
	RingFull  uint64 // lost: no room in the ring
	NoRing    uint64 // lost: no ring for this CPU
	NoStorage uint64 // state changes for which the kernel had no memory
	Excluded  uint64 // events of this process's own connections
	Filtered  uint64 // connections that the filter leaves out, of which there are no events
	Rescued   uint64 // state changes that the first program missed and the second saw to
	Retried   uint64 // of Rescued: the first had no memory for the socket's storage
	Foreign   int64  // state changes of no TCP connection: runs of the second program less those of the first
	Processes uint64 // records of processes put into the ring
	Unnamed   uint64 // records of processes for which there was no room
}

// Told is what was given to the consumers, and what of it they did not take, counted once for each of
// them.
type Told struct {
	LogRecords, RefusedLogRecords uint64
	Heartbeats                    uint64 // of LogRecords
	DataPoints, RefusedDataPoints uint64
	Spans, RefusedSpans           uint64
}

// Refused is everything that a consumer did not take.
func (t Told) Refused() uint64 { return t.RefusedLogRecords + t.RefusedDataPoints + t.RefusedSpans }

// Stats gives the totals as of the last round of reading, at most a second ago while Run runs; what
// the programs could not submit, as of now. It may be called concurrently with Run.
func (x *Exporter) Stats() (Stats, error) {
	if last := x.last.Load(); last != nil {
		return *last, nil
	}
	s := *x.stats.Load()
	kernel, err := x.tracer.Stats()
	if err != nil {
		return Stats{}, err
	}
	total := kernel.Total()
	s.Lost, s.Unseen, s.Excluded = total.RingFull+total.NoRing, total.NoStorage+kernel.Skipped, total.Excluded
	s.Misses, s.Skipped = kernel.Misses, kernel.Skipped
	s.Unnamed = total.Unnamed
	s.Filtered += total.Filtered
	s.CPUs = make([]CPUStats, len(kernel.CPU))
	for i, c := range kernel.CPU {
		s.CPUs[i] = CPUStats(c)
	}
	return s, nil
}

// publish is how Stats hears of a round at time now.
func (x *Exporter) publish(now uint64) {
	merged, table, filtered := x.merge.Stats(), x.table.Stats(), x.table.Filtered()
	read, corrupt := x.tracer.Read()
	s := &Stats{
		Running: x.running,
		Opened:  table.Opened, Closed: table.Closed, Failed: table.Failed, Adopted: table.Adopted,
		Repeated: table.Repeated, Sampled: table.Sampled, Strays: table.Strays, Synthesized: table.Synthesized,
		Open: table.Open, Gaps: table.Gaps, Violations: table.Violations,
		Filtered: filtered.Connections(), FilteredEvents: filtered.Events(),
		Read: read - x.introduced, Introduced: x.introduced, Misnamed: x.misnamed,
		Malformed: x.malformed, Corrupt: corrupt, Missing: x.loss.missing,
		Released: merged.Released, Pending: merged.Pending, Late: merged.Late,
		Told: x.told,
	}
	if merged.Known != 0 && now > merged.Known {
		s.WatermarkLag = time.Duration(now - merged.Known)
	}
	x.stats.Store(s)
}

// refusals counts what consumers refuse, and says so without flooding the log.
type refusals struct {
	logger *slog.Logger
	said   rarely
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

func (r *refusals) add(total *uint64, n uint64, err error) {
	*total += n
	if !r.said.again() {
		return
	}
	r.logger.Warn("a consumer refused what it was given", "error", err, "refused", n, "refused_total", *total)
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
