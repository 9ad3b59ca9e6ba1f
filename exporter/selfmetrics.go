package exporter

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// selfMetric is one of the metrics that tell of the Exporter itself, all of them totals in Stats.
type selfMetric struct {
	kind                    func(m metric.Meter, s *selfMetric) (metric.Int64Observable, error)
	name, unit, description string
	read                    func(s *Stats, tell tell)
}

// tell takes a value of a metric, with the attributes that tell it from the metric's other values.
type tell func(n uint64, of ...attribute.KeyValue)

// selfMetrics are in the order of the way from the kernel to the consumers. Each has what it takes to
// see that nothing is lost without being counted.
var selfMetrics = []selfMetric{
	{
		selfCounter, "connspan.event.numbered", "{event}",
		"Events that got a number; for each cpu the sum of submitted and lost, but for cause no_storage.",
		perCPU(func(c *CPUStats) uint64 { return c.Numbered }),
	},
	{
		selfCounter, "connspan.event.submitted", "{event}",
		"Events put into a ring; in all as many as are read, while no ring is corrupt.",
		perCPU(func(c *CPUStats) uint64 { return c.Submitted }),
	},
	{
		selfCounter, "connspan.event.lost", "{event}",
		"Events that found no room in the ring (cause ring_full) or no ring (no_ring), and state changes for which the kernel had no memory (no_storage).",
		eachLoss,
	},
	{
		selfCounter, "connspan.event.missing", "{event}",
		"Lost events that were located, by the numbers that are missing between two events of a CPU.",
		total(func(s *Stats) uint64 { return s.Missing }),
	},
	{
		selfCounter, "connspan.event.excluded", "{event}",
		"Events of this process's own connections.",
		total(func(s *Stats) uint64 { return s.Excluded }),
	},
	{
		selfCounter, "connspan.event.rescued", "{event}",
		"State changes that the first program missed and the second one saw to.",
		rescued,
	},
	{
		selfCounter, "connspan.program.recursion_misses", "{run}",
		"Runs of the first program that the kernel skipped, since it was running on that CPU.",
		total(func(s *Stats) uint64 { return s.Misses }),
	},
	{
		selfCounter, "connspan.event.read", "{event}",
		"Events read from the rings: the sum of released, pending and malformed.",
		total(func(s *Stats) uint64 { return s.Read }),
	},
	{
		selfCounter, "connspan.event.malformed", "{event}",
		"Events that could not be decoded.",
		total(func(s *Stats) uint64 { return s.Malformed }),
	},
	{
		selfCounter, "connspan.ring.corrupt", "{ring}",
		"Rings that could not be read on, and what they held was given up.",
		total(func(s *Stats) uint64 { return s.Corrupt }),
	},
	{
		selfUpDownCounter, "connspan.event.pending", "{event}",
		"Events that wait for older ones.",
		total(func(s *Stats) uint64 { return uint64(s.Pending) }),
	},
	{
		selfCounter, "connspan.event.released", "{event}",
		"Events that left the merge, in order: the sum of opened, closed, failed, adopted, repeated, sampled and filtered.",
		total(func(s *Stats) uint64 { return s.Released }),
	},
	{
		selfCounter, "connspan.event.late", "{event}",
		"Events released behind a younger one.",
		total(func(s *Stats) uint64 { return s.Late }),
	},
	{
		selfCounter, "connspan.event.sampled", "{event}",
		"Totals of open connections.",
		total(func(s *Stats) uint64 { return s.Sampled }),
	},
	{
		selfCounter, "connspan.event.filtered", "{event}",
		"Events of connections that the filter leaves out in user space; what the programs leave out makes none.",
		total(func(s *Stats) uint64 { return s.FilteredEvents }),
	},
	{
		selfCounter, "connspan.event.gaps", "{event}",
		"Events that a connection's own numbering shows to be missing.",
		total(func(s *Stats) uint64 { return s.Gaps }),
	},
	{
		selfCounter, "connspan.event.violations", "{event}",
		"Events behind a later one of the same connection: 0, or the order is broken.",
		total(func(s *Stats) uint64 { return s.Violations }),
	},
	{
		selfCounter, "connspan.process.introduced", "{process}",
		"Records of processes read from the rings: one when a process first owns a connection, one when it does so as somebody else.",
		total(func(s *Stats) uint64 { return s.Introduced }),
	},
	{
		selfCounter, "connspan.process.malformed", "{process}",
		"Records of processes that could not be decoded.",
		total(func(s *Stats) uint64 { return s.Misnamed }),
	},
	{
		selfCounter, "connspan.process.unnamed", "{process}",
		"Times that a ring had no room for the record of a process; it is tried again with its next connection.",
		total(func(s *Stats) uint64 { return s.Unnamed }),
	},
	{
		selfCounter, "connspan.connection.opened", "{connection}",
		"Connections that reached ESTABLISHED.",
		total(func(s *Stats) uint64 { return s.Opened }),
	},
	{
		selfCounter, "connspan.connection.closed", "{connection}",
		"Connections that closed.",
		total(func(s *Stats) uint64 { return s.Closed }),
	},
	{
		selfCounter, "connspan.connection.failed", "{connection}",
		"Connections that never reached ESTABLISHED.",
		total(func(s *Stats) uint64 { return s.Failed }),
	},
	{
		selfCounter, "connspan.connection.adopted", "{connection}",
		"Connections found open: older than the tracer, or their opening was lost.",
		total(func(s *Stats) uint64 { return s.Adopted }),
	},
	{
		selfCounter, "connspan.connection.repeated", "{connection}",
		"Connections found open that were known.",
		total(func(s *Stats) uint64 { return s.Repeated }),
	},
	{
		selfCounter, "connspan.connection.strays", "{connection}",
		"Connections that closed and were not known to be open.",
		total(func(s *Stats) uint64 { return s.Strays }),
	},
	{
		selfCounter, "connspan.connection.synthesized", "{connection}",
		"Connections found gone whose end was lost.",
		total(func(s *Stats) uint64 { return s.Synthesized }),
	},
	{
		selfCounter, "connspan.connection.filtered", "{connection}",
		"Connections that the filter leaves out. No other metric of connections counts them.",
		total(func(s *Stats) uint64 { return s.Filtered }),
	},
	{
		selfUpDownCounter, "connspan.connection.open", "{connection}",
		"Connections open now: opened and adopted, less closed that were no strays, less synthesized, while there are no gaps and violations.",
		total(func(s *Stats) uint64 { return uint64(s.Open) }),
	},
	{
		selfCounter, "connspan.record.told", "{record}",
		"Log records, data points and spans given to the consumers.",
		perSignal(func(t *Told) (logs, metrics, traces uint64) { return t.LogRecords, t.DataPoints, t.Spans }),
	},
	{
		selfCounter, "connspan.record.refused", "{record}",
		"Log records, data points and spans that a consumer did not take, once for each consumer.",
		perSignal(func(t *Told) (logs, metrics, traces uint64) {
			return t.RefusedLogRecords, t.RefusedDataPoints, t.RefusedSpans
		}),
	},
}

func selfCounter(m metric.Meter, s *selfMetric) (metric.Int64Observable, error) {
	return m.Int64ObservableCounter(s.name, metric.WithUnit(s.unit), metric.WithDescription(s.description))
}

func selfUpDownCounter(m metric.Meter, s *selfMetric) (metric.Int64Observable, error) {
	return m.Int64ObservableUpDownCounter(s.name, metric.WithUnit(s.unit), metric.WithDescription(s.description))
}

func total(of func(*Stats) uint64) func(*Stats, tell) {
	return func(s *Stats, tell tell) { tell(of(s)) }
}

func rescued(s *Stats, tell tell) {
	var n uint64
	for i := range s.CPUs {
		n += s.CPUs[i].Rescued
	}
	tell(n)
}

func perCPU(of func(*CPUStats) uint64) func(*Stats, tell) {
	return func(s *Stats, tell tell) {
		eachCPU(s, func(c *CPUStats, cpu attribute.KeyValue) { tell(of(c), cpu) })
	}
}

func eachLoss(s *Stats, tell tell) {
	eachCPU(s, func(c *CPUStats, cpu attribute.KeyValue) {
		tell(c.RingFull, cpu, attribute.String("cause", "ring_full"))
		tell(c.NoRing, cpu, attribute.String("cause", "no_ring"))
		tell(c.NoStorage, cpu, attribute.String("cause", "no_storage"))
	})
}

// eachCPU leaves out the CPUs that never had anything to count: there may be thousands that are
// possible and never there.
func eachCPU(s *Stats, yield func(c *CPUStats, cpu attribute.KeyValue)) {
	for i := range s.CPUs {
		if c := &s.CPUs[i]; c.Numbered+c.NoStorage > 0 {
			yield(c, attribute.Int("cpu", i))
		}
	}
}

func perSignal(of func(*Told) (logs, metrics, traces uint64)) func(*Stats, tell) {
	return func(s *Stats, tell tell) {
		logs, metrics, traces := of(&s.Told)
		tell(logs, attribute.String("otelcol.signal", "logs"))
		tell(metrics, attribute.String("otelcol.signal", "metrics"))
		tell(traces, attribute.String("otelcol.signal", "traces"))
	}
}

// Observe has the meter tell the totals of Stats, as connspan.*, whenever it collects, until Close. One
// reading gives them all: what left the rings adds up in every collection, and what the kernel counts,
// which goes on meanwhile, once nothing moves. Beside them it tells, of each network namespace, what the kernel
// has counted of TCP (connspan.kernel.tcp.*), what of that was seen (connspan.seen.tcp.*), and the difference
// (connspan.unseen.tcp.*). It may be called concurrently with Run.
func (x *Exporter) Observe(m metric.Meter) error {
	lag, err := m.Float64ObservableGauge("connspan.watermark.lag", metric.WithUnit("s"), metric.WithDescription(
		"How old the newest event may be of which it was known, at the last round of reading, that no older one can follow."))
	if err != nil {
		return fmt.Errorf("creating a metric: %w", err)
	}
	totals := make([]metric.Int64Observable, len(selfMetrics))
	all := []metric.Observable{lag}
	for i := range selfMetrics {
		if totals[i], err = selfMetrics[i].kind(m, &selfMetrics[i]); err != nil {
			return fmt.Errorf("creating a metric: %w", err)
		}
		all = append(all, totals[i])
	}
	registration, err := m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s, err := x.Stats()
		if err != nil {
			return err
		}
		o.ObserveFloat64(lag, s.WatermarkLag.Seconds())
		for i := range selfMetrics {
			selfMetrics[i].read(&s, func(n uint64, of ...attribute.KeyValue) {
				o.ObserveInt64(totals[i], int64(n), metric.WithAttributes(of...))
			})
		}
		return nil
	}, all...)
	if err != nil {
		return fmt.Errorf("observing the totals: %w", err)
	}
	x.observed = append(x.observed, registration)
	if registration, err = x.tally.Observe(m); err != nil {
		return fmt.Errorf("observing the kernel's counters: %w", err)
	}
	x.observed = append(x.observed, registration)
	return nil
}

// unobserve waits until no callback of Observe runs, and none will.
func (x *Exporter) unobserve() error {
	var errs []error
	for _, r := range x.observed {
		errs = append(errs, r.Unregister())
	}
	x.observed = nil
	return errors.Join(errs...)
}
