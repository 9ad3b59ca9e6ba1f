package telemetry

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/connspan/connspan/exporter/otlp"
)

// Items are totals of the items that an exporter was offered of one signal: of log records, of data
// points or of spans.
type Items struct {
	Offered int64            // given to it, by the tracer or as messages
	Refused map[string]int64 // of Offered: not taken, by cause
	// Outcome is what became of the others, and of Recovered; nil when the exporter does not say. Its
	// Offered, Refused and Queued are those of the exporter's own queue alone.
	Outcome *otlp.Stats
}

// Queued are those that are neither refused nor delivered nor given up: they wait, or are on their way.
func (i Items) Queued() int64 {
	n := i.Offered + i.Outcome.Recovered - i.Outcome.Sent - i.Outcome.Rejected - i.Outcome.Dropped - i.Outcome.GivenUp
	for _, refused := range i.Refused {
		n -= refused
	}
	return n
}

// outcomes are the metrics of what an exporter says became of items, but for those that it still has.
var outcomes = []struct {
	name, description string
	of                func(*otlp.Stats) int64
}{
	{"recovered", "Items that an earlier process left in the storage.", func(s *otlp.Stats) int64 { return s.Recovered }},
	{"sent", "Items taken by the server.", func(s *otlp.Stats) int64 { return s.Sent }},
	{"rejected", "Items rejected by the server, which took others with them.", func(s *otlp.Stats) int64 { return s.Rejected }},
	{"dropped", "Items refused by the server for good.", func(s *otlp.Stats) int64 { return s.Dropped }},
	{
		"given_up", "Items given up because of max_elapsed_time, retry_on_failure.enabled or the end of the program.",
		func(s *otlp.Stats) int64 { return s.GivenUp },
	},
}

// exporterMetrics are the instruments for Items.
type exporterMetrics struct {
	offered, refused metric.Int64ObservableCounter
	outcomes         []metric.Int64ObservableCounter // as in outcomes
	queued           metric.Int64ObservableUpDownCounter
}

func newExporterMetrics(meter metric.Meter) (m exporterMetrics, err error) {
	counter := func(name, description string) metric.Int64ObservableCounter {
		c, counterErr := meter.Int64ObservableCounter("connspan.exporter."+name, metric.WithUnit("{item}"), metric.WithDescription(description))
		err = errors.Join(err, counterErr)
		return c
	}
	m.offered = counter("offered", "Items given to the exporter: connspan.record.told of its signal, and messages of the program. "+
		"With recovered they are the sum of refused, sent, rejected, dropped, given_up and queued.")
	m.refused = counter("refused", "Items that the exporter did not take, by cause. The queue was full (queue_full), the storage had no room (no_room), "+
		"the disk did not keep up (hand_off_full) or take them before the program ended (not_stored), the exporter was not running (not_running), or else (other).")
	for _, o := range outcomes {
		m.outcomes = append(m.outcomes, counter(o.name, o.description))
	}
	var queuedErr error
	m.queued, queuedErr = meter.Int64ObservableUpDownCounter("connspan.exporter.queued", metric.WithUnit("{item}"),
		metric.WithDescription("Items that wait, or are on their way to the server."))
	return m, errors.Join(err, queuedErr)
}

func (m *exporterMetrics) all() []metric.Observable {
	all := []metric.Observable{m.offered, m.refused, m.queued}
	for _, o := range m.outcomes {
		all = append(all, o)
	}
	return all
}

func (m *exporterMetrics) observe(o metric.Observer, items Items, of ...attribute.KeyValue) {
	with := metric.WithAttributes(of...)
	o.ObserveInt64(m.offered, items.Offered, with)
	for cause, n := range items.Refused {
		o.ObserveInt64(m.refused, n, with, metric.WithAttributes(attribute.String("cause", cause)))
	}
	if items.Outcome == nil {
		return
	}
	for i := range outcomes {
		o.ObserveInt64(m.outcomes[i], outcomes[i].of(items.Outcome), with)
	}
	o.ObserveInt64(m.queued, items.Queued(), with)
}

// ObserveExporter has /metrics and /healthz tell what becomes of what an exporter is offered of a signal.
// One call of items gives all, so that the totals add up in every scrape.
func (t *Telemetry) ObserveExporter(exporter, signal string, items func() Items) error {
	meter := t.meters.Meter(scopeName)
	m, err := newExporterMetrics(meter)
	if err == nil {
		_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
			m.observe(o, items(), attribute.String("exporter", exporter), attribute.String("otelcol.signal", signal))
			return nil
		}, m.all()...)
	}
	if err != nil {
		return fmt.Errorf("observing exporter %s: %w", exporter, err)
	}
	return nil
}

// ObserveStorage has /metrics and /healthz tell how full the storage of the exporters' queues is, in octets,
// and /metrics how many batches in it could not be read: their items stay queued for ever, by the queue's account.
func (t *Telemetry) ObserveStorage(size, missing func() int64, limit int64) error {
	meter := t.meters.Meter(scopeName)
	used, err := meter.Int64ObservableUpDownCounter("connspan.storage.usage", metric.WithUnit("By"),
		metric.WithDescription("Octets of the files that the exporters' queues are in."))
	bound, boundErr := meter.Int64ObservableUpDownCounter("connspan.storage.limit", metric.WithUnit("By"),
		metric.WithDescription("Octets that they may have at most."))
	lost, lostErr := meter.Int64ObservableCounter("connspan.storage.missing", metric.WithUnit("{batch}"),
		metric.WithDescription("Batches that were in a queue by its own account and could not be read, since their file got damaged. Their items stay in connspan.exporter.queued."))
	if err = errors.Join(err, boundErr, lostErr); err == nil {
		_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
			o.ObserveInt64(used, size())
			o.ObserveInt64(bound, limit)
			o.ObserveInt64(lost, missing())
			return nil
		}, used, bound, lost)
	}
	if err != nil {
		return fmt.Errorf("observing the storage: %w", err)
	}
	return nil
}
