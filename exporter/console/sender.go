package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.uber.org/zap"
)

// queueSize bounds the items that wait for the writer; 50,000 log records are about 120 MB, and twice
// that until they are collected.
const queueSize = 50_000

// sender writes one signal; T is the pdata of a batch.
type sender[T any] struct {
	items   string // what is counted, in the plural
	count   func(T) int
	encode  func(b *bytes.Buffer, data T) error // appends whole lines; called by push alone
	helper  component.Component                 // the queue, ending in push
	enqueue func(ctx context.Context, data T) error
	host    component.Host
	out     io.Writer
	line    bytes.Buffer // owned by push

	running     atomic.Bool
	waiting     atomic.Int64    // items that were taken and are not written
	open        context.Context // over, with the reason, when nothing can be written any more
	giveUp      context.CancelCauseFunc
	shutdown    sync.Once
	shutdownErr error
}

// newSender makes a sender around the helper that create makes: exporterhelper.NewLogs or its like.
func newSender[T any, E component.Component, F ~func(context.Context, T) error](
	ctx context.Context, set exporter.Settings, cfg *Config, s *sender[T],
	create func(context.Context, exporter.Settings, component.Config, F, ...exporterhelper.Option) (E, error),
	consume func(E, context.Context, T) error,
) (*sender[T], error) {
	if err := confmap.Validate(cfg); err != nil {
		return nil, fmt.Errorf("configuring %s: %w", set.ID, err)
	}
	s.open, s.giveUp = context.WithCancelCause(context.WithoutCancel(ctx))
	// The helper would log every refusal, from the goroutine that offered the data.
	set.Logger = zap.NewNop()
	helper, err := create(ctx, set, cfg, s.push,
		exporterhelper.WithTimeout(exporterhelper.TimeoutConfig{}),
		exporterhelper.WithQueue(configoptional.Some(queueConfig())))
	if err != nil {
		return nil, fmt.Errorf("creating %s: %w", set.ID, err)
	}
	s.helper, s.enqueue = helper, func(ctx context.Context, data T) error { return consume(helper, ctx, data) }
	return s, nil
}

// queueConfig has one consumer, which keeps the order, and no batches, which would delay the screen.
func queueConfig() exporterhelper.QueueBatchConfig {
	queue := exporterhelper.NewDefaultQueueConfig()
	queue.Sizer = exporterhelper.RequestSizerTypeItems
	queue.QueueSize = queueSize
	queue.NumConsumers = 1
	queue.Batch = configoptional.None[exporterhelper.BatchConfig]()
	return queue
}

// Start begins to write. A host that is a componentstatus.Reporter hears of a writer that fails, once,
// as a permanent error.
func (s *sender[T]) Start(ctx context.Context, host component.Host) error {
	s.host = host
	if err := s.helper.Start(ctx, host); err != nil {
		return fmt.Errorf("starting the output: %w", err)
	}
	s.running.Store(true)
	return nil
}

// Shutdown refuses new data and writes what waits. When ctx is over it leaves a writer that blocks to
// itself; nothing is written after the call that it blocks in. The error says how much was not written.
// Only the first call does anything.
func (s *sender[T]) Shutdown(ctx context.Context) error {
	s.shutdown.Do(func() {
		s.running.Store(false)
		written := make(chan error, 1)
		go func() { written <- s.helper.Shutdown(ctx) }()
		select {
		case s.shutdownErr = <-written:
		case <-ctx.Done():
		}
		s.giveUp(os.ErrClosed)
		if n := s.waiting.Load(); n > 0 {
			s.shutdownErr = errors.Join(s.shutdownErr, fmt.Errorf("%d %s not written", n, s.items))
		}
	})
	return s.shutdownErr
}

// Capabilities says that data is not changed.
func (s *sender[T]) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (s *sender[T]) consume(ctx context.Context, data T) error {
	if !s.running.Load() {
		return fmt.Errorf("the output is not running: %w", os.ErrClosed)
	}
	if err := context.Cause(s.open); err != nil {
		return consumererror.NewPermanent(err)
	}
	n := int64(s.count(data))
	s.waiting.Add(n)
	err := s.enqueue(ctx, data)
	if err != nil {
		s.waiting.Add(-n)
	}
	return err
}

// push writes data. It is the end of the helper's queue, which has one goroutine.
func (s *sender[T]) push(_ context.Context, data T) error {
	if err := context.Cause(s.open); err != nil {
		return consumererror.NewPermanent(err)
	}
	if err := s.write(data); err != nil {
		s.giveUp(err)
		componentstatus.ReportStatus(s.host, componentstatus.NewPermanentErrorEvent(err))
		return consumererror.NewPermanent(err)
	}
	s.waiting.Add(-int64(s.count(data)))
	return nil
}

func (s *sender[T]) write(data T) error {
	s.line.Reset()
	if err := s.encode(&s.line, data); err != nil {
		return fmt.Errorf("encoding %s: %w", s.items, err)
	}
	if _, err := s.out.Write(s.line.Bytes()); err != nil {
		return fmt.Errorf("writing %s: %w", s.items, err)
	}
	return nil
}
