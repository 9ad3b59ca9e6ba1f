package console

import (
	"context"
	"fmt"
	"io"

	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
)

// Traces writes spans, as OTLP/JSON. Create it with [NewTraces].
//
// All methods but Start may be called concurrently.
type Traces struct{ *sender[ptrace.Traces] }

var _ exporter.Traces = (*Traces)(nil)

// NewTraces returns an exporter that writes to w, not started yet; see [NewLogs]. Text has no place for
// spans: another format than FormatOTLPJSON is an error.
func NewTraces(ctx context.Context, set exporter.Settings, cfg *Config, w io.Writer) (*Traces, error) {
	if cfg.Format != FormatOTLPJSON {
		return nil, fmt.Errorf("configuring %s: format: %q, want %s for spans", set.ID, cfg.Format, FormatOTLPJSON)
	}
	s, err := newSender(ctx, set, cfg,
		&sender[ptrace.Traces]{out: w, items: "spans", count: ptrace.Traces.SpanCount, encode: asJSON(ptraceotlp.NewExportRequestFromTraces)},
		exporterhelper.NewTraces, exporter.Traces.ConsumeTraces)
	if err != nil {
		return nil, err
	}
	return &Traces{s}, nil
}

// ConsumeTraces queues td, which must not be changed from then on; see [Logs.ConsumeLogs].
func (t *Traces) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	return t.consume(ctx, td)
}
