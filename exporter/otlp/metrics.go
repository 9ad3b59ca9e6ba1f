package otlp

import (
	"context"

	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/exporter/exporterhelper/xexporterhelper"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	xrequest "go.opentelemetry.io/collector/pdata/xpdata/request"
	"google.golang.org/grpc"
)

// Metrics sends metrics to one OTLP server. Create it with [NewGRPCMetrics] or [NewHTTPMetrics].
//
// All methods but Start may be called concurrently.
type Metrics struct{ *sender[pmetric.Metrics] }

var _ exporter.Metrics = (*Metrics)(nil)

// NewGRPCMetrics returns an exporter over gRPC, not started yet; see [NewGRPCLogs].
func NewGRPCMetrics(ctx context.Context, set exporter.Settings, cfg *GRPCConfig) (*Metrics, error) {
	return newMetrics(ctx, set, cfg)
}

// NewHTTPMetrics returns an exporter over HTTP, not started yet; see [NewGRPCLogs].
func NewHTTPMetrics(ctx context.Context, set exporter.Settings, cfg *HTTPConfig) (*Metrics, error) {
	return newMetrics(ctx, set, cfg)
}

func newMetrics(ctx context.Context, set exporter.Settings, cfg config) (*Metrics, error) {
	s, err := newSender(ctx, set, cfg, metrics)
	if err != nil {
		return nil, err
	}
	return &Metrics{s}, nil
}

// ConsumeMetrics queues md, which belongs to the exporter from then on; see [Logs.ConsumeLogs].
func (m *Metrics) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	return m.consume(ctx, md)
}

var metrics = signal[pmetric.Metrics]{
	path:  "metrics",
	items: "data points",
	count: pmetric.Metrics.DataPointCount,
	size:  new(pmetric.ProtoMarshaler).MetricsSize,
	empty: pmetric.NewMetrics,
	copy:  pmetric.Metrics.CopyTo,
	prune: func(md pmetric.Metrics, drop func() bool) {
		prune(md.ResourceMetrics(), func(rm pmetric.ResourceMetrics) bool {
			return prune(rm.ScopeMetrics(), func(sm pmetric.ScopeMetrics) bool {
				return prune(sm.Metrics(), func(m pmetric.Metric) bool { return prunePoints(m, drop) })
			})
		})
	},
	request:     func(md pmetric.Metrics) request { return metricsRequest{pmetricotlp.NewExportRequestFromMetrics(md)} },
	decode:      xrequest.UnmarshalMetrics,
	undelivered: func(err error, md pmetric.Metrics) error { return consumererror.NewMetrics(err, md) },
	rest:        rest[consumererror.Metrics],
	queueing:    xexporterhelper.NewMetricsQueueBatchSettings,
	helper:      newHelper(exporterhelper.NewMetrics, exporter.Metrics.ConsumeMetrics),
}

// prunePoints leaves a data point whole: what belongs together in it, as the buckets of a histogram
// do, stays together.
func prunePoints(m pmetric.Metric, drop func() bool) bool {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		return prune(m.Gauge().DataPoints(), func(pmetric.NumberDataPoint) bool { return drop() })
	case pmetric.MetricTypeSum:
		return prune(m.Sum().DataPoints(), func(pmetric.NumberDataPoint) bool { return drop() })
	case pmetric.MetricTypeHistogram:
		return prune(m.Histogram().DataPoints(), func(pmetric.HistogramDataPoint) bool { return drop() })
	case pmetric.MetricTypeExponentialHistogram:
		return prune(m.ExponentialHistogram().DataPoints(), func(pmetric.ExponentialHistogramDataPoint) bool { return drop() })
	case pmetric.MetricTypeSummary:
		return prune(m.Summary().DataPoints(), func(pmetric.SummaryDataPoint) bool { return drop() })
	}
	return true
}

type metricsRequest struct{ pmetricotlp.ExportRequest }

func (r metricsRequest) call(ctx context.Context, conn *grpc.ClientConn) (response, error) {
	answer, err := pmetricotlp.NewGRPCClient(conn).Export(ctx, r.ExportRequest)
	return metricsResponse{answer}, err
}

func (metricsRequest) response() response { return metricsResponse{pmetricotlp.NewExportResponse()} }

type metricsResponse struct{ pmetricotlp.ExportResponse }

func (r metricsResponse) answer() answer {
	partial := r.PartialSuccess()
	return answer{partial.RejectedDataPoints(), partial.ErrorMessage()}
}
