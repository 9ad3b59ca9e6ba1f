package exporter

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/connspan/connspan/internal/conn"
	"github.com/connspan/connspan/internal/event"
)

// point is a data point as a test compares it.
type point struct {
	Value      float64 // the sum, of a histogram
	Count      uint64  // of a histogram
	Start, End time.Duration
}

// points gives the data points of a metric by Resource and attributes.
func points(md pmetric.Metrics, name string) map[string]point {
	got := map[string]point{}
	for _, rm := range md.ResourceMetrics().All() {
		who := ""
		if pid, ok := rm.Resource().Attributes().Get("process.pid"); ok {
			who = pid.AsString()
		}
		for _, m := range rm.ScopeMetrics().At(0).Metrics().All() {
			if m.Name() != name {
				continue
			}
			eachPoint(m, func(attrs pcommon.Map, p point) { got[fmt.Sprint(who, " ", attrs.AsRaw())] = p })
		}
	}
	return got
}

func eachPoint(m pmetric.Metric, f func(pcommon.Map, point)) {
	since := func(t pcommon.Timestamp) time.Duration { return t.AsTime().Sub(epoch) }
	switch m.Type() {
	case pmetric.MetricTypeSum:
		for _, d := range m.Sum().DataPoints().All() {
			f(d.Attributes(), point{float64(d.IntValue()), 0, since(d.StartTimestamp()), since(d.Timestamp())})
		}
	case pmetric.MetricTypeHistogram:
		for _, d := range m.Histogram().DataPoints().All() {
			f(d.Attributes(), point{d.Sum(), d.Count(), since(d.StartTimestamp()), since(d.Timestamp())})
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, d := range m.ExponentialHistogram().DataPoints().All() {
			f(d.Attributes(), point{d.Sum(), d.Count(), since(d.StartTimestamp()), since(d.Timestamp())})
		}
	}
}

// life is a connection of process pid that opens and, where it lasts, closes.
func life(pid uint32, cookie, at uint64, lasts time.Duration, sent uint64) []*event.Event {
	opened := event.Event{
		Kind: event.Opened, Cookie: cookie, Ordinal: 1, Time: at, Began: at, Established: at, PID: pid, OwnerSource: event.OwnerConnect,
		Comm: event.Comm{'a'}, Role: event.Client, OldState: event.SynSent, MinRTT: event.UnknownMinRTT,
		Local: netip.MustParseAddrPort("10.0.0.1:4242"), Peer: netip.MustParseAddrPort("10.1.0.1:80"),
	}
	if lasts == 0 {
		return []*event.Event{&opened}
	}
	closed := opened
	closed.Kind, closed.Ordinal, closed.Time, closed.BytesSent = event.Closed, 2, at+uint64(lasts), sent
	closed.OldState, closed.Flags = event.LastAck, event.Dead|event.Shut
	return []*event.Event{&opened, &closed}
}

const second = uint64(time.Second)

// TestTemporality: a cumulative series goes on from where it began; a delta says what is new since
// the last time, and nothing when nothing is.
func TestTemporality(t *testing.T) {
	const labels = "map[network.tcp.handshake.role:client network.type:ipv4 process.executable.name:a server.port:80]"
	for _, tt := range []struct {
		temporality string
		want        [3]map[string]point
	}{
		{TemporalityCumulative, [3]map[string]point{
			{"1 " + labels: {1, 0, 0, 15 * time.Second}},
			{"1 " + labels: {2, 0, 0, 30 * time.Second}, "2 " + labels: {1, 0, 15 * time.Second, 30 * time.Second}},
			{"1 " + labels: {2, 0, 0, 45 * time.Second}, "2 " + labels: {1, 0, 15 * time.Second, 45 * time.Second}},
		}},
		{TemporalityDelta, [3]map[string]point{
			{"1 " + labels: {1, 0, 0, 15 * time.Second}},
			{"1 " + labels: {1, 0, 15 * time.Second, 30 * time.Second}, "2 " + labels: {1, 0, 15 * time.Second, 30 * time.Second}},
			{},
		}},
	} {
		for _, shape := range []string{HistogramExplicit, HistogramExponential} {
			t.Run(tt.temporality+" "+shape, func(t *testing.T) {
				s := newTestSignals(t, func(c *Config) { c.Metrics.Temporality, c.Metrics.Histogram = tt.temporality, shape })
				table := conn.NewTable()
				steps := [3][]*event.Event{
					life(1, 1, 1*second, time.Second, 0),
					append(life(1, 2, 16*second, time.Second, 0), life(2, 3, 17*second, time.Second, 0)...),
				}
				for i, events := range steps {
					for _, e := range events {
						table.Apply(e, s.add)
					}
					md := collected(s.metrics, uint64(time.Duration(i+1)*15*time.Second), table.Each)
					if d := gocmp.Diff(tt.want[i], points(md, "tcp.connection.opened")); d != "" {
						t.Errorf("interval %d, opened (-want +told):\n%s", i, d)
					}
					histogram := map[string]point{}
					for labels, p := range tt.want[i] { // each lasted a second
						p.Count = uint64(p.Value)
						histogram[labels] = p
					}
					if d := gocmp.Diff(histogram, points(md, "tcp.connection.duration")); d != "" {
						t.Errorf("interval %d, duration (-want +told):\n%s", i, d)
					}
				}
			})
		}
	}
}

// TestExpiry: a series that does not change is told no longer, and begins anew where it ended.
func TestExpiry(t *testing.T) {
	s := newTestSignals(t, func(c *Config) { c.Metrics.ExpireAfter = time.Minute })
	table := conn.NewTable()
	add := func(events []*event.Event) {
		for _, e := range events {
			table.Apply(e, s.add)
		}
	}
	at := func(seconds int) map[string]point {
		return points(collected(s.metrics, uint64(time.Duration(seconds)*time.Second), table.Each), "tcp.connection.opened")
	}
	add(life(1, 1, 1*second, time.Second, 0))
	if got := at(15); len(got) != 1 {
		t.Errorf("told %v, want one series", got)
	}
	if got := at(60); len(got) != 1 {
		t.Errorf("told %v after less than a minute, want one series", got)
	}
	if got := at(75); len(got) != 0 {
		t.Errorf("told %v after more than a minute, want none", got)
	}
	add(life(1, 2, 80*second, time.Second, 0))
	for _, p := range at(90) {
		if want := (point{1, 0, 75 * time.Second, 90 * time.Second}); p != want {
			t.Errorf("told %v, want %v: what is begun anew must not overlap", p, want)
		}
	}
	add(life(1, 3, 91*second, 0, 0))
	for _, seconds := range []int{105, 1000, 2000} {
		md := collected(s.metrics, uint64(time.Duration(seconds)*time.Second), table.Each)
		if got := points(md, "tcp.connection.active"); len(got) != 1 {
			t.Errorf("active %v after %d s, want the open connection", got, seconds)
		}
	}
}

// TestMetricsClockStep: whatever becomes of the wall clock, no point ends before it begins, and no series
// expires for it.
func TestMetricsClockStep(t *testing.T) {
	for _, temporality := range []string{TemporalityCumulative, TemporalityDelta} {
		for _, step := range []time.Duration{-time.Hour, time.Hour} {
			s := newTestSignals(t, func(c *Config) { c.Metrics.Temporality = temporality })
			wall := epoch
			s.metrics.clock.Wall = func() time.Time { return wall }
			table := fill(s, life(1, 1, second, 0, 0))
			collected(s.metrics, 15*second, table.Each)
			wall = epoch.Add(step)
			if err := s.metrics.clock.Calibrate(); err != nil {
				t.Fatal(err)
			}
			for _, e := range life(1, 2, 16*second, time.Second, 0) {
				table.Apply(e, s.add)
			}
			md := collected(s.metrics, 30*second, table.Each)
			for _, name := range []string{"tcp.connection.active", "tcp.connection.opened", "tcp.connection.closed", "tcp.connection.duration"} {
				got := points(md, name)
				for labels, p := range got {
					if p.Start > p.End || p.End != step+30*time.Second {
						t.Errorf("%s, wall clock set by %v, %s %s: from %v to %v", temporality, step, name, labels, p.Start, p.End)
					}
				}
				if len(got) != 1 {
					t.Errorf("%s, wall clock set by %v, %s: %v, want one series", temporality, step, name, got)
				}
			}
		}
	}
}

// TestOpeningNeverTold: who is only seen to close has been opened all the same.
func TestOpeningNeverTold(t *testing.T) {
	s := newTestSignals(t, nil)
	table := fill(s, life(1, 1, second, time.Second, 5)[1:])
	md := collected(s.metrics, 15*second, table.Each)
	for _, name := range []string{"tcp.connection.opened", "tcp.connection.closed", "tcp.connection.duration"} {
		for labels, p := range points(md, name) {
			if p.Value != 1 {
				t.Errorf("%s %s: %v, want 1", name, labels, p.Value)
			}
		}
		if n := len(points(md, name)); n != 1 {
			t.Errorf("%s: %d series, want 1", name, n)
		}
	}
}

// TestSeriesAreBounded: whatever comes, no metric has more series than it may, the sums are exact,
// and the active connections are those of the table.
func TestSeriesAreBounded(t *testing.T) {
	const maxSeries = 7
	r := rand.New(rand.NewPCG(1, 2))
	s := newTestSignals(t, func(c *Config) { c.Metrics.MaxSeries = maxSeries })
	table := conn.NewTable()
	var opened, sent uint64
	add := func(e *event.Event) { table.Apply(e, s.add) }
	for i := range uint64(3000) {
		events := life(uint32(r.IntN(20)), i+1, (i+1)*second/100, time.Duration(r.IntN(2))*time.Second, r.Uint64N(1000))
		for _, e := range events {
			e.Peer = netip.AddrPortFrom(e.Peer.Addr(), uint16(r.IntN(3)+1))
		}
		opened++
		add(events[0])
		if len(events) == 2 {
			sampled := *events[0]
			sampled.Kind, sampled.BytesSent = event.Sampled, events[1].BytesSent/2
			add(&sampled)
			add(events[1])
			sent += events[1].BytesSent
		}
		if i%500 != 499 {
			continue
		}
		md := collected(s.metrics, uint64(time.Duration(i+2)*10*time.Millisecond), table.Each)
		for name, want := range map[string]uint64{
			"tcp.connection.opened": opened, "tcp.connection.io": sent, "tcp.connection.active": uint64(table.Stats().Open),
			"tcp.connection.closed": table.Stats().Closed,
		} {
			got := points(md, name)
			sum := 0.0
			for _, p := range got {
				sum += p.Value
			}
			if uint64(sum) != want || len(got) > maxSeries+1 {
				t.Errorf("%s: %v in %d series, want %d in at most %d", name, sum, len(got), want, maxSeries+1)
			}
			if _, ok := got[" map["+attrOverflow+":true]"]; !ok {
				t.Errorf("%s: no overflow series among %v", name, got)
			}
		}
	}
}

// TestMetricBatches: no consumer is given more than it may be at once, and each data point once, those of a
// process in as few Resources as that allows.
func TestMetricBatches(t *testing.T) {
	const perProcess, processes = 3000, 5
	s := newTestSignals(t, func(c *Config) {
		c.Metrics.MaxSeries = perProcess * processes
		c.Metrics.Attributes = []string{attrServerPort}
	})
	table := conn.NewTable()
	for i := range uint32(perProcess * processes) {
		e := life(1+i%processes, uint64(i+1), second, 0, 0)[0]
		e.Peer = netip.AddrPortFrom(e.Peer.Addr(), uint16(i/processes+1))
		table.Apply(e, s.add)
	}
	all := pmetric.NewMetrics()
	batches, sum := 0, 0
	s.metrics.collect(15*second, table.Each, func(batch pmetric.Metrics) {
		n := batch.DataPointCount()
		batches++
		sum += n
		if n == 0 || n > MaxBatch {
			t.Errorf("a batch of %d data points, want 1 to %d", n, MaxBatch)
		}
		batch.ResourceMetrics().MoveAndAppendTo(all.ResourceMetrics())
	})
	if want := (sum + MaxBatch - 1) / MaxBatch; batches != want {
		t.Errorf("%d data points in %d batches, want %d", sum, batches, want)
	}
	if n, most := all.ResourceMetrics().Len(), batches+processes; n > most {
		t.Errorf("%d Resources, want at most %d", n, most)
	}
	for _, name := range []string{"tcp.connection.opened", "tcp.connection.active"} {
		if got := points(all, name); len(got) != perProcess*processes {
			t.Errorf("%s: %d series, want %d", name, len(got), perProcess*processes)
		}
	}
}

// TestMetricAttributes: the series are told apart by what is asked for, no more.
func TestMetricAttributes(t *testing.T) {
	for _, tt := range []struct {
		attributes []string
		want       string
	}{
		{nil, "1 map[]"},
		{[]string{attrServerAddr}, "1 map[server.address:10.1.0.1]"},
		{[]string{attrExecutable, attrRole}, "1 map[network.tcp.handshake.role:client process.executable.name:a]"},
	} {
		s := newTestSignals(t, func(c *Config) { c.Metrics.Attributes = tt.attributes })
		table := fill(s, life(1, 1, second, time.Second, 0))
		got := points(collected(s.metrics, uint64(15*time.Second), table.Each), "tcp.connection.opened")
		if _, ok := got[tt.want]; !ok || len(got) != 1 {
			t.Errorf("attributes %q: told %v, want %q", tt.attributes, got, tt.want)
		}
	}
}

// TestExponentialHistogram: its buckets hold every measurement.
func TestExponentialHistogram(t *testing.T) {
	s := newTestSignals(t, func(c *Config) { c.Metrics.Histogram = HistogramExponential })
	table := conn.NewTable()
	for i := range uint64(100) {
		for _, e := range life(1, i+1, (i+1)*second, time.Duration(i+1)*time.Millisecond, 0) {
			table.Apply(e, s.add)
		}
	}
	md := collected(s.metrics, uint64(time.Hour), table.Each)
	for _, m := range md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
		if m.Name() != "tcp.connection.duration" {
			continue
		}
		d := m.ExponentialHistogram().DataPoints().At(0)
		n := uint64(0)
		for _, c := range d.Positive().BucketCounts().All() {
			n += c
		}
		if n != 100 || d.Count() != 100 || d.Min() != 0.001 || d.Max() != 0.1 || d.Exemplars().Len() == 0 {
			t.Errorf("%d in buckets, %d in all, from %v to %v, %d exemplars; want 100 from 0.001 to 0.1 with exemplars",
				n, d.Count(), d.Min(), d.Max(), d.Exemplars().Len())
		}
	}
}

// collected gives the batches of a collection as one.
func collected(m *metrics, now uint64, each func(func(*event.Event))) pmetric.Metrics {
	all := pmetric.NewMetrics()
	m.collect(now, each, func(batch pmetric.Metrics) {
		batch.ResourceMetrics().MoveAndAppendTo(all.ResourceMetrics())
	})
	return all
}
