package otlp

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// TestSplit cuts batches of several resources and scopes, some of them empty, at every limit.
func TestSplit(t *testing.T) {
	shape := [][]int{{3, 1}, {}, {0, 2}, {7}} // items of each scope of each resource
	t.Run("logs", func(t *testing.T) {
		ld := plog.NewLogs()
		for r, scopes := range shape {
			rl := ld.ResourceLogs().AppendEmpty()
			rl.SetSchemaUrl(fmt.Sprint("resource schema ", r))
			rl.Resource().Attributes().PutInt("resource", int64(r))
			for s, records := range scopes {
				sl := rl.ScopeLogs().AppendEmpty()
				sl.SetSchemaUrl(fmt.Sprint("scope schema ", s))
				sl.Scope().SetName(fmt.Sprint("scope ", s))
				for i := range records {
					sl.LogRecords().AppendEmpty().Body().SetStr(fmt.Sprint("record ", i))
				}
			}
		}
		testSplit(t, &logs, ld, describedLogs)
	})
	t.Run("traces", func(t *testing.T) {
		td := ptrace.NewTraces()
		for r, scopes := range shape {
			rs := td.ResourceSpans().AppendEmpty()
			rs.SetSchemaUrl(fmt.Sprint("resource schema ", r))
			rs.Resource().Attributes().PutInt("resource", int64(r))
			for s, spans := range scopes {
				ss := rs.ScopeSpans().AppendEmpty()
				ss.SetSchemaUrl(fmt.Sprint("scope schema ", s))
				ss.Scope().SetName(fmt.Sprint("scope ", s))
				for i := range spans {
					span := ss.Spans().AppendEmpty()
					span.SetName(fmt.Sprint("span ", i))
					span.Events().AppendEmpty().SetName("event")
				}
			}
		}
		testSplit(t, &traces, td, describedTraces)
	})
	t.Run("metrics", func(t *testing.T) {
		md := pmetric.NewMetrics()
		for r, scopes := range shape {
			rm := md.ResourceMetrics().AppendEmpty()
			rm.SetSchemaUrl(fmt.Sprint("resource schema ", r))
			rm.Resource().Attributes().PutInt("resource", int64(r))
			for s, metrics := range scopes {
				sm := rm.ScopeMetrics().AppendEmpty()
				sm.SetSchemaUrl(fmt.Sprint("scope schema ", s))
				sm.Scope().SetName(fmt.Sprint("scope ", s))
				for i := range metrics {
					fill(sm.Metrics().AppendEmpty(), i)
				}
			}
		}
		testSplit(t, &metrics, md, describedMetrics)
	})
}

// fill makes m a metric of the i-th type, with i data points.
func fill(m pmetric.Metric, i int) {
	m.SetName(fmt.Sprint("metric ", i))
	m.SetDescription("described")
	m.SetUnit("By")
	m.Metadata().PutInt("metadata", int64(i))
	switch i % 6 {
	case 0:
		m.SetEmptyGauge()
	case 1:
		m.SetEmptySum().SetIsMonotonic(true)
		m.Sum().SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	case 2:
		m.SetEmptyHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	case 3:
		m.SetEmptyExponentialHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	case 4:
		m.SetEmptySummary()
	case 5: // no type, no points
	}
	for j := range i {
		switch m.Type() {
		case pmetric.MetricTypeGauge:
			m.Gauge().DataPoints().AppendEmpty().SetIntValue(int64(j))
		case pmetric.MetricTypeSum:
			point := m.Sum().DataPoints().AppendEmpty()
			point.SetIntValue(int64(j))
			point.Exemplars().AppendEmpty().SetIntValue(int64(j))
		case pmetric.MetricTypeHistogram:
			point := m.Histogram().DataPoints().AppendEmpty()
			point.BucketCounts().FromRaw([]uint64{1, uint64(j), 3})
			point.ExplicitBounds().FromRaw([]float64{1, 2})
		case pmetric.MetricTypeExponentialHistogram:
			m.ExponentialHistogram().DataPoints().AppendEmpty().Positive().BucketCounts().FromRaw([]uint64{1, uint64(j)})
		case pmetric.MetricTypeSummary:
			m.Summary().DataPoints().AppendEmpty().QuantileValues().AppendEmpty().SetValue(float64(j))
		}
	}
}

func testSplit[T any](t *testing.T, s *signal[T], data T, described func(T) []string) {
	want := described(data)
	if len(want) == 0 || len(want) != s.count(data) {
		t.Fatalf("%d items described of %d", len(want), s.count(data))
	}
	whole := s.size(data)
	for limit := range whole {
		var got []string
		for _, part := range s.split(data, limit) {
			if size := s.size(part); size > limit && s.count(part) != 1 {
				t.Fatalf("limit %d: a part of %d %s is %d bytes", limit, s.count(part), s.items, size)
			}
			got = append(got, described(part)...)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("limit %d (-want +got):\n%s", limit, diff)
		}
	}
	if diff := cmp.Diff(want, described(data)); diff != "" {
		t.Errorf("changed what it split (-before +after):\n%s", diff)
	}
	if n := len(s.split(data, whole)); n != 1 {
		t.Errorf("%d parts, though all of it fits in one", n)
	}
	n := s.count(data)
	for from := range n {
		if diff := cmp.Diff(want[from:], described(s.part(data, from, n))); diff != "" {
			t.Errorf("rest from %d (-want +got):\n%s", from, diff)
		}
	}
}

// described tells an item with all that it belongs to.
func describe(resourceSchema string, resource pcommon.Resource, scopeSchema string, scope pcommon.InstrumentationScope, item ...any) string {
	return fmt.Sprint(resourceSchema, resource.Attributes().AsRaw(), scopeSchema, scope.Name(), item)
}

func describedLogs(ld plog.Logs) []string {
	var lines []string
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, record := range sl.LogRecords().All() {
				lines = append(lines, describe(rl.SchemaUrl(), rl.Resource(), sl.SchemaUrl(), sl.Scope(), record.Body().Str()))
			}
		}
	}
	return lines
}

func describedTraces(td ptrace.Traces) []string {
	var lines []string
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				lines = append(lines, describe(rs.SchemaUrl(), rs.Resource(), ss.SchemaUrl(), ss.Scope(),
					span.Name(), span.Events().At(0).Name()))
			}
		}
	}
	return lines
}

func describedMetrics(md pmetric.Metrics) []string {
	var lines []string
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				for _, point := range describedPoints(m) {
					lines = append(lines, describe(rm.SchemaUrl(), rm.Resource(), sm.SchemaUrl(), sm.Scope(),
						m.Name(), m.Description(), m.Unit(), m.Metadata().AsRaw(), point))
				}
			}
		}
	}
	return lines
}

// describedPoints returns one line for each data point, with what its metric says about all of them.
func describedPoints(m pmetric.Metric) []string {
	var lines []string
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		for _, point := range m.Gauge().DataPoints().All() {
			lines = append(lines, fmt.Sprint("gauge ", point.IntValue()))
		}
	case pmetric.MetricTypeSum:
		for _, point := range m.Sum().DataPoints().All() {
			lines = append(lines, fmt.Sprint("sum ", m.Sum().IsMonotonic(), m.Sum().AggregationTemporality(),
				point.IntValue(), point.Exemplars().At(0).IntValue()))
		}
	case pmetric.MetricTypeHistogram:
		for _, point := range m.Histogram().DataPoints().All() {
			lines = append(lines, fmt.Sprint("histogram ", m.Histogram().AggregationTemporality(),
				point.BucketCounts().AsRaw(), point.ExplicitBounds().AsRaw()))
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, point := range m.ExponentialHistogram().DataPoints().All() {
			lines = append(lines, fmt.Sprint("exponential histogram ", m.ExponentialHistogram().AggregationTemporality(),
				point.Positive().BucketCounts().AsRaw()))
		}
	case pmetric.MetricTypeSummary:
		for _, point := range m.Summary().DataPoints().All() {
			lines = append(lines, fmt.Sprint("summary ", point.QuantileValues().At(0).Value()))
		}
	}
	return lines
}
