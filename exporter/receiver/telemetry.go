package receiver

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// scopeName is the instrumentation scope of the receiver's own metrics; metadata.yaml lists them.
const scopeName = "github.com/connspan/connspan/exporter/receiver"

// observe has the meter tell of the queues what Exporter.Observe cannot know. Which calls the pipelines took
// and refused is in the Collector's own otelcol_receiver_accepted_* and otelcol_receiver_refused_*.
func observe(meter metric.Meter, queues []runner) (metric.Registration, error) {
	size, err := meter.Int64ObservableUpDownCounter("connspan.receiver.queue.size", metric.WithUnit("{record}"),
		metric.WithDescription("Log records, data points or spans that wait for a pipeline."))
	if err != nil {
		return nil, fmt.Errorf("creating a metric: %w", err)
	}
	dropped, err := meter.Int64ObservableCounter("connspan.receiver.queue.dropped", metric.WithUnit("{record}"),
		metric.WithDescription("Log records, data points or spans that a pipeline did not take, for good."))
	if err != nil {
		return nil, fmt.Errorf("creating a metric: %w", err)
	}
	return meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, q := range queues {
			s := q.look()
			signal := metric.WithAttributes(attribute.Stringer("otelcol.signal", s.signal))
			o.ObserveInt64(size, int64(s.waiting), signal)
			o.ObserveInt64(dropped, s.dropped, signal)
		}
		return nil
	}, size, dropped)
}
