package exporter

import (
	"context"
	"log/slog"
	"time"

	"github.com/connspan/connspan/internal/event"
	"github.com/connspan/connspan/internal/merge"
	"github.com/connspan/connspan/internal/probe"
)

// loss is what is known of events that found no room, and how far their repair has come.
type loss struct {
	logger    *slog.Logger
	sequences []merge.Sequence
	quiet     []uint64    // when each CPU was last found without a program in flight
	missing   uint64      // numbers of events that never came
	lost      uint64      // events and state changes that are known to be lost
	seen      uint64      // of lost: what a repair has begun for
	unstored  uint64      // sockets without storage that were looked for
	compared  time.Time   // when the kernel's sockets were last looked at
	list      *probe.List // taken, waiting for the stream to reach it
	said      rarely

	saidLoss, saidGap, saidViolation, saidTrouble rarely
}

func newLoss(cpus int, logger *slog.Logger) *loss {
	return &loss{logger: logger, sequences: make([]merge.Sequence, cpus), quiet: make([]uint64, cpus), compared: time.Now()}
}

// settle says where events of the CPUs that were found quiet are missing.
func (l *loss) settle() {
	for cpu := range l.sequences {
		l.sequences[cpu].Settle(cpu, l.quiet[cpu], l.gap)
	}
}

func (l *loss) gap(g merge.Gap) {
	l.missing += g.Missing
	if !l.said.again() {
		return
	}
	l.logger.Warn("events lost", "cpu", g.CPU, "missing", g.Missing,
		"between", time.Duration(g.After), "and", time.Duration(g.Before), "missing_total", l.missing)
}

// notice says that events were lost for which no repair has begun, wherever they are missing: a CPU
// that has no further event shows no gap.
func (l *loss) notice(lost uint64) {
	if lost == l.seen || !l.saidLoss.again() {
		return
	}
	l.logger.Warn("events lost, to be repaired from the kernel's own sockets", "lost", lost-l.seen, "lost_total", lost)
}

// outOfStep says which event does not follow the last one of its socket. Gaps come with losses; a
// violation of the order must never be.
func (l *loss) outOfStep(e *event.Event, last uint32) {
	violation := e.Ordinal <= last
	said, level := &l.saidGap, slog.LevelWarn
	if violation {
		said, level = &l.saidViolation, slog.LevelError
	}
	if !said.again() {
		return
	}
	l.logger.Log(context.Background(), level, "a connection's events are out of step", "violation", violation,
		"kind", e.Kind, "ordinal", e.Ordinal, "last", last, "cpu", e.CPU, "seq", e.Seq, "time", time.Duration(e.Time),
		"cookie", e.Cookie, "local", e.Local, "peer", e.Peer, "role", e.Role, "state", e.OldState, "states", e.States,
		"flags", e.Flags, "pid", e.PID, "began", time.Duration(e.Began), "established", time.Duration(e.Established))
}

// complain says that something did not succeed which will be tried again.
func (l *loss) complain(what string, err error) {
	if !l.saidTrouble.again() {
		return
	}
	l.logger.Warn(what+", to be tried again", "error", err)
}

// adopt takes in the connections that are older than the tracer. The programs are attached by now,
// so none can slip through between what is found and what is traced.
func (x *Exporter) adopt(ctx context.Context) error {
	if err := x.remember(ctx); err != nil {
		return err
	}
	return x.pay(ctx)
}

// remember finds the sockets of which nothing is known, and who has them open.
func (x *Exporter) remember(ctx context.Context) error {
	return x.tracer.Remember(func() error { return x.round(ctx) })
}

// pay has the openings told that are owed.
func (x *Exporter) pay(ctx context.Context) error {
	return x.tracer.Adopt(func() error { return x.round(ctx) })
}

// idle is how long the reader may sleep while nothing happens: no longer than between any two rounds
// as long as a repair is to begin, or it or a sample to be completed.
func (x *Exporter) idle() time.Duration {
	if x.loss.list != nil || x.samples.to != 0 || x.loss.lost != x.loss.seen {
		return min(x.cfg.Tracer.Interval, sleepAtMost)
	}
	return sleepAtMost
}

// repair looks at the kernel's own sockets again when events have been lost, and now and then anyway,
// since a kernel may have reasons of its own not to run a program: it has the openings told that
// were lost, and lists what is still there. Events go on meanwhile. What is lost during the repair
// calls for another one.
func (x *Exporter) repair(ctx context.Context) {
	lost, err := x.tracer.Lost()
	if err != nil {
		x.loss.complain("counting what is lost", err)
		return
	}
	x.loss.lost = lost
	x.loss.notice(lost)
	since := time.Since(x.loss.compared)
	if x.loss.list != nil || since < repairEvery || lost == x.loss.seen && since < x.cfg.Tracer.Audit {
		return
	}
	x.loss.compared = time.Now()
	if err := x.compare(ctx, lost == x.loss.seen); err != nil {
		x.loss.complain("comparing with the kernel's own sockets", err)
		return
	}
	x.loss.seen = lost
}

// compare also looks for workers that serve what their listener's process has accepted, in an audit.
func (x *Exporter) compare(ctx context.Context, audit bool) (err error) {
	if unstored := x.tracer.Unstored(); audit || unstored != x.loss.unstored {
		if err := x.remember(ctx); err != nil {
			return err
		}
		x.loss.unstored = unstored
	}
	if err := x.pay(ctx); err != nil {
		return err
	}
	x.loss.list, err = x.tracer.List(x.table.Stats().Open + x.table.Filtered().Open)
	return err
}

// reconcile ends the connections of which the list says that they are gone, once the stream has
// reached the list's time: what would have told of their ends would be there by now.
func (x *Exporter) reconcile(ctx context.Context) {
	l := x.loss.list
	if l == nil || x.merge.Stats().Watermark < l.To {
		return
	}
	x.loss.list = nil
	x.table.Reconcile(l.From, l.To, l.Has, x.tell(ctx, x.signals.add))
}
