package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/pcommon"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"github.com/connspan/connspan/exporter/console"
	"github.com/connspan/connspan/exporter/otlp"
)

// kind is a type of exporter.
type kind struct {
	defaults func() component.Config
	create   func(ctx context.Context, set exporter.Settings, cfg component.Config, stdout io.Writer) (exporter.Logs, error)
	// target says where an exporter sends to.
	target func(cfg component.Config) string
}

var typeConsole = component.MustNewType("console")

// kinds are the types that the configuration may name.
var kinds = map[component.Type]kind{
	typeConsole: {
		defaults: func() component.Config { return console.NewDefaultConfig() },
		create: func(ctx context.Context, set exporter.Settings, cfg component.Config, stdout io.Writer) (exporter.Logs, error) {
			return console.NewLogs(ctx, set, cfg.(*console.Config), stdout)
		},
		target: func(component.Config) string { return "stdout" },
	},
	component.MustNewType("otlp"): {
		defaults: func() component.Config { return otlp.NewDefaultGRPCConfig() },
		create: func(ctx context.Context, set exporter.Settings, cfg component.Config, _ io.Writer) (exporter.Logs, error) {
			return otlp.NewGRPCLogs(ctx, set, cfg.(*otlp.GRPCConfig))
		},
		target: func(cfg component.Config) string { return cfg.(*otlp.GRPCConfig).ClientConfig.Endpoint },
	},
	component.MustNewType("otlphttp"): {
		defaults: func() component.Config { return otlp.NewDefaultHTTPConfig() },
		create: func(ctx context.Context, set exporter.Settings, cfg component.Config, _ io.Writer) (exporter.Logs, error) {
			return otlp.NewHTTPLogs(ctx, set, cfg.(*otlp.HTTPConfig))
		},
		target: func(cfg component.Config) string {
			c := cfg.(*otlp.HTTPConfig)
			if c.LogsEndpoint != "" {
				return redact(c.LogsEndpoint)
			}
			return redact(c.ClientConfig.Endpoint)
		},
	},
}

// exporters are all that the configuration names.
type exporters struct {
	all     []*logsExporter
	logger  *zap.Logger
	giveUp  context.CancelCauseFunc // called when none can do anything any more
	mu      sync.Mutex
	working int
}

// logsExporter is one exporter, and the host that it lives in.
type logsExporter struct {
	exporter.Logs
	id     component.ID
	target string
	group  *exporters
	failed sync.Once
}

var (
	_ component.Host           = (*logsExporter)(nil)
	_ componentstatus.Reporter = (*logsExporter)(nil)
)

// newExporters creates the exporters, and starts none. giveUp hears why none can go on.
func newExporters(
	version string, cfg *config, logger *zap.Logger, stdout io.Writer, giveUp context.CancelCauseFunc,
) (*exporters, error) {
	e := &exporters{logger: logger, giveUp: giveUp}
	for _, id := range cfg.exporterIDs() {
		kind := kinds[id.Type()]
		logs, err := kind.create(context.Background(), exporter.Settings{
			ID:        id,
			BuildInfo: component.BuildInfo{Command: "connspan", Description: "TCP connections", Version: version},
			TelemetrySettings: component.TelemetrySettings{
				Logger:         logger.With(zap.Stringer("exporter", id)),
				TracerProvider: tracenoop.NewTracerProvider(),
				MeterProvider:  metricnoop.NewMeterProvider(),
				Resource:       pcommon.NewResource(),
			},
		}, cfg.Exporters[id], stdout)
		if err != nil {
			return nil, err
		}
		e.all = append(e.all, &logsExporter{Logs: logs, id: id, target: kind.target(cfg.Exporters[id]), group: e})
	}
	e.working = len(e.all)
	return e, nil
}

// start starts all or none.
func (e *exporters) start() error {
	for i, l := range e.all {
		if err := l.Start(context.Background(), l); err != nil {
			for _, started := range slices.Backward(e.all[:i+1]) {
				err = errors.Join(err, started.Shutdown(context.Background()))
			}
			return fmt.Errorf("%s: %w", l.id, err)
		}
	}
	return nil
}

// shutdown has all send what they have, at the same time, since each may need the whole timeout.
func (e *exporters) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	var group sync.WaitGroup
	for _, l := range e.all {
		group.Go(func() {
			if err := l.Shutdown(ctx); err != nil {
				e.logger.Warn("exporter did not finish", zap.Stringer("exporter", l.id), zap.String("error", oneLine(err)))
			}
		})
	}
	group.Wait()
}

// consumers gives the exporters as where the signals go.
func (e *exporters) consumers() []consumer.Logs {
	all := make([]consumer.Logs, len(e.all))
	for i, l := range e.all {
		all[i] = l
	}
	return all
}

// targets tells where the signals go.
func (e *exporters) targets() []string {
	all := make([]string, len(e.all))
	for i, l := range e.all {
		all[i] = l.id.String() + " to " + l.target
	}
	return all
}

// GetExtensions says that there are none.
func (*logsExporter) GetExtensions() map[component.ID]component.Component { return nil }

// Report hears of an exporter that can do nothing any more. The program goes on as long as another can.
func (l *logsExporter) Report(event *componentstatus.Event) {
	if s := event.Status(); s != componentstatus.StatusPermanentError && s != componentstatus.StatusFatalError {
		return
	}
	l.failed.Do(func() { l.group.lose(l.id, event.Err()) })
}

func (e *exporters) lose(id component.ID, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.working--
	if e.working == 0 {
		e.giveUp(fmt.Errorf("%s: %w", id, err))
		return
	}
	e.logger.Error("exporter failed", zap.Stringer("exporter", id), zap.Error(err))
}
