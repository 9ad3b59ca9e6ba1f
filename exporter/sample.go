package exporter

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/connspan/connspan/internal/conn"
)

// samples is about what is told of connections while they are open: the metrics, and heartbeats.
//
// Their totals are events like any other: submitted by the programs, put in order, applied to the
// table. So what is told at the end of a sample is what was carried up to then, also of a connection
// that was opened or closed meanwhile.
type samples struct {
	metrics   pace
	heartbeat pace
	to        uint64 // when the sample was complete, once the stream has come so far; 0: none on the way
}

// pace says when it is time again; with every 0 never.
type pace struct {
	every time.Duration
	next  time.Time
	due   bool
}

func newPace(every time.Duration, now time.Time) pace {
	return pace{every: every, next: now.Add(every)}
}

// come reports whether it is time. What was missed is not caught up on.
func (p *pace) come(now time.Time) bool {
	if p.every == 0 || now.Before(p.next) {
		return false
	}
	p.next = now.Add(p.every - now.Sub(p.next)%p.every)
	p.due = true
	return true
}

// take reports whether it was due, and takes it as done.
func (p *pace) take() bool {
	due := p.due
	p.due = false
	return due
}

// sample has the totals of the open connections told when it is time for the metrics or a heartbeat.
func (x *Exporter) sample(ctx context.Context) {
	now := time.Now()
	metrics, heartbeat := x.samples.metrics.come(now), x.samples.heartbeat.come(now)
	if x.samples.to != 0 || !metrics && !heartbeat {
		return
	}
	x.readTotals(ctx)
}

func (x *Exporter) readTotals(ctx context.Context) {
	if err := x.tracer.Sample(func() error { return x.round(ctx) }); err != nil {
		x.loss.complain("reading the totals of open connections", err)
	}
	to, err := x.tracer.Now()
	if err != nil {
		x.loss.complain("reading the kernel's clock", err)
		to = 1 // the next round
	}
	x.samples.to = to
}

// report tells what a sample was made for, once the stream has reached its end.
func (x *Exporter) report(ctx context.Context) {
	reached := x.merge.Stats().Reached
	if x.samples.to == 0 || reached < x.samples.to {
		return
	}
	x.samples.to = 0
	if x.samples.heartbeat.take() {
		x.table.Heartbeat(reached, uint64(x.samples.heartbeat.every), x.tell(ctx, func(r *conn.Record) {
			x.told.Heartbeats++
			x.signals.heartbeat(r)
		}))
	}
	if x.samples.metrics.take() {
		x.collect(ctx, reached)
	}
}

// collect tells the metrics as of kernel time now.
func (x *Exporter) collect(ctx context.Context, now uint64) {
	x.signals.metrics.collect(now, x.table.Each, func(batch pmetric.Metrics) { x.shipMetrics(ctx, batch) })
}
