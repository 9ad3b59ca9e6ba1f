package console

import (
	"context"
	"io"
	"time"

	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
)

// Logs writes log records. Create it with [NewLogs].
//
// All methods but Start may be called concurrently.
type Logs struct{ *sender[plog.Logs] }

var _ exporter.Logs = (*Logs)(nil)

// NewLogs returns an exporter that writes to w, not started yet. w is called from one goroutine, with
// whole lines, and remains the caller's to close; those who share it must be able to write at the same
// time, as to an *os.File. set must be complete, as a Collector hands it out.
func NewLogs(ctx context.Context, set exporter.Settings, cfg *Config, w io.Writer) (*Logs, error) {
	encode := (&text{location: time.Local}).encode
	if cfg.Format == FormatOTLPJSON {
		encode = asJSON(plogotlp.NewExportRequestFromLogs)
	}
	s, err := newSender(ctx, set, cfg,
		&sender[plog.Logs]{out: w, items: "log records", count: plog.Logs.LogRecordCount, encode: encode},
		exporterhelper.NewLogs, exporter.Logs.ConsumeLogs)
	if err != nil {
		return nil, err
	}
	return &Logs{s}, nil
}

// ConsumeLogs queues ld, which must not be changed from then on. It never blocks. An error means that
// nothing of ld will be written: exporterhelper.ErrQueueIsFull, a permanent error once the writer has
// failed, or os.ErrClosed before Start and after Shutdown.
func (l *Logs) ConsumeLogs(ctx context.Context, ld plog.Logs) error { return l.consume(ctx, ld) }
