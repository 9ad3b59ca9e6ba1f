package bridge

import (
	"context"
	"strings"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/trace"
)

// NewLogs returns a consumer that emits each log record by the Logger that provider has for its scope: body,
// attributes, both times, severity and event name, with the trace and span of the record as those of the
// context. It copies what it emits and returns no error.
//
// It blocks where a processor of the provider does: give the SDK a BatchProcessor, which drops what it has no
// room for, not a SimpleProcessor.
func NewLogs(provider log.LoggerProvider) (consumer.Logs, error) {
	return consumer.NewLogs(func(ctx context.Context, ld plog.Logs) error {
		for _, rl := range ld.ResourceLogs().All() {
			process := processOf(rl.Resource())
			for _, sl := range rl.ScopeLogs().All() {
				logger := provider.Logger(sl.Scope().Name(),
					log.WithInstrumentationVersion(sl.Scope().Version()),
					log.WithInstrumentationAttributes(attributes(sl.Scope().Attributes())...),
					log.WithSchemaURL(sl.SchemaUrl()))
				for _, lr := range sl.LogRecords().All() {
					logger.Emit(spanOf(ctx, lr), record(lr, process))
				}
			}
		}
		return nil
	})
}

// processOf gives what the Resource says of the process.
func processOf(r pcommon.Resource) pcommon.Map {
	m := pcommon.NewMap()
	for key, v := range r.Attributes().All() {
		if strings.HasPrefix(key, "process.") {
			v.CopyTo(m.PutEmpty(key))
		}
	}
	return m
}

// spanOf is ctx in the span that the record belongs to, if it belongs to one.
func spanOf(ctx context.Context, lr plog.LogRecord) context.Context {
	return trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID:    trace.TraceID(lr.TraceID()),
		SpanID:     trace.SpanID(lr.SpanID()),
		TraceFlags: trace.TraceFlags(lr.Flags()),
	}))
}

func record(lr plog.LogRecord, process pcommon.Map) log.Record {
	var r log.Record
	r.SetEventName(lr.EventName())
	if t := lr.Timestamp(); t != 0 {
		r.SetTimestamp(t.AsTime())
	}
	if t := lr.ObservedTimestamp(); t != 0 {
		r.SetObservedTimestamp(t.AsTime())
	}
	r.SetSeverity(log.Severity(lr.SeverityNumber())) // they are numbered alike
	r.SetSeverityText(lr.SeverityText())
	r.SetBody(value(lr.Body()))
	r.AddAttributes(attributes(lr.Attributes())...)
	for key, v := range process.All() {
		if _, ok := lr.Attributes().Get(key); !ok {
			r.AddAttributes(attribute.KeyValue{Key: attribute.Key(key), Value: value(v)})
		}
	}
	return r
}

func attributes(m pcommon.Map) []attribute.KeyValue {
	kvs := make([]attribute.KeyValue, 0, m.Len())
	for key, v := range m.All() {
		kvs = append(kvs, attribute.KeyValue{Key: attribute.Key(key), Value: value(v)})
	}
	return kvs
}

func value(v pcommon.Value) attribute.Value {
	switch v.Type() {
	case pcommon.ValueTypeStr:
		return attribute.StringValue(v.Str())
	case pcommon.ValueTypeBool:
		return attribute.BoolValue(v.Bool())
	case pcommon.ValueTypeInt:
		return attribute.Int64Value(v.Int())
	case pcommon.ValueTypeDouble:
		return attribute.Float64Value(v.Double())
	case pcommon.ValueTypeBytes:
		return attribute.ByteSliceValue(v.Bytes().AsRaw())
	case pcommon.ValueTypeMap:
		return attribute.MapValue(attributes(v.Map())...)
	case pcommon.ValueTypeSlice:
		values := make([]attribute.Value, 0, v.Slice().Len())
		for _, e := range v.Slice().All() {
			values = append(values, value(e))
		}
		return attribute.SliceValue(values...)
	}
	return attribute.Value{}
}
