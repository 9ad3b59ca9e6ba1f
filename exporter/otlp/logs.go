package otlp

import (
	"context"

	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/exporter/exporterhelper/xexporterhelper"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	xrequest "go.opentelemetry.io/collector/pdata/xpdata/request"
	"google.golang.org/grpc"
)

// Logs sends log records to one OTLP server. Create it with [NewGRPCLogs] or [NewHTTPLogs].
//
// All methods but Start may be called concurrently.
type Logs struct{ *sender[plog.Logs] }

var _ exporter.Logs = (*Logs)(nil)

// NewGRPCLogs returns an exporter over gRPC, not started yet. It checks cfg with confmap.Validate and
// does not change it; leave it alone from here on. set must be complete, as a Collector hands it out:
// ID, Logger, TracerProvider, MeterProvider; BuildInfo becomes the user agent.
func NewGRPCLogs(ctx context.Context, set exporter.Settings, cfg *GRPCConfig) (*Logs, error) {
	return newLogs(ctx, set, cfg)
}

// NewHTTPLogs returns an exporter over HTTP, not started yet; see [NewGRPCLogs].
func NewHTTPLogs(ctx context.Context, set exporter.Settings, cfg *HTTPConfig) (*Logs, error) {
	return newLogs(ctx, set, cfg)
}

func newLogs(ctx context.Context, set exporter.Settings, cfg config) (*Logs, error) {
	s, err := newSender(ctx, set, cfg, logs)
	if err != nil {
		return nil, err
	}
	return &Logs{s}, nil
}

// ConsumeLogs queues ld, which belongs to the exporter from then on. An error means that nothing of
// ld will be sent: exporterhelper.ErrQueueIsFull, or os.ErrClosed before Start and after Shutdown.
// It blocks only where sending_queue is configured to or is disabled: with block_on_overflow until
// there is room or ctx is over; with wait_for_result, whatever becomes of ctx, until the outcome is
// known; without a queue until the end of the export. In the latter two the error is that of the
// export, and a part of ld may have been sent.
func (l *Logs) ConsumeLogs(ctx context.Context, ld plog.Logs) error { return l.consume(ctx, ld) }

var logs = signal[plog.Logs]{
	path:  "logs",
	items: "log records",
	count: plog.Logs.LogRecordCount,
	size:  new(plog.ProtoMarshaler).LogsSize,
	empty: plog.NewLogs,
	copy:  plog.Logs.CopyTo,
	prune: func(ld plog.Logs, drop func() bool) {
		prune(ld.ResourceLogs(), func(rl plog.ResourceLogs) bool {
			return prune(rl.ScopeLogs(), func(sl plog.ScopeLogs) bool {
				return prune(sl.LogRecords(), func(plog.LogRecord) bool { return drop() })
			})
		})
	},
	request:     func(ld plog.Logs) request { return logsRequest{plogotlp.NewExportRequestFromLogs(ld)} },
	decode:      xrequest.UnmarshalLogs,
	undelivered: func(err error, ld plog.Logs) error { return consumererror.NewLogs(err, ld) },
	rest:        rest[consumererror.Logs],
	queueing:    xexporterhelper.NewLogsQueueBatchSettings,
	helper:      newHelper(exporterhelper.NewLogs, exporter.Logs.ConsumeLogs),
}

type logsRequest struct{ plogotlp.ExportRequest }

func (r logsRequest) call(ctx context.Context, conn *grpc.ClientConn) (response, error) {
	answer, err := plogotlp.NewGRPCClient(conn).Export(ctx, r.ExportRequest)
	return logsResponse{answer}, err
}

func (logsRequest) response() response { return logsResponse{plogotlp.NewExportResponse()} }

type logsResponse struct{ plogotlp.ExportResponse }

func (r logsResponse) answer() answer {
	partial := r.PartialSuccess()
	return answer{partial.RejectedLogRecords(), partial.ErrorMessage()}
}
