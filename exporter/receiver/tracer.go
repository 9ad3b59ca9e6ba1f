package receiver

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pipeline"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receiverhelper"
	"go.uber.org/zap/exp/zapslog"

	"github.com/connspan/connspan/exporter"
)

// format is what the Collector's own telemetry calls what is received.
const format = "connspan"

// tracer is the receiver of all signals of one component ID.
type tracer struct {
	cfg    *Config
	set    receiver.Settings
	logger *slog.Logger
	obs    *receiverhelper.ObsReport
	forget func() // lets the next receiver with the same configuration have a tracer of its own
	to     exporter.Consumers
	queues []runner // one for each signal

	mu    sync.Mutex
	hosts []component.Host // of the signals that have started
	run   *run             // nil before all have, and after Shutdown
}

// runner is a queue of any signal.
type runner interface {
	run()
	look() state
	close(context.Context) error
}

var (
	_ receiver.Logs    = (*tracer)(nil)
	_ receiver.Metrics = (*tracer)(nil)
	_ receiver.Traces  = (*tracer)(nil)
)

func newTracer(set receiver.Settings, cfg *Config, forget func()) (*tracer, error) {
	obs, err := receiverhelper.NewObsReport(receiverhelper.ObsReportSettings{
		ReceiverID: set.ID, LongLivedCtx: true, ReceiverCreateSettings: set,
	})
	if err != nil {
		return nil, fmt.Errorf("creating the telemetry of %s: %w", set.ID, err)
	}
	return &tracer{
		cfg: cfg, set: set, obs: obs, forget: sync.OnceFunc(forget),
		logger: slog.New(zapslog.NewHandler(set.Logger.Core())),
	}, nil
}

func (t *tracer) addLogs(next consumer.Logs) error {
	q := newQueue(pipeline.SignalLogs, t.cfg.QueueSize, plog.Logs.LogRecordCount, func(ctx context.Context, ld plog.Logs) error {
		n := ld.LogRecordCount()
		ctx = t.obs.StartLogsOp(ctx)
		err := next.ConsumeLogs(ctx, own(next, ld, plog.NewLogs))
		t.obs.EndLogsOp(ctx, format, n, err)
		return err
	})
	c, err := consumer.NewLogs(q.offer)
	t.queues = append(t.queues, q)
	t.to.Logs = append(t.to.Logs, c)
	return err
}

func (t *tracer) addMetrics(next consumer.Metrics) error {
	q := newQueue(pipeline.SignalMetrics, t.cfg.QueueSize, pmetric.Metrics.DataPointCount, func(ctx context.Context, md pmetric.Metrics) error {
		n := md.DataPointCount()
		ctx = t.obs.StartMetricsOp(ctx)
		err := next.ConsumeMetrics(ctx, own(next, md, pmetric.NewMetrics))
		t.obs.EndMetricsOp(ctx, format, n, err)
		return err
	})
	c, err := consumer.NewMetrics(q.offer)
	t.queues = append(t.queues, q)
	t.to.Metrics = append(t.to.Metrics, c)
	return err
}

func (t *tracer) addTraces(next consumer.Traces) error {
	q := newQueue(pipeline.SignalTraces, t.cfg.QueueSize, ptrace.Traces.SpanCount, func(ctx context.Context, td ptrace.Traces) error {
		n := td.SpanCount()
		ctx = t.obs.StartTracesOp(ctx)
		err := next.ConsumeTraces(ctx, own(next, td, ptrace.NewTraces))
		t.obs.EndTracesOp(ctx, format, n, err)
		return err
	})
	c, err := consumer.NewTraces(q.offer)
	t.queues = append(t.queues, q)
	t.to.Traces = append(t.to.Traces, c)
	return err
}

// own gives a pipeline that changes its data a copy: a batch that it refuses is to come again as it was.
func own[T interface{ CopyTo(T) }](next interface{ Capabilities() consumer.Capabilities }, batch T, empty func() T) T {
	if !next.Capabilities().MutatesData {
		return batch
	}
	c := empty()
	batch.CopyTo(c)
	return c
}

// Start is called once for each signal; the last call starts the tracer. Its error says in one line
// what this machine lacks.
func (t *tracer) Start(_ context.Context, host component.Host) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hosts = append(t.hosts, host)
	if len(t.hosts) < len(t.queues) {
		return nil
	}
	var err error
	t.run, err = t.start()
	return err
}

// Shutdown is called once for each signal; the first call ends the tracer, and passes to all pipelines
// what has happened until then.
func (t *tracer) Shutdown(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget()
	if t.run == nil {
		return nil
	}
	defer func() { t.run = nil }()
	return t.run.stop(ctx)
}
