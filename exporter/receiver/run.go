package receiver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/connspan/connspan/exporter"
)

const (
	// drainTimeout bounds how long pipelines may take for what is left at the end: a Collector that
	// shuts down sets no limit of its own.
	drainTimeout = 10 * time.Second
	// watchInterval is how often losses are looked for.
	watchInterval = 5 * time.Second
)

// run is a tracer at work.
type run struct {
	exporter  *exporter.Exporter
	queues    []runner
	hosts     []component.Host
	logger    *slog.Logger
	telemetry metric.Registration
	cancel    context.CancelFunc
	work      sync.WaitGroup // trace and watch
	err       error          // of Run; to be read when work is done
}

// start attaches the tracer, and begins to pass on what it tells.
func (t *tracer) start() (*run, error) {
	x, err := exporter.New(t.cfg.Exporter, t.to, t.logger)
	if err != nil {
		return nil, err
	}
	r := &run{exporter: x, queues: t.queues, hosts: t.hosts, logger: t.logger}
	meter := t.set.MeterProvider.Meter(scopeName, metric.WithInstrumentationAttributes(
		attribute.Stringer("otelcol.component.id", t.set.ID)))
	if err := x.Observe(meter); err != nil {
		return nil, errors.Join(err, x.Close())
	}
	if r.telemetry, err = observe(meter, t.queues); err != nil {
		return nil, errors.Join(err, x.Close())
	}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	for _, q := range r.queues {
		go q.run() // until close
	}
	r.work.Go(func() { r.trace(ctx, x.Run) })
	r.work.Go(func() { r.watch(ctx) })
	return r, nil
}

// trace runs the tracer, and says so where it ends by itself: it cannot go on then, while the rest of the
// Collector can.
func (r *run) trace(ctx context.Context, tracer func(context.Context) error) {
	r.err = tracer(ctx)
	if ctx.Err() == nil {
		r.cancel() // what is reported last is to stay
		r.logger.Error("tracing has ended", "error", r.err)
		r.report(componentstatus.NewPermanentErrorEvent(r.err))
	}
}

// stop ends the tracer, and has the pipelines take what it has told.
func (r *run) stop(ctx context.Context) error {
	r.cancel()
	r.work.Wait()
	err := errors.Join(r.err, r.exporter.Close())
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	drained := make(chan error, len(r.queues))
	for _, q := range r.queues {
		go func() { drained <- q.close(ctx) }()
	}
	for range r.queues {
		err = errors.Join(err, <-drained)
	}
	return errors.Join(err, r.telemetry.Unregister())
}

func (r *run) report(event *componentstatus.Event) {
	for _, h := range r.hosts {
		componentstatus.ReportStatus(h, event)
	}
}

// watch makes what is lost the status of the component, until nothing more is.
func (r *run) watch(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	var h health
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if event := h.see(r.losses()); event != nil {
			if event.Err() != nil {
				r.logger.Warn("not everything arrives", "error", event.Err())
			}
			r.report(event)
		}
	}
}

// health is what watch has seen.
type health struct {
	last losses
	ill  bool
}

// see gives the status to report, nil if there is none. err is why not everything arrives, at the moment.
func (h *health) see(now losses, err error) *componentstatus.Event {
	wasIll, lost := h.ill, now.since(h.last)
	h.last, h.ill = now, err != nil || lost != nil
	switch {
	case h.ill:
		return componentstatus.NewRecoverableErrorEvent(errors.Join(lost, err))
	case wasIll:
		return componentstatus.NewEvent(componentstatus.StatusOK)
	}
	return nil
}

// losses are totals of what has not arrived.
type losses struct {
	events  uint64 // that found no room in the kernel's rings
	unseen  uint64 // state changes
	refused uint64 // log records, data points and spans that found a queue full
	dropped int64  // the same that a pipeline did not take
}

// losses looks at all stages. The error is that of the pipelines which refuse at the moment.
func (r *run) losses() (losses, error) {
	stats, err := r.exporter.Stats()
	l := losses{events: stats.Lost, unseen: stats.Unseen, refused: stats.Refused()}
	for _, q := range r.queues {
		s := q.look()
		l.dropped += s.dropped
		if s.err != nil {
			err = errors.Join(err, fmt.Errorf("passing on %s: %w", s.signal, s.err))
		}
	}
	return l, err
}

// since tells what has come to l after last.
func (l losses) since(last losses) error {
	if l == last {
		return nil
	}
	return fmt.Errorf("lost %d events to full rings, %d state changes to the kernel's lack of memory, %d records to full queues, %d records to pipelines",
		l.events-last.events, l.unseen-last.unseen, l.refused-last.refused, l.dropped-last.dropped)
}
