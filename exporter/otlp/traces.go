package otlp

import (
	"context"

	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/exporter/exporterhelper/xexporterhelper"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	xrequest "go.opentelemetry.io/collector/pdata/xpdata/request"
	"google.golang.org/grpc"
)

// Traces sends spans to one OTLP server. Create it with [NewGRPCTraces] or [NewHTTPTraces].
//
// All methods but Start may be called concurrently.
type Traces struct{ *sender[ptrace.Traces] }

var _ exporter.Traces = (*Traces)(nil)

// NewGRPCTraces returns an exporter over gRPC, not started yet; see [NewGRPCLogs].
func NewGRPCTraces(ctx context.Context, set exporter.Settings, cfg *GRPCConfig) (*Traces, error) {
	return newTraces(ctx, set, cfg)
}

// NewHTTPTraces returns an exporter over HTTP, not started yet; see [NewGRPCLogs].
func NewHTTPTraces(ctx context.Context, set exporter.Settings, cfg *HTTPConfig) (*Traces, error) {
	return newTraces(ctx, set, cfg)
}

func newTraces(ctx context.Context, set exporter.Settings, cfg config) (*Traces, error) {
	s, err := newSender(ctx, set, cfg, traces)
	if err != nil {
		return nil, err
	}
	return &Traces{s}, nil
}

// ConsumeTraces queues td, which belongs to the exporter from then on; see [Logs.ConsumeLogs].
func (t *Traces) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	return t.consume(ctx, td)
}

var traces = signal[ptrace.Traces]{
	path:  "traces",
	items: "spans",
	count: ptrace.Traces.SpanCount,
	size:  new(ptrace.ProtoMarshaler).TracesSize,
	empty: ptrace.NewTraces,
	copy:  ptrace.Traces.CopyTo,
	prune: func(td ptrace.Traces, drop func() bool) {
		prune(td.ResourceSpans(), func(rs ptrace.ResourceSpans) bool {
			return prune(rs.ScopeSpans(), func(ss ptrace.ScopeSpans) bool {
				return prune(ss.Spans(), func(ptrace.Span) bool { return drop() })
			})
		})
	},
	request:     func(td ptrace.Traces) request { return tracesRequest{ptraceotlp.NewExportRequestFromTraces(td)} },
	decode:      xrequest.UnmarshalTraces,
	undelivered: func(err error, td ptrace.Traces) error { return consumererror.NewTraces(err, td) },
	rest:        rest[consumererror.Traces],
	queueing:    xexporterhelper.NewTracesQueueBatchSettings,
	helper:      newHelper(exporterhelper.NewTraces, exporter.Traces.ConsumeTraces),
}

type tracesRequest struct{ ptraceotlp.ExportRequest }

func (r tracesRequest) call(ctx context.Context, conn *grpc.ClientConn) (response, error) {
	answer, err := ptraceotlp.NewGRPCClient(conn).Export(ctx, r.ExportRequest)
	return tracesResponse{answer}, err
}

func (tracesRequest) response() response { return tracesResponse{ptraceotlp.NewExportResponse()} }

type tracesResponse struct{ ptraceotlp.ExportResponse }

func (r tracesResponse) answer() answer {
	partial := r.PartialSuccess()
	return answer{partial.RejectedSpans(), partial.ErrorMessage()}
}
