package coverage

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// side is what a finding has of each counter.
type side struct {
	prefix, description string
	of                  func(*finding) Counters
	difference          bool // it may go down
}

var sides = []side{
	{
		"connspan.kernel.tcp.", "By the kernel's count, connections %s.",
		func(f *finding) Counters { return f.kernel }, false,
	},
	{
		"connspan.seen.tcp.", "By what the tracer has seen, connections %s.",
		func(f *finding) Counters { return f.seen }, false,
	},
	{
		"connspan.unseen.tcp.", "Connections %s by the kernel's count, less those by what the tracer has seen: for a moment also what is on its way.",
		func(f *finding) Counters { return f.kernel.minus(f.seen) }, true,
	},
}

// Observe has the meter tell, whenever it collects, for each network namespace that is looked at
// (connspan.netns.inode), what the kernel has counted as connspan.kernel.tcp.*, what the tracer has seen of that as
// connspan.seen.tcp.*, and the difference as connspan.unseen.tcp.*. The package says what makes a difference that is
// not 0. A collection reads two small files for each namespace, and no more often than once a second.
func (t *Tally) Observe(m metric.Meter) (metric.Registration, error) {
	leftOut, err := m.Int64ObservableCounter("connspan.unseen.left_out", metric.WithUnit("{record}"),
		metric.WithDescription(fmt.Sprintf("Records of network namespaces that are not looked at, for there are %d others.", maxNamespaces)))
	if err != nil {
		return nil, fmt.Errorf("creating a metric: %w", err)
	}
	all := []metric.Observable{leftOut}
	var instruments []metric.Int64Observable
	for _, s := range sides {
		for _, c := range counters {
			i, err := s.instrument(m, c)
			if err != nil {
				return nil, fmt.Errorf("creating a metric: %w", err)
			}
			instruments, all = append(instruments, i), append(all, i)
		}
	}
	return m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		found, n := t.look()
		o.ObserveInt64(leftOut, n)
		for i := range found {
			found[i].observe(o, instruments)
		}
		return nil
	}, all...)
}

func (s side) instrument(m metric.Meter, c counter) (metric.Int64Observable, error) {
	name, unit := s.prefix+c.name, metric.WithUnit("{connection}")
	description := metric.WithDescription(fmt.Sprintf(s.description, c.what))
	if s.difference || c.field == current {
		return m.Int64ObservableUpDownCounter(name, unit, description)
	}
	return m.Int64ObservableCounter(name, unit, description)
}

// observe tells the instruments, in the order in which they were made.
func (f *finding) observe(o metric.Observer, instruments []metric.Int64Observable) {
	netns := metric.WithAttributes(attribute.Int64("connspan.netns.inode", int64(f.inode)))
	for i, s := range sides {
		values := s.of(f)
		for j, c := range counters {
			o.ObserveInt64(instruments[i*len(counters)+j], *c.of(&values), netns)
		}
	}
}
