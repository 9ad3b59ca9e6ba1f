package console

import (
	"context"
	"fmt"
	"io"

	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
)

// Metrics writes metrics, as OTLP/JSON. Create it with [NewMetrics].
//
// All methods but Start may be called concurrently.
type Metrics struct{ *sender[pmetric.Metrics] }

var _ exporter.Metrics = (*Metrics)(nil)

// NewMetrics returns an exporter that writes to w, not started yet; see [NewLogs]. Text has no place for
// metrics: another format than FormatOTLPJSON is an error.
func NewMetrics(ctx context.Context, set exporter.Settings, cfg *Config, w io.Writer) (*Metrics, error) {
	if cfg.Format != FormatOTLPJSON {
		return nil, fmt.Errorf("configuring %s: format: %q, want %s for metrics", set.ID, cfg.Format, FormatOTLPJSON)
	}
	s, err := newSender(ctx, set, cfg,
		&sender[pmetric.Metrics]{out: w, items: "data points", count: pmetric.Metrics.DataPointCount, encode: asJSON(pmetricotlp.NewExportRequestFromMetrics)},
		exporterhelper.NewMetrics, exporter.Metrics.ConsumeMetrics)
	if err != nil {
		return nil, err
	}
	return &Metrics{s}, nil
}

// ConsumeMetrics queues md, which must not be changed from then on; see [Logs.ConsumeLogs].
func (m *Metrics) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	return m.consume(ctx, md)
}
