package exporter

import (
	"context"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// ship hands the log records and spans that have been collected to the consumers.
func (x *Exporter) ship(ctx context.Context) {
	if l := x.signals.logs; l != nil && l.pending() > 0 {
		batch := l.take()
		n := uint64(batch.LogRecordCount())
		x.told.LogRecords += n
		give(batch, x.to.Logs, plog.NewLogs, func(c consumer.Logs, b plog.Logs) {
			if err := c.ConsumeLogs(ctx, b); err != nil {
				x.refusals.add(&x.told.RefusedLogRecords, n, err)
			}
		})
	}
	if s := x.signals.spans; s != nil && s.pending() > 0 {
		batch := s.take()
		n := uint64(batch.SpanCount())
		x.told.Spans += n
		give(batch, x.to.Traces, ptrace.NewTraces, func(c consumer.Traces, b ptrace.Traces) {
			if err := c.ConsumeTraces(ctx, b); err != nil {
				x.refusals.add(&x.told.RefusedSpans, n, err)
			}
		})
	}
}

func (x *Exporter) shipMetrics(ctx context.Context, batch pmetric.Metrics) {
	n := uint64(batch.DataPointCount())
	x.told.DataPoints += n
	give(batch, x.to.Metrics, pmetric.NewMetrics, func(c consumer.Metrics, b pmetric.Metrics) {
		if err := c.ConsumeMetrics(ctx, b); err != nil {
			x.refusals.add(&x.told.RefusedDataPoints, n, err)
		}
	})
}

// batch is plog.Logs, pmetric.Metrics or ptrace.Traces.
type batch[T any] interface {
	MarkReadOnly()
	CopyTo(T)
}

// give calls each with every consumer and the batch: the same for all, but for those that change it.
func give[T batch[T], C interface{ Capabilities() consumer.Capabilities }](b T, to []C, empty func() T, each func(C, T)) {
	if len(to) > 1 {
		b.MarkReadOnly()
	}
	for _, c := range to {
		own := b
		if len(to) > 1 && c.Capabilities().MutatesData {
			own = empty()
			b.CopyTo(own)
		}
		each(c, own)
	}
}
