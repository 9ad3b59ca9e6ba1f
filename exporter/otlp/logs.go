package otlp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	// maxRequestSize is what a gRPC server takes unless told otherwise, in bytes before compression.
	maxRequestSize = 4 << 20
	// maxThrottle bounds the delay a server may ask for: one wrong date must not stop the export.
	maxThrottle = 5 * time.Minute
	// logInterval is the time in which equal messages are logged once.
	logInterval = 10 * time.Second
	// reservations is logged when a server took a request and has something to say about it.
	reservations = "OTLP server took the request with reservations"
)

// Logs sends logs to one OTLP server. Create it with [NewGRPCLogs] or [NewHTTPLogs].
//
// All methods but Start may be called concurrently.
type Logs struct {
	helper    exporter.Logs // queue, batches and retries, ending in push
	transport transport
	logger    *zap.Logger
	persists  bool // what is queued at Shutdown stays in storage

	running     atomic.Bool
	drain       context.Context // over when Shutdown must not wait for answers any longer
	abandon     context.CancelFunc
	shutdown    sync.Once
	shutdownErr error

	offered, refused, sent, rejected, dropped atomic.Int64
}

var _ exporter.Logs = (*Logs)(nil)

// transport carries requests to the server.
type transport interface {
	start(ctx context.Context, host component.Host) error
	// export sends one request once. Its errors are permanent (consumererror), throttled
	// (exporterhelper), or else to be retried.
	export(ctx context.Context, request plogotlp.ExportRequest) (answer, error)
	disconnect() error
	// String names the server in errors.
	String() string
}

// answer is what a server that took a request has to say about it; nothing in it can be trusted.
type answer struct {
	rejected int64 // log records
	message  string
}

// Stats are totals of log records since the exporter was created.
//
// Offered - Refused - Sent - Rejected - Dropped wait in the queue, or were given up because of
// max_elapsed_time, retry_on_failure.enabled or Shutdown. Records that an earlier process left in
// storage are in Sent, Rejected and Dropped, but not in Offered.
type Stats struct {
	Offered  int64 // given to ConsumeLogs
	Refused  int64 // not taken by ConsumeLogs: the queue was full, or the exporter not running
	Sent     int64 // taken by the server
	Rejected int64 // rejected by the server in a partial success
	Dropped  int64 // given up, since the server's answer allows no retry
}

// NewGRPCLogs returns an exporter over gRPC, not started yet. It checks cfg with confmap.Validate and
// does not change it; leave it alone from here on. set must be complete, as a Collector hands it out:
// ID, Logger, TracerProvider, MeterProvider; BuildInfo becomes the user agent.
func NewGRPCLogs(ctx context.Context, set exporter.Settings, cfg *GRPCConfig) (*Logs, error) {
	if err := confmap.Validate(cfg); err != nil {
		return nil, fmt.Errorf("configuring %s: %w", set.ID, err)
	}
	return newLogs(ctx, set, cfg, newGRPCTransport(set, cfg), cfg.QueueConfig.Get(),
		exporterhelper.WithTimeout(cfg.TimeoutConfig),
		exporterhelper.WithRetry(cfg.RetryConfig),
		exporterhelper.WithQueue(cfg.QueueConfig))
}

// NewHTTPLogs returns an exporter over HTTP, not started yet; see [NewGRPCLogs].
func NewHTTPLogs(ctx context.Context, set exporter.Settings, cfg *HTTPConfig) (*Logs, error) {
	if err := confmap.Validate(cfg); err != nil {
		return nil, fmt.Errorf("configuring %s: %w", set.ID, err)
	}
	t, err := newHTTPTransport(set, cfg)
	if err != nil {
		return nil, fmt.Errorf("configuring %s: %w", set.ID, err)
	}
	return newLogs(ctx, set, cfg, t, cfg.QueueConfig.Get(),
		exporterhelper.WithTimeout(exporterhelper.TimeoutConfig{}), // the HTTP client has its own
		exporterhelper.WithRetry(cfg.RetryConfig),
		exporterhelper.WithQueue(cfg.QueueConfig))
}

func newLogs(
	ctx context.Context, set exporter.Settings, cfg component.Config, t transport,
	queue *exporterhelper.QueueBatchConfig, options ...exporterhelper.Option,
) (*Logs, error) {
	// The helper logs each failed attempt and each refused call.
	set.Logger = set.Logger.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, logInterval, 1, 0)
	}))

	l := &Logs{transport: t, logger: set.Logger, persists: queue != nil && queue.StorageID != nil}
	l.drain, l.abandon = context.WithCancel(context.WithoutCancel(ctx))
	options = append(options,
		exporterhelper.WithStart(t.start),
		exporterhelper.WithShutdown(func(context.Context) error { return t.disconnect() }))

	var err error
	if l.helper, err = exporterhelper.NewLogs(ctx, set, cfg, l.push, options...); err != nil {
		return nil, fmt.Errorf("creating %s: %w", set.ID, err)
	}
	return l, nil
}

// Start reads the certificates, begins to connect and takes up what storage holds. It does not wait
// for the server. host, which must not be nil, has the extensions that auth, middlewares and storage
// name.
func (l *Logs) Start(ctx context.Context, host component.Host) error {
	if err := l.helper.Start(ctx, host); err != nil {
		return fmt.Errorf("starting export to %s: %w", l.transport, err)
	}
	l.running.Store(true)
	return nil
}

// Shutdown refuses new records, tries each queued request once more, without retries, and
// disconnects. When ctx is over it stops waiting for answers. What then is still undelivered stays in
// storage; without storage it is lost, and the error says how much that was. Only the first call does
// anything.
func (l *Logs) Shutdown(ctx context.Context) error {
	l.shutdown.Do(func() {
		l.running.Store(false)
		defer context.AfterFunc(ctx, l.abandon)()
		err := l.helper.Shutdown(ctx)
		l.abandon()
		l.shutdownErr = errors.Join(err, l.lost())
	})
	return l.shutdownErr
}

// lost tells what Shutdown could not deliver.
func (l *Logs) lost() error {
	s := l.Stats()
	n := s.Offered - s.Refused - s.Sent - s.Rejected - s.Dropped
	if n <= 0 || l.persists {
		return nil
	}
	return fmt.Errorf("shutting down export to %s: %d of %d log records not delivered", l.transport, n, s.Offered)
}

// Capabilities says whether ConsumeLogs changes what it is given, which it does when it puts batches
// together.
func (l *Logs) Capabilities() consumer.Capabilities { return l.helper.Capabilities() }

// ConsumeLogs queues ld, which belongs to the exporter from then on. An error means that nothing of
// ld will be sent: exporterhelper.ErrQueueIsFull, or os.ErrClosed before Start and after Shutdown.
// It blocks only where sending_queue is configured to (block_on_overflow, wait_for_result), or is
// disabled; then the error is that of the export.
func (l *Logs) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	n := int64(ld.LogRecordCount()) // now: batching empties ld
	l.offered.Add(n)
	if !l.running.Load() {
		l.refused.Add(n)
		return fmt.Errorf("export to %s is not running: %w", l.transport, os.ErrClosed)
	}
	err := l.helper.ConsumeLogs(ctx, ld)
	if err != nil && !consumererror.IsPermanent(err) { // push has counted permanent ones as dropped
		l.refused.Add(n)
	}
	return err
}

// Stats returns the totals so far.
func (l *Logs) Stats() Stats {
	s := Stats{
		Refused:  l.refused.Load(),
		Sent:     l.sent.Load(),
		Rejected: l.rejected.Load(),
		Dropped:  l.dropped.Load(),
	}
	s.Offered = l.offered.Load() // last, so that it is never less than what became of them
	return s
}

// push sends ld in as many requests as it needs. It is the end of the helper's queue and may run in
// several goroutines.
func (l *Logs) push(ctx context.Context, ld plog.Logs) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.drain, cancel)()

	var permanent error
	parts := split(ld, maxRequestSize)
	for i, part := range parts {
		err := l.send(ctx, part)
		switch {
		case err == nil:
		case consumererror.IsPermanent(err):
			permanent = err
		case i == 0:
			return err
		default:
			return consumererror.NewLogs(err, join(parts[i:]))
		}
	}
	return permanent
}

// send sends ld in one request and counts what became of it, unless it is to be retried.
func (l *Logs) send(ctx context.Context, ld plog.Logs) error {
	n := int64(ld.LogRecordCount())
	a, err := l.transport.export(ctx, plogotlp.NewExportRequestFromLogs(ld))
	if err != nil {
		if consumererror.IsPermanent(err) {
			l.dropped.Add(n)
		}
		return fmt.Errorf("exporting %d log records to %s: %w", n, l.transport, err)
	}
	rejected := min(max(a.rejected, 0), n)
	if rejected > 0 || a.message != "" {
		l.logger.Warn(reservations,
			zap.Stringer("server", l.transport),
			zap.Int64("log_records", n),
			zap.Int64("rejected_log_records", rejected),
			zap.String("message", printable(a.message)))
	}
	l.rejected.Add(rejected)
	l.sent.Add(n - rejected)
	return nil
}

// throttled makes err wait for at least delay before the next attempt.
func throttled(err error, delay time.Duration) error {
	if delay <= 0 {
		return err
	}
	return exporterhelper.NewThrottleRetry(err, min(delay, maxThrottle))
}

// userAgent is the product that sends, as in "connspan/1.0.0".
func userAgent(info component.BuildInfo) string {
	return info.Command + "/" + info.Version
}
