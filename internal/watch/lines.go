package watch

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer"
	collector "go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/connspan/connspan/exporter"
	"github.com/connspan/connspan/exporter/console"
)

// shutdownTimeout bounds how long a reader may take for the last lines.
const shutdownTimeout = 5 * time.Second

// printLines writes a line for each record that the filter chooses, until ctx ends or nobody reads on.
func printLines(ctx context.Context, cfg Config) error {
	open, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	out, err := console.NewLogs(ctx, settings(), console.NewDefaultConfig(), cfg.Stdout)
	if err != nil {
		return err
	}
	tracer, err := exporter.New(cfg.Exporter, exporter.Consumers{Logs: []consumer.Logs{filtered{out, cfg.Filter}}}, cfg.Logger)
	if err != nil {
		return err
	}
	if err := out.Start(ctx, host{giveUp}); err != nil {
		return errors.Join(err, tracer.Close())
	}
	err = errors.Join(tracer.Run(open), tracer.Close())
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err = errors.Join(err, out.Shutdown(late))
	if ctx.Err() != nil {
		return err
	}
	if errors.Is(context.Cause(open), unix.EPIPE) {
		return nil // head(1) has seen enough
	}
	return errors.Join(context.Cause(open), err)
}

// settings are what the console needs from a Collector.
func settings() collector.Settings {
	return collector.Settings{
		ID: component.NewID(component.MustNewType("console")),
		TelemetrySettings: component.TelemetrySettings{
			Logger:         zap.NewNop(),
			TracerProvider: tracenoop.NewTracerProvider(),
			MeterProvider:  metricnoop.NewMeterProvider(),
			Resource:       pcommon.NewResource(),
		},
	}
}

// filtered passes on the records that the filter chooses.
type filtered struct {
	consumer.Logs
	filter Filter
}

// Capabilities says that records are taken out of the data.
func (f filtered) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: true}
}

// ConsumeLogs passes on what is left of ld.
func (f filtered) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	ld.ResourceLogs().RemoveIf(func(rl plog.ResourceLogs) bool {
		for _, sl := range rl.ScopeLogs().All() {
			sl.LogRecords().RemoveIf(func(record plog.LogRecord) bool {
				c, ok := newConnection(rl.Resource().Attributes(), record)
				return !ok || !f.filter.match(c)
			})
		}
		return false
	})
	if ld.LogRecordCount() == 0 {
		return nil
	}
	err := f.Logs.ConsumeLogs(ctx, ld)
	if errors.Is(err, unix.EPIPE) {
		return nil // nobody reads on, and the program is about to end: nothing to complain of
	}
	return err
}

// host hears when the output has failed.
type host struct{ giveUp context.CancelCauseFunc }

var _ componentstatus.Reporter = host{}

// GetExtensions gives none.
func (h host) GetExtensions() map[component.ID]component.Component { return nil }

// Report ends the program with the output.
func (h host) Report(event *componentstatus.Event) {
	if event.Status() == componentstatus.StatusPermanentError {
		h.giveUp(event.Err())
	}
}
