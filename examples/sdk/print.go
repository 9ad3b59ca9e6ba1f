package main

import (
	"context"
	"fmt"
	"log"

	"go.opentelemetry.io/otel/attribute"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// printer stands for the program's log exporter. The SDK calls it from one goroutine.
type printer struct{ out *log.Logger }

// Export prints a line for each record.
func (p printer) Export(_ context.Context, records []sdklog.Record) error {
	for _, r := range records {
		p.out.Println(r.Severity(), r.Body().AsString())
	}
	return nil
}

// Shutdown has nothing to do.
func (printer) Shutdown(context.Context) error { return nil }

// ForceFlush has nothing to do.
func (printer) ForceFlush(context.Context) error { return nil }

// printMetrics stands for the program's metric exporter. It leaves out what is 0.
func printMetrics(ctx context.Context, out *log.Logger, reader *sdkmetric.ManualReader) error {
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(ctx, &rm); err != nil {
		return err
	}
	for _, sm := range rm.ScopeMetrics {
		for _, m := range sm.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					show(out, m.Name, p.Attributes, fmt.Sprint(p.Value))
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					show(out, m.Name, p.Attributes, fmt.Sprintf("%d, %.3g s in all", p.Count, p.Sum))
				}
			}
		}
	}
	return nil
}

func show(out *log.Logger, name string, of attribute.Set, value string) {
	if value != "0" {
		out.Printf("%s{%s} %s", name, of.Encoded(attribute.DefaultEncoder()), value)
	}
}
