package main

import (
	"context"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// newMeasure returns a consumer that makes metrics of the log records: what the program wants to know,
// and no more.
func newMeasure(meter metric.Meter) (consumer.Logs, error) {
	events, err := meter.Int64Counter("tcp.connection.events", metric.WithUnit("{event}"),
		metric.WithDescription("Openings, ends and failures of TCP connections."))
	if err != nil {
		return nil, err
	}
	duration, err := meter.Float64Histogram("tcp.connection.duration", metric.WithUnit("s"),
		metric.WithDescription("How long TCP connections were open, or were tried to open."),
		metric.WithExplicitBucketBoundaries(.001, .01, .1, 1, 10, 100))
	if err != nil {
		return nil, err
	}
	return consumer.NewLogs(func(ctx context.Context, ld plog.Logs) error {
		for _, rl := range ld.ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, lr := range sl.LogRecords().All() {
					of := metric.WithAttributes(
						attribute.String("event", lr.EventName()),
						attribute.String("network.tcp.handshake.role", get(lr, "network.tcp.handshake.role")))
					events.Add(ctx, 1, of)
					if d, ok := lr.Attributes().Get("tcp.connection.duration"); ok {
						duration.Record(ctx, d.Double(), of)
					}
				}
			}
		}
		return nil
	})
}

func get(lr plog.LogRecord, key string) string {
	v, ok := lr.Attributes().Get(key)
	if !ok {
		return ""
	}
	return v.AsString()
}
