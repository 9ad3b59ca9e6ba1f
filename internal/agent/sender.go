package agent

import (
	"context"
	"errors"
	"os"
	"sync/atomic"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	xstorage "go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

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
	offered atomic.Int64     // items
	refused map[string]*atomic.Int64
}

// The causes for which items are refused.
const (
	causeQueueFull   = "queue_full"
	causeNoRoom      = "no_room"       // in the storage
	causeHandOffFull = "hand_off_full" // the disk does not keep up
	causeNotRunning  = "not_running"
	causeOther       = "other" // as when the disk fails
)

func newSender(c component.Component, signal signalType, storage *storage.Storage) *sender {
	s := &sender{Component: c, signal: signal, storage: storage, refused: make(map[string]*atomic.Int64)}
	for _, cause := range []string{causeQueueFull, causeNoRoom, causeHandOffFull, causeNotRunning, causeOther} {
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
	case errors.Is(err, os.ErrClosed):
		return causeNotRunning
	}
	return causeOther
}

// room refuses what the storage has no room for, before a queue counts it as its own.
func (s *sender) room() error {
	if s.storage != nil && s.storage.Full() {
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
		f.queued = newHandOff(count, func(batch T) { _ = f.pass(context.Background(), batch) })
	}
	s.feed = f
	return f
}

// offer takes a batch without waiting for the disk.
func (f *feed[T]) offer(ctx context.Context, batch T) error {
	n := f.count(batch)
	f.sender.offered.Add(int64(n))
	if f.queued == nil {
		return f.pass(ctx, batch)
	}
	err := f.sender.room()
	if err == nil {
		err = f.queued.offer(batch)
	}
	return f.sender.refuse(n, err)
}

func (f *feed[T]) pass(ctx context.Context, batch T) error {
	n := f.count(batch) // now: a queue may empty it
	err := f.sender.room()
	if err == nil {
		err = f.next(ctx, batch)
	}
	return f.sender.refuse(n, err)
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
	return f.queued.close(ctx)
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
