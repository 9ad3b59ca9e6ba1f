package exporter_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/connspan/connspan/exporter"
)

// A program traces the connections that end while it has something to do.
func Example() {
	// The consumer is called by the goroutine that reads the kernel's rings and must not block: it hands
	// the batch on. One that has no room refuses it, with an error, which is counted.
	batches := make(chan plog.Logs, 100)
	logs, err := consumer.NewLogs(func(_ context.Context, ld plog.Logs) error {
		select {
		case batches <- ld:
			return nil
		default:
			return fmt.Errorf("%d batches wait", len(batches))
		}
	})
	if err != nil {
		log.Fatal(err)
	}

	cfg := exporter.NewDefaultConfig()
	cfg.Logs.Events = []string{exporter.EventClosed, exporter.EventFailed}
	x, err := exporter.New(cfg, exporter.Consumers{Logs: []consumer.Logs{logs}}, slog.Default())
	if err != nil {
		log.Fatal(err) // one line: what is wrong with cfg, or what this machine lacks
	}
	defer x.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := x.Run(ctx); err != nil {
		log.Fatal(err)
	}
	close(batches)

	records := 0
	for ld := range batches {
		records += ld.LogRecordCount()
	}
	stats, err := x.Stats()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("not arrived:", stats.LogRecords-uint64(records))
	fmt.Println("refused:", stats.RefusedLogRecords)
	// Output:
	// not arrived: 0
	// refused: 0
}

// What has gone lost, and where, is in Stats, and as metrics wherever the program has its own.
func ExampleExporter_Observe() {
	meter := noop.NewMeterProvider().Meter("example") // of the OpenTelemetry SDK in a program
	x, err := exporter.New(exporter.NewDefaultConfig(), exporter.Consumers{}, slog.Default())
	if err != nil {
		log.Fatal(err)
	}
	defer x.Close()
	if err := x.Observe(meter); err != nil {
		log.Fatal(err)
	}
	stats, err := x.Stats() // also while Run runs
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("read before Run:", stats.Read)
	// Output: read before Run: 0
}

func ExampleConfig_Validate() {
	cfg := exporter.NewDefaultConfig()
	cfg.Tracer.Interval = time.Minute
	fmt.Println(cfg.Validate())
	// Output: tracer::interval: 1m0s, want 1ms to 10s
}

// Check says what tracing needs and this machine does not have.
func ExampleCheck() {
	for _, need := range exporter.Check("") {
		if need.Err != nil {
			fmt.Printf("%s: %v; %s\n", need.Name, need.Err, need.Remedy)
		}
	}
	// Output:
}
