package receiver

import (
	"context"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"
)

// Type is how a Collector's configuration calls the receiver.
var Type = component.MustNewType("connspan")

const stability = component.StabilityLevelAlpha

// NewFactory returns a factory of receivers for logs, metrics and traces. Those that it creates from
// the same *Config share one tracer.
func NewFactory() receiver.Factory {
	s := &shared{tracers: make(map[*Config]*tracer)}
	return receiver.NewFactory(Type, newDefaultConfig,
		receiver.WithLogs(s.createLogs, stability),
		receiver.WithMetrics(s.createMetrics, stability),
		receiver.WithTraces(s.createTraces, stability))
}

// shared has the tracers that are not shut down. A Collector creates a receiver for each signal, and
// hands the same *Config to all of one component ID.
type shared struct {
	mu      sync.Mutex
	tracers map[*Config]*tracer
}

func (s *shared) createLogs(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Logs) (receiver.Logs, error) {
	return s.join(set, cfg.(*Config), func(t *tracer) error { return t.addLogs(next) })
}

func (s *shared) createMetrics(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Metrics) (receiver.Metrics, error) {
	return s.join(set, cfg.(*Config), func(t *tracer) error { return t.addMetrics(next) })
}

func (s *shared) createTraces(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Traces) (receiver.Traces, error) {
	return s.join(set, cfg.(*Config), func(t *tracer) error { return t.addTraces(next) })
}

// join gives the tracer of cfg another consumer.
func (s *shared) join(set receiver.Settings, cfg *Config, add func(*tracer) error) (*tracer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tracers[cfg]
	if t == nil {
		var err error
		if t, err = newTracer(set, cfg, func() { s.forget(cfg) }); err != nil {
			return nil, err
		}
		s.tracers[cfg] = t
	}
	return t, add(t)
}

func (s *shared) forget(cfg *Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tracers, cfg)
}
