package agent

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	xstorage "go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/zap"

	"github.com/connspan/connspan/exporter/otlp"
	"github.com/connspan/connspan/internal/agent/storage"
	"github.com/connspan/connspan/internal/telemetry"
)

// sender sends one signal to where its exporter sends to.
type sender struct {
	component.Component // a consumer too, of its signal
	signal              signalType
	consumer            any // of its signal, and where the tracer is to give it
	feed                interface {
		start()
		close(ctx context.Context) error
	}
	storage *storage.Storage // nil when the queue is memory
	logger  *zap.Logger
	said    time.Time    // when the hand-off last said that items were refused
	offered atomic.Int64 // items
	refused map[string]*atomic.Int64
}

// sayEvery is how often it is said that items are refused.
const sayEvery = 10 * time.Second

// The causes for which items are refused.
const (
	causeQueueFull   = "queue_full"
	causeNoRoom      = "no_room"       // in the storage
	causeHandOffFull = "hand_off_full" // the disk does not keep up
	causeNotStored   = "not_stored"    // the disk did not take it before the program ended
	causeNotRunning  = "not_running"
	causeOther       = "other" // as when the disk fails
)

// newSender has logger hear of what a queue in files refuses when the tracer has gone on.
func newSender(c component.Component, signal signalType, storage *storage.Storage, logger *zap.Logger) *sender {
	s := &sender{Component: c, signal: signal, storage: storage, logger: logger, refused: make(map[string]*atomic.Int64)}
	for _, cause := range []string{causeQueueFull, causeNoRoom, causeHandOffFull, causeNotStored, causeNotRunning, causeOther} {
		s.refused[cause] = new(atomic.Int64)
	}
	switch next := c.(type) {
	case consumer.Logs:
		s.consumer = logsTo{next, newFeed(s, plog.Logs.LogRecordCount, next.ConsumeLogs)}
	case consumer.Metrics:
		s.consumer = metricsTo{next, newFeed(s, pmetric.Metrics.DataPointCount, next.ConsumeMetrics)}
	case consumer.Traces:
		s.consumer = tracesTo{next, newFeed(s, ptrace.Traces.SpanCount, next.ConsumeTraces)}
	}
	return s
}

// Start starts the sender, and then what it is given by.
func (s *sender) Start(ctx context.Context, host component.Host) error {
	if err := s.Component.Start(ctx, host); err != nil {
		return err
	}
	s.feed.start()
	return nil
}

// Shutdown gives the sender what waits for it, and ends it.
func (s *sender) Shutdown(ctx context.Context) error {
	return errors.Join(s.feed.close(ctx), s.Component.Shutdown(ctx))
}

// items are the totals so far.
func (s *sender) items() telemetry.Items {
	items := telemetry.Items{Refused: make(map[string]int64)}
	if counted, ok := s.Component.(interface{ Stats() otlp.Stats }); ok {
		stats := counted.Stats()
		items.Outcome = &stats
	}
	for cause, n := range s.refused {
		items.Refused[cause] = n.Load()
	}
	// Last, so that what came in is never less than what became of it.
	items.Offered = s.offered.Load()
	return items
}

// refuse counts n items, if err says that they were refused.
func (s *sender) refuse(n int, err error) error {
	if err != nil {
		s.refused[causeOf(err)].Add(int64(n))
	}
	return err
}

func causeOf(err error) string {
	switch {
	case errors.Is(err, exporterhelper.ErrQueueIsFull):
		return causeQueueFull
	case errors.Is(err, xstorage.ErrStorageFull):
		return causeNoRoom
	case errors.Is(err, errHandOffFull):
		return causeHandOffFull
	case errors.Is(err, errNotStored):
		return causeNotStored
	case errors.Is(err, os.ErrClosed):
		return causeNotRunning
	}
	return causeOther
}

// room refuses what the storage has no room for, before a queue counts it as its own.
func (s *sender) room() error {
	if s.storage.Full() {
		return xstorage.ErrStorageFull
	}
	return nil
}

// feed is the way of a signal into its sender.
type feed[T any] struct {
	sender *sender
	count  func(T) int
	next   func(context.Context, T) error
	queued *handOff[T] // nil when the sender's own queue is memory
}

func newFeed[T any](s *sender, count func(T) int, next func(context.Context, T) error) *feed[T] {
	f := &feed[T]{sender: s, count: count, next: next}
	if s.storage != nil {
		f.queued = newHandOff(count, func(batch T) error { return f.pass(context.Background(), batch) }, s.refuseLate)
	}
	s.feed = f
	return f
}

// refuseLate counts what was refused when nobody waited for it any more, and says so. One goroutine calls
// it, that of the hand-off.
func (s *sender) refuseLate(n int, err error) {
	_ = s.refuse(n, err)
	if time.Since(s.said) > sayEvery {
		s.said = time.Now()
		s.logger.Warn("a queue in files refused what it was given", zap.Error(err), zap.Int("refused", n))
	}
}

// offer takes a batch without waiting for the disk.
func (f *feed[T]) offer(ctx context.Context, batch T) error {
	n := f.count(batch) // now: a queue may empty it
	f.sender.offered.Add(int64(n))
	var err error
	if f.queued == nil {
		err = f.next(ctx, batch)
	} else if err = f.sender.room(); err == nil {
		err = f.queued.offer(batch)
	}
	return f.sender.refuse(n, err)
}

// pass gives a batch that has been handed over to the queue.
func (f *feed[T]) pass(ctx context.Context, batch T) error {
	if err := f.sender.room(); err != nil {
		return err
	}
	return f.next(ctx, batch)
}

func (f *feed[T]) start() {
	if f.queued != nil {
		f.queued.start()
	}
}

func (f *feed[T]) close(ctx context.Context) error {
	if f.queued == nil {
		return nil
	}
	return f.sender.refuse(f.queued.close(ctx))
}

// These are the consumers that the tracer knows.
type (
	logsTo struct {
		consumer.Logs
		feed *feed[plog.Logs]
	}
	metricsTo struct {
		consumer.Metrics
		feed *feed[pmetric.Metrics]
	}
	tracesTo struct {
		consumer.Traces
		feed *feed[ptrace.Traces]
	}
)

func (c logsTo) ConsumeLogs(ctx context.Context, ld plog.Logs) error { return c.feed.offer(ctx, ld) }

func (c metricsTo) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	return c.feed.offer(ctx, md)
}

func (c tracesTo) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	return c.feed.offer(ctx, td)
}
