package otlp_test

import (
	"context"
	"fmt"
	"log"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/plog"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"github.com/connspan/connspan/exporter/otlp"
)

type noExtensions struct{}

func (noExtensions) GetExtensions() map[component.ID]component.Component { return nil }

func ExampleNewGRPCLogs() {
	set := exporter.Settings{ID: component.MustNewID("otlp")}
	set.BuildInfo = component.BuildInfo{Command: "connspan", Version: "1.0.0"}
	set.Logger = zap.NewNop()
	set.TracerProvider = tracenoop.NewTracerProvider()
	set.MeterProvider = metricnoop.NewMeterProvider()

	cfg := otlp.NewDefaultGRPCConfig()
	cfg.ClientConfig.Endpoint = "localhost:4317"
	cfg.ClientConfig.TLS.Insecure = true

	ctx := context.Background()
	logs, err := otlp.NewGRPCLogs(ctx, set, cfg)
	if err != nil {
		log.Fatal(err)
	}
	if err := logs.Start(ctx, noExtensions{}); err != nil {
		log.Fatal(err)
	}
	if err := logs.ConsumeLogs(ctx, plog.NewLogs()); err != nil {
		log.Fatal(err)
	}
	if err := logs.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%+v\n", logs.Stats())
	// Output: {Offered:0 Recovered:0 Refused:0 Sent:0 Rejected:0 Dropped:0 GivenUp:0 Queued:0}
}
