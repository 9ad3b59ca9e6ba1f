package exporter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/otel/metric"

	"github.com/connspan/connspan/internal/clock"
	"github.com/connspan/connspan/internal/conn"
	"github.com/connspan/connspan/internal/coverage"
	"github.com/connspan/connspan/internal/event"
	"github.com/connspan/connspan/internal/merge"
	"github.com/connspan/connspan/internal/probe"
)

const (
	// calibration is how often the offset between kernel and wall time is measured anew.
	calibration = 5 * time.Second
	// lastRounds is how long Run may wait, once its context has ended, for a CPU that sleeps
	// inside the tracer.
	lastRounds = 2 * time.Second
	// repairEvery is how often, at most, the kernel's sockets are looked at again after losses.
	repairEvery = 500 * time.Millisecond
	// sleepAtMost bounds the sleep of an idle reader: counters of failures wake nobody, and are to be
	// seen within a second.
	sleepAtMost = time.Second
)

// MaxBatch is the most log records, data points or spans that a consumer is given in a call.
const MaxBatch = 1024

// maxRelease is how many events a round tells of: the rings are to be read again before they are full. What is
// ready and has to wait for the next round waits in the merge, up to maxReady events, about 25 MB. With
// more nothing is read: what then has no room in a ring is lost, counted and repaired.
const (
	maxRelease = 4 * MaxBatch
	maxReady   = 100_000
)

// Consumers are where the signals go; a signal without any is not made. Each consumer gets every batch,
// and is called from the goroutine that reads the rings: it must not block, as a queue does not. An
// error counts what is in the batch as refused.
type Consumers struct {
	Logs    []consumer.Logs
	Metrics []consumer.Metrics
	Traces  []consumer.Traces
}

// An Exporter is a tracer at work. Its methods must not be called concurrently, but for Stats.
type Exporter struct {
	cfg       Config
	to        Consumers
	logger    *slog.Logger
	tracer    *probe.Tracer
	merge     *merge.Merge
	table     *conn.Table
	clock     *clock.Clock
	processes *resources
	signals   signals
	samples   samples
	tally     *coverage.Tally
	loss      *loss
	event     event.Event // the one being decoded
	malformed uint64

	introduced, misnamed uint64 // records of processes, and those of them that could not be decoded
	running              bool
	behind               bool // the last round has left events that are ready to be told
	told                 Told
	refusals             *refusals
	stats                atomic.Pointer[Stats] // as of the last round
	observed             []metric.Registration // of Stats
	last                 atomic.Pointer[Stats] // from Close on
}

// New loads the BPF programs and attaches them: when it returns, every connection is seen, though
// nothing is told before Run. The error says in one line what is wrong with cfg, or what this
// machine lacks.
func New(cfg Config, to Consumers, logger *slog.Logger) (*Exporter, error) {
	return newStalled(cfg, to, logger, probe.Stall{})
}

// newStalled is New with programs that stall, for tests of the order.
func newStalled(cfg Config, to Consumers, logger *slog.Logger, stall probe.Stall) (*Exporter, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	processes, err := newResources(cfg.Resource, logger)
	if err != nil {
		return nil, err
	}
	filter, err := newFilter(cfg.Filter, processes)
	if err != nil {
		return nil, err
	}
	tracer, err := probe.Load(probe.Config{RingSize: int(cfg.Tracer.RingSize), Filter: filter.early(), Stall: stall, BTF: cfg.Tracer.BTF})
	if err != nil {
		return nil, err
	}
	x := &Exporter{
		cfg: cfg, to: to, logger: logger, tracer: tracer, table: conn.NewTable(), processes: processes,
		clock:    &clock.Clock{Kernel: tracer.Now, Wall: time.Now},
		refusals: newRefusals(logger),
	}
	x.table.Filter = filter.wants
	if err := x.start(); err != nil {
		return nil, errors.Join(err, tracer.Close())
	}
	return x, nil
}

func (x *Exporter) start() (err error) {
	x.loss = newLoss(x.tracer.CPUs(), x.logger)
	x.table.Report = x.loss.outOfStep
	x.merge, err = merge.New(merge.Config{
		CPUs: x.tracer.CPUs(), Guard: x.cfg.Tracer.Guard,
		MaxHold: x.cfg.Tracer.MaxHold, MaxPending: x.cfg.Tracer.MaxPending, MaxRelease: maxRelease,
	})
	if err != nil {
		return err
	}
	if err := x.clock.Calibrate(); err != nil {
		return err
	}
	if x.tally, err = newTally(x.tracer); err != nil {
		return err
	}
	now := time.Now()
	x.signals = newSignals(x.cfg, x.to, x.processes, x.clock, now)
	if x.signals.metrics != nil {
		x.samples.metrics = newPace(x.cfg.Metrics.Interval, now)
	}
	if x.signals.logs != nil {
		x.samples.heartbeat = newPace(x.cfg.Logs.Heartbeat, now)
	}
	x.publish(0)
	if err := x.tracer.Attach(); err != nil {
		return err
	}
	if err := x.tracer.AcceptUnseen; err != nil {
		x.logger.Debug("whoever accepts a connection for another process is found at its end", "error", err)
	}
	return nil
}

// Run tells of the connections that are open already and of every one from New on, until ctx ends,
// and then of everything that happened before that.
func (x *Exporter) Run(ctx context.Context) error {
	// What is on its way to a consumer when ctx ends is to arrive all the same.
	whole := context.WithoutCancel(ctx)
	if err := x.adopt(whole); err != nil {
		return err
	}
	x.running = true
	for ctx.Err() == nil {
		if err := x.round(whole); err != nil {
			return err
		}
		x.repair(whole)
		x.sample(whole)
		if x.behind {
			continue
		}
		if err := x.tracer.Wait(ctx, x.cfg.Tracer.Interval, x.idle()); err != nil {
			return err
		}
	}
	return x.finish(whole)
}

// round is the way from kernel to consumer. The order of its steps is what makes the order of the
// stream exact: clock, in-flight words, rings, release (see package merge).
func (x *Exporter) round(ctx context.Context) error {
	now, err := x.tracer.Now()
	if err != nil {
		return err
	}
	if !x.behind || x.merge.Stats().Pending < maxReady {
		x.read(now)
	}
	if x.clock.Due(now, calibration) {
		if err := x.clock.Calibrate(); err != nil {
			x.loss.complain("calibrating the clock", err)
		}
	}
	x.signals.observe(x.clock.Time(now))
	x.behind = !x.merge.Release(now, func(e *event.Event) { x.apply(ctx, e) })
	x.reconcile(ctx)
	x.report(ctx)
	x.ship(ctx)
	x.publish(now)
	return nil
}

// read takes in what is complete up to now.
func (x *Exporter) read(now uint64) {
	for cpu := range x.tracer.CPUs() {
		if !x.tracer.InFlight(cpu) {
			x.merge.Watermark(cpu, now)
			x.loss.quiet[cpu] = now
		}
	}
	x.tracer.Drain(x.take)
	x.loss.settle()
}

// take decodes a sample of the ring of cpu. An event goes to the merge, but its owner is looked at now, not
// when the event is told: what has been waited for may have exited.
func (x *Exporter) take(cpu int, sample []byte) {
	if len(sample) == event.ProcessSize {
		x.introduce(sample)
		return
	}
	if err := event.Decode(sample, cpu, &x.event); err != nil {
		x.malformed++
		return
	}
	x.loss.sequences[cpu].See(x.event.Seq, x.event.Time)
	x.processes.find(ownerOf(&x.event))
	x.merge.Push(&x.event)
}

// introduce takes in the record of a process. It has been read before any event of that process is told:
// it was in a ring before the first of them was stamped.
func (x *Exporter) introduce(sample []byte) {
	x.introduced++
	process, err := event.DecodeProcess(sample)
	if err != nil {
		x.misnamed++
		return
	}
	x.processes.introduce(&process)
}

// apply has each event told, and tallied though a filter leaves it out: it was seen.
func (x *Exporter) apply(ctx context.Context, e *event.Event) {
	repeated := x.table.Filtered().Repeated
	x.table.Apply(e, x.tell(ctx, x.signals.add))
	if e.Filtered && x.table.Filtered().Repeated == repeated {
		x.tally.Add(&conn.Record{Event: e})
	}
}

// tell gives each record to add, and what has been made of them to the consumers before that is more
// than they may be given at once.
func (x *Exporter) tell(ctx context.Context, add func(*conn.Record)) func(*conn.Record) {
	return func(r *conn.Record) {
		x.tally.Add(r)
		if x.signals.pending() >= MaxBatch {
			x.ship(ctx)
		}
		add(r)
	}
}

// finish tells everything that has happened up to now. No event can follow once the programs are
// detached and none is in flight, so the last drain has them all, and what a watermark would still
// hold back can go, in order. A CPU that sleeps inside a program is waited for, for lastRounds.
func (x *Exporter) finish(ctx context.Context) error {
	if x.signals.metrics != nil {
		x.readTotals(ctx)
	}
	if err := x.tracer.Detach(); err != nil {
		return fmt.Errorf("detaching the programs: %w", err)
	}
	for deadline := time.Now().Add(lastRounds); x.inFlight() && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if err := x.round(ctx); err != nil {
		return err
	}
	x.merge.Flush(func(e *event.Event) { x.apply(ctx, e) })
	x.ship(ctx)
	now, err := x.tracer.Now()
	if err != nil {
		return err
	}
	if x.signals.metrics != nil {
		x.collect(ctx, now)
	}
	x.publish(now)
	return nil
}

func (x *Exporter) inFlight() bool {
	for cpu := range x.tracer.CPUs() {
		if x.tracer.InFlight(cpu) {
			return true
		}
	}
	return false
}

// Close detaches the programs and frees what the kernel holds. It may be called more than once,
// but not while Run runs.
func (x *Exporter) Close() error {
	err := x.unobserve() // the counters that Stats reads are the tracer's
	if last, statsErr := x.Stats(); statsErr == nil {
		x.last.Store(&last)
	}
	if closeErr := x.tracer.Close(); closeErr != nil {
		err = errors.Join(err, fmt.Errorf("closing the tracer: %w", closeErr))
	}
	return err
}
