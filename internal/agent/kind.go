package agent

import (
	"context"
	"io"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configoptional"
	collector "go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"

	"github.com/connspan/connspan/exporter/console"
	"github.com/connspan/connspan/exporter/otlp"
)

// signalType is what may be told of the connections.
type signalType string

const (
	logs    signalType = "logs"
	metrics signalType = "metrics"
	traces  signalType = "traces"
)

// signals are those that are on for an exporter: what is told of the connections, and the program's own
// messages.
func (c *config) signals(id component.ID) (on []signalType) {
	if len(c.Exporter.Logs.Events) > 0 || c.Exporter.Logs.Heartbeat > 0 || c.Telemetry.Logs.OTLP && overOTLP(id) {
		on = append(on, logs)
	}
	if c.Exporter.Metrics.Interval > 0 {
		on = append(on, metrics)
	}
	if c.Exporter.Traces.SampleRatio > 0 {
		on = append(on, traces)
	}
	return on
}

// kind is a type of exporter.
type kind struct {
	defaults func() component.Config
	create   map[signalType]create
	// target says where an exporter sends a signal to; nowhere when that is empty.
	target func(cfg component.Config, s signalType) string
}

// create makes the sender of a signal.
type create func(ctx context.Context, set collector.Settings, cfg component.Config, stdout io.Writer) (component.Component, error)

var typeConsole = component.MustNewType("console")

// kinds are the types that the configuration may name.
var kinds = map[component.Type]kind{
	typeConsole: {
		defaults: func() component.Config { return console.NewDefaultConfig() },
		create: map[signalType]create{
			logs: toStdout(console.NewLogs), metrics: toStdout(console.NewMetrics), traces: toStdout(console.NewTraces),
		},
		target: consoleTarget,
	},
	component.MustNewType("otlp"): {
		defaults: func() component.Config { return otlp.NewDefaultGRPCConfig() },
		create: map[signalType]create{
			logs: toServer(otlp.NewGRPCLogs), metrics: toServer(otlp.NewGRPCMetrics), traces: toServer(otlp.NewGRPCTraces),
		},
		target: func(cfg component.Config, _ signalType) string { return cfg.(*otlp.GRPCConfig).ClientConfig.Endpoint },
	},
	component.MustNewType("otlphttp"): {
		defaults: func() component.Config { return otlp.NewDefaultHTTPConfig() },
		create: map[signalType]create{
			logs: toServer(otlp.NewHTTPLogs), metrics: toServer(otlp.NewHTTPMetrics), traces: toServer(otlp.NewHTTPTraces),
		},
		target: httpTarget,
	},
}

func toServer[C any, E component.Component](
	create func(context.Context, collector.Settings, *C) (E, error),
) create {
	return func(ctx context.Context, set collector.Settings, cfg component.Config, _ io.Writer) (component.Component, error) {
		return create(ctx, set, any(cfg).(*C))
	}
}

func toStdout[E component.Component](
	create func(context.Context, collector.Settings, *console.Config, io.Writer) (E, error),
) create {
	return func(ctx context.Context, set collector.Settings, cfg component.Config, stdout io.Writer) (component.Component, error) {
		return create(ctx, set, cfg.(*console.Config), stdout)
	}
}

// consoleTarget leaves out what text does not show.
func consoleTarget(cfg component.Config, s signalType) string {
	if s != logs && cfg.(*console.Config).Format == console.FormatText {
		return ""
	}
	return "stdout"
}

// httpTarget leaves out the signals without an endpoint when only others have one.
func httpTarget(cfg component.Config, s signalType) string {
	c := cfg.(*otlp.HTTPConfig)
	own := map[signalType]string{logs: c.LogsEndpoint, metrics: c.MetricsEndpoint, traces: c.TracesEndpoint}[s]
	if own == "" {
		own = c.ClientConfig.Endpoint
	}
	return redact(own)
}

// queueOf is the queue of an exporter that has one.
func queueOf(cfg component.Config) *configoptional.Optional[exporterhelper.QueueBatchConfig] {
	switch c := cfg.(type) {
	case *otlp.GRPCConfig:
		return &c.QueueConfig
	case *otlp.HTTPConfig:
		return &c.QueueConfig
	}
	return nil
}
