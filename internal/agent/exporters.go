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
	collector "go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/pcommon"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"github.com/connspan/connspan/exporter"
	"github.com/connspan/connspan/internal/agent/storage"
	"github.com/connspan/connspan/internal/telemetry"
)

// typeStorage is what the exporters know the storage by. No configuration can name it.
var typeStorage = component.MustNewType("storage")

// exporters are all that the configuration names.
type exporters struct {
	all     []*namedExporter
	storage *storage.Storage // nil when the queues are memory
	own     *telemetry.Telemetry
	logger  *zap.Logger
	giveUp  context.CancelCauseFunc // called when none can do anything any more
	mu      sync.Mutex
	working int
}

// namedExporter is one exporter.
type namedExporter struct {
	id      component.ID
	targets []string
	senders []*sender // one for each signal that is on, and that it takes
	group   *exporters
	failed  sync.Once
}

// host is what a sender lives in.
type host struct {
	*namedExporter
	signal signalType
}

var (
	_ component.Host           = host{}
	_ componentstatus.Reporter = host{}
)

// newExporters creates the exporters, and starts none. giveUp hears why none can go on.
func newExporters(
	version string, cfg *config, own *telemetry.Telemetry, logger *zap.Logger, stdout io.Writer, giveUp context.CancelCauseFunc,
) (*exporters, error) {
	e := &exporters{own: own, logger: logger, giveUp: giveUp}
	if cfg.Storage.Directory != "" {
		e.storage = storage.New(cfg.Storage.Directory, int64(cfg.Storage.MaxSize), logger)
		if err := own.ObserveStorage(e.storage.Size, e.storage.Missing, int64(cfg.Storage.MaxSize)); err != nil {
			return nil, err
		}
	}
	for _, id := range cfg.exporterIDs() {
		x, err := e.create(version, id, cfg, stdout)
		if err != nil {
			return nil, err
		}
		e.all = append(e.all, x)
		if len(x.senders) > 0 {
			e.working++
		}
	}
	return e, nil
}

func (e *exporters) create(version string, id component.ID, cfg *config, stdout io.Writer) (*namedExporter, error) {
	kind, own := kinds[id.Type()], cfg.Exporters[id]
	var stored *storage.Storage
	if queue := queueOf(own); queue != nil && e.storage != nil {
		id := component.NewID(typeStorage)
		queue.Get().StorageID, stored = &id, e.storage
	}
	x := &namedExporter{id: id, group: e}
	for _, s := range cfg.signals(id) {
		target := kind.target(own, s)
		if target == "" {
			continue
		}
		logger := e.logger.With(zap.Stringer("exporter", id), zap.String("signal", string(s)))
		component, err := kind.create[s](context.Background(), collector.Settings{
			ID:        id,
			BuildInfo: component.BuildInfo{Command: "connspan", Description: "TCP connections", Version: version},
			TelemetrySettings: component.TelemetrySettings{
				Logger:         logger,
				TracerProvider: tracenoop.NewTracerProvider(),
				MeterProvider:  e.own.MeterProvider(),
				Resource:       pcommon.NewResource(),
			},
		}, own, stdout)
		if err != nil {
			return nil, err
		}
		sender := newSender(component, s, stored, logger)
		if err := e.own.ObserveExporter(id.String(), string(s), sender.items); err != nil {
			return nil, err
		}
		x.senders = append(x.senders, sender)
		if !slices.Contains(x.targets, target) {
			x.targets = append(x.targets, target)
		}
	}
	return x, nil
}

// start starts all or none.
func (e *exporters) start() error {
	if e.storage != nil {
		if err := e.storage.Start(context.Background(), nil); err != nil {
			return fmt.Errorf("storage: %w", err)
		}
	}
	var started []component.Component
	for _, x := range e.all {
		for _, s := range x.senders {
			started = append(started, s)
			if err := s.Start(context.Background(), host{x, s.signal}); err != nil {
				for _, s := range slices.Backward(started) {
					err = errors.Join(err, s.Shutdown(context.Background()))
				}
				return errors.Join(fmt.Errorf("%s: %w", x.id, err), e.closeStorage())
			}
		}
	}
	if e.storage != nil {
		for _, name := range e.storage.Unclaimed() {
			e.logger.Warn("the storage has a queue of an exporter that is not configured", zap.String("queue", name))
		}
	}
	return nil
}

// shutdown has all send what they have, at the same time, since each may need the whole timeout.
func (e *exporters) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	var group sync.WaitGroup
	for _, x := range e.all {
		for _, s := range x.senders {
			group.Go(func() {
				if err := s.Shutdown(ctx); err != nil {
					e.logger.Warn("exporter did not finish", zap.Stringer("exporter", x.id), zap.String("signal", string(s.signal)), zap.String("error", oneLine(err)))
				}
			})
		}
	}
	group.Wait()
	if err := e.closeStorage(); err != nil {
		e.logger.Warn("closing the storage", zap.Error(err))
	}
	e.account()
}

func (e *exporters) closeStorage() error {
	if e.storage == nil {
		return nil
	}
	return e.storage.Shutdown(context.Background())
}

// account tells what became of everything that the senders were given.
func (e *exporters) account() {
	for _, x := range e.all {
		for _, s := range x.senders {
			items := s.items()
			stats := items.Outcome
			if stats == nil {
				continue
			}
			e.logger.Info("export stopped", zap.Stringer("exporter", x.id), zap.String("signal", string(s.signal)),
				zap.Int64("offered", items.Offered), zap.Int64("recovered", stats.Recovered),
				zap.Int64("sent", stats.Sent), zap.Int64("rejected", stats.Rejected), zap.Int64("dropped", stats.Dropped),
				zap.Any("refused", items.Refused), zap.Int64("given_up", stats.GivenUp), zap.Int64("queued", items.Queued()))
		}
	}
}

// consumers gives the senders as where the signals go.
func (e *exporters) consumers() (to exporter.Consumers) {
	for _, x := range e.all {
		for _, s := range x.senders {
			switch c := s.consumer.(type) {
			case consumer.Logs:
				to.Logs = append(to.Logs, c)
			case consumer.Metrics:
				to.Metrics = append(to.Metrics, c)
			case consumer.Traces:
				to.Traces = append(to.Traces, c)
			}
		}
	}
	return to
}

// overOTLP gives the exporters that the program's own messages may go to.
func (e *exporters) overOTLP() (all []consumer.Logs) {
	for _, x := range e.all {
		for _, s := range x.senders {
			if c, ok := s.consumer.(consumer.Logs); ok && overOTLP(x.id) {
				all = append(all, c)
			}
		}
	}
	return all
}

// targets tells where the signals go.
func (e *exporters) targets() (all []string) {
	for _, x := range e.all {
		for _, target := range x.targets {
			all = append(all, x.id.String()+" to "+target)
		}
	}
	return all
}

// GetExtensions gives the storage, the only extension that there may be.
func (x *namedExporter) GetExtensions() map[component.ID]component.Component {
	if x.group.storage == nil {
		return nil
	}
	return map[component.ID]component.Component{component.NewID(typeStorage): x.group.storage}
}

// Report hears how a sender is. The program goes on without an exporter that can do nothing any more, as
// long as another can.
func (h host) Report(event *componentstatus.Event) {
	x := h.namedExporter
	x.group.own.Report(fmt.Sprintf("%s (%s)", x.id, h.signal), event)
	if s := event.Status(); s != componentstatus.StatusPermanentError && s != componentstatus.StatusFatalError {
		return
	}
	x.failed.Do(func() { x.group.lose(x.id, event.Err()) })
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
