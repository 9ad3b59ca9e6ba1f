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
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.uber.org/zap"
)

// queueSize bounds the records that wait for the writer; about 120 MB of them when all do, and twice that until they are collected.
const queueSize = 50_000

// Logs writes log records. Create it with [NewLogs].
//
// All methods but Start may be called concurrently.
type Logs struct {
	helper exporter.Logs // the queue, ending in push
	host   component.Host
	out    io.Writer
	format encoder
	line   bytes.Buffer // owned by push

	running     atomic.Bool
	waiting     atomic.Int64    // records that were taken and are not written
	open        context.Context // over, with the reason, when nothing can be written any more
	giveUp      context.CancelCauseFunc
	shutdown    sync.Once
	shutdownErr error
}

var _ exporter.Logs = (*Logs)(nil)

// encoder appends ld, whole lines of it.
type encoder interface {
	encode(b *bytes.Buffer, ld plog.Logs) error
}

// NewLogs returns an exporter that writes to w, not started yet. w is called from one goroutine, with
// whole lines, and remains the caller's to close. set must be complete, as a Collector hands it out.
func NewLogs(ctx context.Context, set exporter.Settings, cfg *Config, w io.Writer) (*Logs, error) {
	if err := confmap.Validate(cfg); err != nil {
		return nil, fmt.Errorf("configuring %s: %w", set.ID, err)
	}
	l := &Logs{out: w, format: newEncoder(cfg.Format)}
	l.open, l.giveUp = context.WithCancelCause(context.WithoutCancel(ctx))

	// The helper would log every refusal, from the goroutine that offered the records.
	set.Logger = zap.NewNop()
	var err error
	l.helper, err = exporterhelper.NewLogs(ctx, set, cfg, l.push,
		exporterhelper.WithTimeout(exporterhelper.TimeoutConfig{}),
		exporterhelper.WithQueue(configoptional.Some(queueConfig())))
	if err != nil {
		return nil, fmt.Errorf("creating %s: %w", set.ID, err)
	}
	return l, nil
}

func newEncoder(format string) encoder {
	if format == FormatOTLPJSON {
		return otlpJSON{}
	}
	return &text{location: time.Local}
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
func (l *Logs) Start(ctx context.Context, host component.Host) error {
	l.host = host
	if err := l.helper.Start(ctx, host); err != nil {
		return fmt.Errorf("starting the output: %w", err)
	}
	l.running.Store(true)
	return nil
}

// Shutdown refuses new records and writes what waits. When ctx is over it leaves a writer that blocks
// to itself; nothing is written after the call that it blocks in. The error says how many records were
// not written. Only the first call does anything.
func (l *Logs) Shutdown(ctx context.Context) error {
	l.shutdown.Do(func() {
		l.running.Store(false)
		written := make(chan error, 1)
		go func() { written <- l.helper.Shutdown(ctx) }()
		select {
		case l.shutdownErr = <-written:
		case <-ctx.Done():
		}
		l.giveUp(os.ErrClosed)
		if n := l.waiting.Load(); n > 0 {
			l.shutdownErr = errors.Join(l.shutdownErr, fmt.Errorf("%d log records not written", n))
		}
	})
	return l.shutdownErr
}

// Capabilities says that ConsumeLogs does not change what it is given.
func (l *Logs) Capabilities() consumer.Capabilities { return l.helper.Capabilities() }

// ConsumeLogs queues ld, which must not be changed from then on. It never blocks. An error means that
// nothing of ld will be written: exporterhelper.ErrQueueIsFull, a permanent error once the writer has
// failed, or os.ErrClosed before Start and after Shutdown.
func (l *Logs) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	if !l.running.Load() {
		return fmt.Errorf("the output is not running: %w", os.ErrClosed)
	}
	if err := context.Cause(l.open); err != nil {
		return consumererror.NewPermanent(err)
	}
	n := int64(ld.LogRecordCount())
	l.waiting.Add(n)
	err := l.helper.ConsumeLogs(ctx, ld)
	if err != nil {
		l.waiting.Add(-n)
	}
	return err
}

// push writes ld. It is the end of the helper's queue, which has one goroutine.
func (l *Logs) push(_ context.Context, ld plog.Logs) error {
	if err := context.Cause(l.open); err != nil {
		return consumererror.NewPermanent(err)
	}
	if err := l.write(ld); err != nil {
		l.giveUp(err)
		componentstatus.ReportStatus(l.host, componentstatus.NewPermanentErrorEvent(err))
		return consumererror.NewPermanent(err)
	}
	l.waiting.Add(-int64(ld.LogRecordCount()))
	return nil
}

func (l *Logs) write(ld plog.Logs) error {
	l.line.Reset()
	if err := l.format.encode(&l.line, ld); err != nil {
		return fmt.Errorf("encoding log records: %w", err)
	}
	if _, err := l.out.Write(l.line.Bytes()); err != nil {
		return fmt.Errorf("writing log records: %w", err)
	}
	return nil
}
