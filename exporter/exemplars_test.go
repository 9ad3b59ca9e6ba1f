package exporter

import (
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/connspan/connspan/internal/conn"
	"github.com/connspan/connspan/internal/event"
)

// exemplarsOf gives the exemplars of all histograms.
func exemplarsOf(md pmetric.Metrics) (all []pmetric.Exemplar) {
	for _, rm := range md.ResourceMetrics().All() {
		for _, m := range rm.ScopeMetrics().At(0).Metrics().All() {
			switch m.Type() {
			case pmetric.MetricTypeHistogram:
				for _, d := range m.Histogram().DataPoints().All() {
					for _, x := range d.Exemplars().All() {
						all = append(all, x)
					}
				}
			case pmetric.MetricTypeExponentialHistogram:
				for _, d := range m.ExponentialHistogram().DataPoints().All() {
					for _, x := range d.Exemplars().All() {
						all = append(all, x)
					}
				}
			}
		}
	}
	return all
}

// TestExemplars: each leads to a span that has been told, and is told once.
func TestExemplars(t *testing.T) {
	for _, temporality := range []string{TemporalityCumulative, TemporalityDelta} {
		for _, shape := range []string{HistogramExplicit, HistogramExponential} {
			t.Run(temporality+" "+shape, func(t *testing.T) {
				s := newTestSignals(t, func(c *Config) {
					c.Metrics.Temporality, c.Metrics.Histogram, c.Traces.SampleRatio = temporality, shape, 0.5
				})
				table := conn.NewTable()
				for i := range uint64(200) { // in all buckets of durations
					for _, e := range life(1, i+1, i*second, time.Millisecond<<(i%20), 0) {
						table.Apply(e, s.add)
					}
				}
				told := toldSpans(s)
				first := exemplarsOf(collected(s.metrics, 1000*second, table.Each))
				if len(first) == 0 || len(told) == 0 || len(told) == 200 {
					t.Fatalf("%d exemplars and %d spans of 200 connections: this test shows nothing", len(first), len(told))
				}
				for _, x := range first {
					if name := x.TraceID().String() + x.SpanID().String(); !told[name] {
						t.Errorf("an exemplar of %v s names span %s, which has not been told", x.DoubleValue(), name)
					}
				}
				if again := exemplarsOf(collected(s.metrics, 1015*second, table.Each)); len(again) != 0 {
					t.Errorf("%d exemplars of an interval in which nothing happened", len(again))
				}
			})
		}
	}
}

// toldSpans gives the ids of the spans that wait to be told, trace and span in one.
func toldSpans(s *signals) map[string]bool {
	told := map[string]bool{}
	for _, rs := range s.spans.take().ResourceSpans().All() {
		for _, sp := range rs.ScopeSpans().At(0).Spans().All() {
			told[sp.TraceID().String()+sp.SpanID().String()] = true
		}
	}
	return told
}

// TestSampledHasSpan: what says that it belongs to a sampled trace, log record or exemplar, has a span
// there. A connection that is older than the tracer has none.
func TestSampledHasSpan(t *testing.T) {
	s := newTestSignals(t, func(c *Config) { c.Logs.Heartbeat = time.Second })
	old := life(1, 2, 5*second, time.Second, 10)
	for _, e := range old {
		e.Began, e.Established = 0, 0
		e.Flags |= event.Preexisting
		e.SRTT = 100
	}
	old[0].Kind = event.Adopted
	table := fill(s, append(life(1, 1, second, time.Second, 0), old[0]))
	table.Heartbeat(10*second, second, s.heartbeat)
	table.Apply(old[1], s.add)
	spans, records := toldSpans(s), s.logs.take()
	if len(spans) != 1 || records.LogRecordCount() != 5 {
		t.Fatalf("%d spans and %d log records, want 1 and 5", len(spans), records.LogRecordCount())
	}
	for _, lr := range records.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().All() {
		if span := spans[lr.TraceID().String()+lr.SpanID().String()]; lr.Flags().IsSampled() != span {
			t.Errorf("%q: sampled %v, and its span is told: %v", lr.Body().Str(), lr.Flags().IsSampled(), span)
		}
	}
	for _, x := range exemplarsOf(collected(s.metrics, 15*second, table.Each)) {
		if !spans[x.TraceID().String()+x.SpanID().String()] {
			t.Errorf("an exemplar of %v s names a span that is not told", x.DoubleValue())
		}
	}
}

// TestSynthesizedMeasuresNothing: a connection that is found gone has ended, and no more is known: not
// how long it lasted, and its round-trip time has been told when it was sampled.
func TestSynthesizedMeasuresNothing(t *testing.T) {
	s := newTestSignals(t, nil)
	opened := life(1, 1, second, 0, 0)[0]
	sampled := *opened
	sampled.Kind, sampled.Time, sampled.SRTT, sampled.BytesSent = event.Sampled, 2*second, 300, 40
	table := fill(s, []*event.Event{opened, &sampled})
	table.Reconcile(3*second, 4*second, func(uint64) bool { return false }, s.add)
	md := collected(s.metrics, 15*second, table.Each)
	for name, want := range map[string][]point{
		"tcp.connection.rtt":      {{0.0003, 1, 0, 15 * time.Second}},
		"tcp.connection.duration": nil,
		"tcp.connection.closed":   {{1, 0, 0, 15 * time.Second}},
		"tcp.connection.io":       {{40, 0, 0, 15 * time.Second}},
	} {
		var got []point
		for _, p := range points(md, name) {
			got = append(got, p)
		}
		if d := gocmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +told):\n%s", name, d)
		}
	}
}
