package otlp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configtls"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/exporter/exporterhelper/xexporterhelper"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	// maxRequestSize is what a gRPC server takes unless told otherwise, in bytes before compression.
	maxRequestSize = 4 << 20
	// maxThrottle bounds the delay a server may ask for: one wrong date must not stop the export.
	maxThrottle = 5 * time.Minute
	// storageTimeout is how long storage may take when Shutdown waits for answers no longer.
	storageTimeout = time.Second
	// logInterval is the time in which equal messages are logged once.
	logInterval = 10 * time.Second
	// reservations is logged when a server took a request and has something to say about it.
	reservations = "OTLP server took the request with reservations"
)

// sender sends one signal to one server: queue, deliver, retry, push, connection.
//
// The helper is there twice, once with a queue and once with retries, because of what lies between:
// deliver, which alone sees what becomes of each request in the end.
type sender[T any] struct {
	signal    signal[T]
	queue     helper[T]
	retry     helper[T]
	transport transport
	logger    *zap.Logger
	queueing  exporterhelper.QueueBatchConfig // zero without a queue
	shortcut  *shortcut
	health    health
	connection

	mu      sync.RWMutex // held for reading by who is in the queue's consume
	running bool

	closing  context.Context // over when nobody may wait for room in the queue any longer
	turnAway context.CancelFunc
	drain    context.Context // over when Shutdown must not wait for answers any longer
	abandon  context.CancelFunc

	shutdown    sync.Once
	shutdownErr error

	offered, recovered, refused, sent, rejected, dropped, givenUp atomic.Int64
}

// transport makes connections to one server.
type transport interface {
	connect(ctx context.Context, host component.Host) (connection, error)
	tls() configtls.ClientConfig
	// String names the server in errors.
	String() string
}

type connection interface {
	// export sends one request once. Its errors are permanent (consumererror), throttled
	// (exporterhelper), or else to be retried.
	export(ctx context.Context, request request) (answer, error)
	close() error
}

func newSender[T any](ctx context.Context, set exporter.Settings, cfg config, signal signal[T]) (*sender[T], error) {
	if err := confmap.Validate(cfg); err != nil {
		return nil, fmt.Errorf("configuring %s: %w", set.ID, err)
	}
	t, err := cfg.transport(set, signal.path)
	if err != nil {
		return nil, fmt.Errorf("configuring %s: %w", set.ID, err)
	}
	// The helper logs each failed attempt.
	set.Logger = set.Logger.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, logInterval, 1, 0)
	}))
	s := &sender[T]{signal: signal, transport: t, logger: set.Logger}
	if queue := cfg.queue(); queue.HasValue() {
		s.queueing = *queue.Get()
	}
	s.closing, s.turnAway = context.WithCancel(context.WithoutCancel(ctx))
	s.drain, s.abandon = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.createHelpers(ctx, set, cfg); err != nil {
		return nil, fmt.Errorf("creating %s: %w", set.ID, err)
	}
	return s, nil
}

func (s *sender[T]) createHelpers(ctx context.Context, set exporter.Settings, cfg config) error {
	timeout, retry := cfg.attempts()
	var err error
	s.retry, err = s.signal.helper(ctx, withoutResults(set), cfg, s.push,
		exporterhelper.WithTimeout(timeout),
		exporterhelper.WithRetry(retry))
	if err != nil {
		return err
	}
	set.Logger = set.Logger.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core { return quiet{core} }))
	queueing := s.signal.queueing()
	s.shortcut = newShortcut(queueing)
	queueing.Encoding = s.shortcut
	s.queue, err = s.signal.helper(ctx, set, cfg, s.deliver,
		exporterhelper.WithTimeout(exporterhelper.TimeoutConfig{}),
		xexporterhelper.WithQueueBatch(cfg.queue(), queueing))
	return err
}

// withoutResults has the inner helper say no more than that it retries: the outer one says the rest.
func withoutResults(set exporter.Settings) exporter.Settings {
	set.TracerProvider, set.MeterProvider = tracenoop.NewTracerProvider(), metricnoop.NewMeterProvider()
	enabled := set.Logger.Core().Enabled
	set.Logger = set.Logger.WithOptions(zap.IncreaseLevel(zap.LevelEnablerFunc(func(level zapcore.Level) bool {
		return level < zapcore.ErrorLevel && enabled(level)
	})))
	return set
}

// Start reads the certificates, begins to connect and takes up what storage holds. It does not wait
// for the server. host, which must not be nil, has the extensions that auth, middlewares and storage
// name.
func (s *sender[T]) Start(ctx context.Context, host component.Host) error {
	if err := s.start(ctx, host); err != nil {
		return fmt.Errorf("starting export to %s: %w", s.transport, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = true
	return nil
}

func (s *sender[T]) start(ctx context.Context, host component.Host) error {
	again := context.WithoutCancel(ctx)
	c, err := newReloading(s.transport.tls(), func() (connection, error) { return s.transport.connect(again, host) })
	if err != nil {
		return err
	}
	s.connection, s.health.host = c, host
	if err := s.retry.Start(ctx, host); err != nil {
		return err
	}
	if id := s.queueing.StorageID; id != nil {
		ctx, host = context.WithValue(ctx, origin{}, starting), storageHost{host, *id, s.stored()}
	}
	return s.queue.Start(ctx, host)
}

func (s *sender[T]) stored() storedRequests {
	return storedRequests{
		recovered: s.countRecovered,
		// With several at a time, one may be done when the one that it was sent with is not.
		joining:  s.queueing.NumConsumers == 1 && !s.queueing.Batch.HasValue(),
		shortcut: s.shortcut,
	}
}

// countRecovered counts a request that an earlier process left in storage. One that cannot be decoded is
// skipped by the queue, and how many items it had is not known.
func (s *sender[T]) countRecovered(stored []byte) {
	if _, data, err := s.signal.decode(stored); err == nil {
		s.recovered.Add(int64(s.signal.count(data)))
	}
}

// Shutdown refuses new data, tries each queued request once more, without retries, and disconnects.
// When ctx is over it stops waiting for answers. What then is still undelivered stays in storage;
// without storage it is given up, and the error says how much that was. For a storage that does not
// answer it waits a second more, and leaves it behind. Only the first call does anything.
func (s *sender[T]) Shutdown(ctx context.Context) error {
	s.shutdown.Do(func() {
		if s.queueing.StorageID == nil {
			s.shutdownErr = s.end(ctx)
			return
		}
		ended := make(chan error, 1)
		go func() { ended <- s.end(ctx) }()
		late := make(chan struct{})
		defer context.AfterFunc(ctx, func() { time.AfterFunc(storageTimeout, func() { close(late) }) })()
		select {
		case s.shutdownErr = <-ended:
		case <-late:
			s.shutdownErr = fmt.Errorf("shutting down export to %s: storage does not answer: %w", s.transport, ctx.Err())
		}
	})
	return s.shutdownErr
}

func (s *sender[T]) end(ctx context.Context) error {
	defer context.AfterFunc(ctx, s.abandon)()
	before := s.givenUp.Load()
	err := s.retry.Shutdown(ctx)
	s.turnAway()
	s.mu.Lock() // not before all who wait for room or for results have left
	s.running = false
	s.mu.Unlock()
	err = errors.Join(err, s.queue.Shutdown(ctx))
	s.abandon()
	if s.connection != nil {
		err = errors.Join(err, s.close())
	}
	return errors.Join(err, s.lost(s.givenUp.Load()-before))
}

// lost tells that Shutdown gave n items up.
func (s *sender[T]) lost(n int64) error {
	if n == 0 {
		return nil
	}
	return fmt.Errorf("shutting down export to %s: %d of %d %s not delivered", s.transport, n, s.offered.Load(), s.signal.items)
}

// Capabilities says whether data is changed that is given to the exporter, which is so when it puts
// batches together.
func (s *sender[T]) Capabilities() consumer.Capabilities { return s.queue.Capabilities() }

func (s *sender[T]) consume(ctx context.Context, data T) error {
	n := int64(s.signal.count(data)) // now: batching empties data
	s.offered.Add(n)
	err := s.enqueue(ctx, data)
	if _, delivered := errors.AsType[result](err); err != nil && !delivered {
		s.refused.Add(n)
	}
	return err
}

func (s *sender[T]) enqueue(ctx context.Context, data T) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.running {
		return fmt.Errorf("export to %s is not running: %w", s.transport, os.ErrClosed)
	}
	if s.queueing.StorageID != nil {
		ctx = context.WithValue(ctx, origin{}, consuming)
	}
	switch {
	case s.queueing.WaitForResult:
		ctx = context.WithoutCancel(ctx) // else nobody could tell who left the queue from who never got in
	case s.queueing.BlockOnOverflow:
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.closing, cancel)()
	}
	return s.queue.consume(ctx, data)
}

// result is the error of a request that went through the queue. What became of its items is counted.
type result struct{ error }

func (r result) Unwrap() error { return r.error }

// deliver has data sent until nothing of it is left to try, and counts what is given up. It may run in
// several goroutines.
func (s *sender[T]) deliver(ctx context.Context, data T) error {
	err := s.retry.consume(ctx, data)
	if err == nil {
		return nil
	}
	stored := s.queueing.StorageID != nil && strings.HasPrefix(err.Error(), interrupted)
	if left, found := s.signal.rest(err); found && !stored {
		s.givenUp.Add(int64(s.signal.count(left)))
	}
	return result{err}
}

// interrupted begins the text of an error that makes a queue in storage keep the request. The helper
// exports neither its type nor a way to ask.
const interrupted = "interrupted due to shutdown: "

// push sends data in as many requests as it needs. Its error is a consumererror.Logs or its like when
// something is to be sent again, and permanent when nothing is.
func (s *sender[T]) push(ctx context.Context, data T) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.drain, cancel)()

	var permanent error
	done := 0
	for _, part := range s.signal.split(data, maxRequestSize) {
		n := s.signal.count(part)
		err := s.send(ctx, part, int64(n))
		switch {
		case err == nil:
		case consumererror.IsPermanent(err):
			permanent = err
		case done == 0:
			return s.signal.undelivered(err, data)
		default:
			return s.signal.undelivered(err, s.signal.part(data, done, s.signal.count(data)))
		}
		done += n
	}
	return permanent
}

// send sends data, n items, in one request and counts what became of it, unless it is to be sent again.
func (s *sender[T]) send(ctx context.Context, data T, n int64) error {
	a, err := s.export(ctx, s.signal.request(data))
	if s.drain.Err() == nil {
		s.health.report(err)
	}
	if err != nil {
		if consumererror.IsPermanent(err) {
			s.dropped.Add(n)
		}
		return fmt.Errorf("exporting %d %s to %s: %w", n, s.signal.items, s.transport, err)
	}
	rejected := min(max(a.rejected, 0), n)
	if rejected > 0 || a.message != "" {
		s.logger.Warn(reservations,
			zap.Stringer("server", s.transport),
			zap.String("items", s.signal.items),
			zap.Int64("sent", n),
			zap.Int64("rejected", rejected),
			zap.String("message", printable(a.message)))
	}
	s.rejected.Add(rejected)
	s.sent.Add(n - rejected)
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
