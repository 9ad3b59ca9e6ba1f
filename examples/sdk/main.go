// SDK is a program that exports telemetry of its own with the OpenTelemetry SDK, and has the TCP connections of
// its host go the same way: each as a log record of its LoggerProvider, their number and duration as metrics of
// its MeterProvider, where the tracer tells of itself too.
//
//	go build -o sdk ./examples/sdk && sudo ./sdk
//
// It ends with Ctrl-C. Here the providers print; in a program that is in earnest they have the OTLP exporters of
// the SDK instead.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"go.opentelemetry.io/collector/consumer"
	otellog "go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/connspan/connspan/exporter"
	"github.com/connspan/connspan/exporter/bridge"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, log.New(os.Stdout, "", 0)); err != nil {
		fmt.Fprintln(os.Stderr, "sdk:", err)
		os.Exit(1)
	}
}

// run is the program.
func run(ctx context.Context, out *log.Logger) error {
	// The program has its providers anyway. The batch processor drops what it has no room for and does not
	// block, as a consumer of the tracer must not.
	logs := sdklog.NewLoggerProvider(sdklog.WithProcessor(sdklog.NewBatchProcessor(printer{out})))
	reader := sdkmetric.NewManualReader()
	metrics := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))

	whole := context.WithoutCancel(ctx) // what is left at the end is to arrive
	tracer, err := newTracer(logs, metrics)
	if err == nil {
		out.Println("tracing, end it with Ctrl-C")
		// The totals of a tracer that is closed are gone, so that it is closed last.
		err = errors.Join(tracer.Run(ctx), logs.ForceFlush(whole), printMetrics(whole, out, reader), tracer.Close())
	}
	return errors.Join(err, logs.Shutdown(whole), metrics.Shutdown(whole))
}

// newTracer begins to trace, for the providers of the program.
func newTracer(logs otellog.LoggerProvider, metrics metric.MeterProvider) (*exporter.Exporter, error) {
	meter := metrics.Meter("github.com/connspan/connspan/examples/sdk")
	emit, err := bridge.NewLogs(logs)
	if err != nil {
		return nil, err
	}
	measure, err := newMeasure(meter)
	if err != nil {
		return nil, err
	}
	to := exporter.Consumers{Logs: []consumer.Logs{emit, measure}}
	x, err := exporter.New(exporter.NewDefaultConfig(), to, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return nil, err
	}
	if err := x.Observe(meter); err != nil {
		return nil, errors.Join(err, x.Close())
	}
	return x, nil
}
