package telemetry

import (
	"context"
	"fmt"
	"log/slog"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/contrib/bridges/otelslog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/connspan/connspan/internal/event"
)

// messages hands each message to consumers at once: what bounds and batches them is the consumers' own
// queues. It is safe for concurrent use.
type messages struct {
	least   log.Severity
	to      []consumer.Logs
	refused metric.Int64Counter
}

var _ sdklog.Processor = (*messages)(nil)

var severities = map[string]log.Severity{
	"debug": log.SeverityDebug, "info": log.SeverityInfo, "warn": log.SeverityWarn, "error": log.SeverityError,
}

// Handler gives a handler that sends what is logged to the consumers, as log records of this program's
// own Resource. Each consumer must have a queue, and must not log to the handler what becomes of its
// records, or a server that is down would be told of itself for ever. What a consumer refuses is
// counted, not logged.
func (t *Telemetry) Handler(to []consumer.Logs) (slog.Handler, error) {
	refused, err := t.meters.Meter(scopeName).Int64Counter("connspan.message.refused",
		metric.WithUnit("{message}"), metric.WithDescription("Messages of the program itself that an exporter did not take."))
	if err != nil {
		return nil, fmt.Errorf("creating the counter of refused messages: %w", err)
	}
	provider := sdklog.NewLoggerProvider(
		sdklog.WithResource(t.resource),
		sdklog.WithProcessor(&messages{severities[t.cfg.Logs.Level], to, refused}))
	return otelslog.NewHandler(scopeName, otelslog.WithLoggerProvider(provider)), nil
}

// Enabled leaves out what is below the level.
func (m *messages) Enabled(_ context.Context, p sdklog.EnabledParameters) bool {
	return p.Severity >= m.least
}

// OnEmit hands the message on.
func (m *messages) OnEmit(ctx context.Context, r *sdklog.Record) error {
	for _, c := range m.to {
		if err := c.ConsumeLogs(context.WithoutCancel(ctx), logsOf(r)); err != nil {
			m.refused.Add(ctx, 1)
		}
	}
	return nil
}

// Shutdown has nothing to do: the queues are the consumers'.
func (*messages) Shutdown(context.Context) error { return nil }

// ForceFlush has nothing to do either.
func (*messages) ForceFlush(context.Context) error { return nil }

// logsOf makes the message what consumers take.
func logsOf(r *sdklog.Record) plog.Logs {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.SetSchemaUrl(semconv.SchemaURL)
	for _, kv := range r.Resource().Attributes() {
		put(rl.Resource().Attributes().PutEmpty(string(kv.Key)), kv.Value)
	}
	sl := rl.ScopeLogs().AppendEmpty()
	sl.Scope().SetName(r.InstrumentationScope().Name)
	lr := sl.LogRecords().AppendEmpty()
	lr.SetTimestamp(pcommon.NewTimestampFromTime(r.Timestamp()))
	lr.SetObservedTimestamp(pcommon.NewTimestampFromTime(r.ObservedTimestamp()))
	lr.SetSeverityNumber(plog.SeverityNumber(r.Severity()))
	lr.SetSeverityText(r.SeverityText())
	put(lr.Body(), r.Body())
	r.WalkAttributes(func(kv attribute.KeyValue) bool {
		put(lr.Attributes().PutEmpty(event.Printable(string(kv.Key))), kv.Value)
		return true
	})
	return ld
}

// put copies a value. What is not printable is replaced: one octet that is not UTF-8 would make a
// server refuse the whole request.
func put(to pcommon.Value, from attribute.Value) {
	switch from.Type() {
	case attribute.BOOL:
		to.SetBool(from.AsBool())
	case attribute.INT64:
		to.SetInt(from.AsInt64())
	case attribute.FLOAT64:
		to.SetDouble(from.AsFloat64())
	case attribute.SLICE:
		list := to.SetEmptySlice()
		for _, v := range from.AsSlice() {
			put(list.AppendEmpty(), v)
		}
	default:
		to.SetStr(event.Printable(from.String()))
	}
}
