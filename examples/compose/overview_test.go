package compose_test

import (
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/common/model"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// process is a traced process, and what it has done since its start.
type process struct {
	service, instance, role string
	port, pid               int64
	active                  int64
	counters                []counter
	durations               []duration
}

// counter is a value of a metric, with attributes in pairs: key, value, ...
type counter struct {
	metric, unit string
	value        int64
	attributes   []string
}

// duration is so many values of one length in a histogram.
type duration struct {
	metric     string
	seconds    float64
	count      uint64
	trace      pcommon.TraceID
	attributes []string
}

const connections = "{connection}"

var (
	bounds = []float64{0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300}
	trace  = pcommon.TraceID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	direct = "network.io.direction"
)

// healthy and troubled are the same two services, with and without failures; before them nothing had happened.
func healthy() []process {
	fin := func(initiator string) []string {
		return []string{"tcp.connection.close.reason", "fin", "tcp.connection.close.initiator", initiator}
	}
	return []process{{
		service: "nginx", instance: "host:100", role: "server", port: 443, pid: 100, active: 10,
		counters: []counter{
			{"tcp.connection.opened", connections, 40, nil},
			{"tcp.connection.closed", connections, 30, fin("peer")},
			{"tcp.connection.closed", connections, 0, []string{"tcp.connection.close.reason", "reset_sent", "tcp.connection.close.initiator", "local"}},
			{"tcp.connection.io", "By", 400_000, []string{direct, "transmit"}},
			{"tcp.connection.io", "By", 8_000, []string{direct, "receive"}},
			{"tcp.connection.retransmits", "{segment}", 0, nil},
		},
		durations: []duration{
			{"tcp.connection.duration", 0.3, 30, trace, nil},
			{"tcp.connection.duration", 4, 0, trace, []string{"error.type", "connection_reset"}},
			{"tcp.connection.handshake.duration", 0.015, 40, pcommon.TraceID{}, nil},
			{"tcp.connection.rtt", 0.03, 30, pcommon.TraceID{}, nil},
		},
	}, {
		service: "curl", instance: "host:200", role: "client", port: 443, pid: 200, active: 5,
		counters: []counter{
			{"tcp.connection.opened", connections, 20, nil},
			{"tcp.connection.closed", connections, 15, fin("local")},
			{"tcp.connection.failed", connections, 0, []string{"error.type", "connection_refused"}},
			{"tcp.connection.failed", connections, 0, []string{"error.type", "timed_out"}},
			{"tcp.connection.io", "By", 2_000, []string{direct, "transmit"}},
			{"tcp.connection.io", "By", 100_000, []string{direct, "receive"}},
		},
		durations: []duration{
			{"tcp.connection.duration", 0.3, 15, trace, nil},
			{"tcp.connection.handshake.duration", 0.015, 20, pcommon.TraceID{}, nil},
			{"tcp.connection.rtt", 0.03, 15, pcommon.TraceID{}, nil},
		},
	}}
}

func troubled() []process {
	all := healthy()
	nginx, curl := &all[0], &all[1]
	nginx.counters[2].value = 3  // reset_sent
	nginx.counters[5].value = 7  // retransmits
	nginx.durations[1].count = 3 // connection_reset
	nginx.active = 7             // which are not open any more
	curl.counters[2].value = 4   // connection_refused
	curl.counters[3].value = 1   // timed_out
	return all
}

func nothing() []process {
	all := healthy()
	for i := range all {
		all[i].active = 0
		for j := range all[i].counters {
			all[i].counters[j].value = 0
		}
		for j := range all[i].durations {
			all[i].durations[j].count = 0
		}
	}
	return all
}

// metricsOf writes down what connspan would: a Resource for each process, cumulative sums and histograms.
func metricsOf(processes []process, began time.Time) pmetric.Metrics {
	all := pmetric.NewMetrics()
	from, now := pcommon.NewTimestampFromTime(began), pcommon.NewTimestampFromTime(time.Now())
	for _, p := range processes {
		rm := all.ResourceMetrics().AppendEmpty()
		resource := rm.Resource().Attributes()
		resource.PutStr("service.name", p.service)
		resource.PutStr("service.instance.id", p.instance)
		resource.PutInt("process.pid", p.pid)
		resource.PutStr("process.executable.name", p.service)
		resource.PutStr("host.name", "host")
		metrics := rm.ScopeMetrics().AppendEmpty().Metrics()
		sum := func(name, unit string, monotonic bool, value int64, attributes []string) {
			metric := metrics.AppendEmpty()
			metric.SetName(name)
			metric.SetUnit(unit)
			metric.SetEmptySum().SetIsMonotonic(monotonic)
			metric.Sum().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			point := metric.Sum().DataPoints().AppendEmpty()
			point.SetStartTimestamp(from)
			point.SetTimestamp(now)
			point.SetIntValue(value)
			p.put(point.Attributes(), attributes)
		}
		sum("tcp.connection.active", connections, false, p.active, nil)
		for _, c := range p.counters {
			sum(c.metric, c.unit, true, c.value, c.attributes)
		}
		for _, d := range p.durations {
			metric := metrics.AppendEmpty()
			metric.SetName(d.metric)
			metric.SetUnit("s")
			metric.SetEmptyHistogram().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			point := metric.Histogram().DataPoints().AppendEmpty()
			point.SetStartTimestamp(from)
			point.SetTimestamp(now)
			d.fill(point, now)
			p.put(point.Attributes(), d.attributes)
		}
	}
	return all
}

func (p *process) put(m pcommon.Map, pairs []string) {
	m.PutStr("network.tcp.handshake.role", p.role)
	m.PutStr("network.type", "ipv4")
	m.PutInt("server.port", p.port)
	m.PutStr("process.executable.name", p.service)
	for i := 0; i < len(pairs); i += 2 {
		m.PutStr(pairs[i], pairs[i+1])
	}
}

func (d *duration) fill(point pmetric.HistogramDataPoint, now pcommon.Timestamp) {
	counts := make([]uint64, len(bounds)+1)
	bucket, _ := slices.BinarySearch(bounds, d.seconds)
	counts[bucket] = d.count
	point.ExplicitBounds().FromRaw(bounds)
	point.BucketCounts().FromRaw(counts)
	point.SetCount(d.count)
	point.SetSum(d.seconds * float64(d.count))
	if d.count > 0 && !d.trace.IsEmpty() {
		exemplar := point.Exemplars().AppendEmpty()
		exemplar.SetDoubleValue(d.seconds)
		exemplar.SetTimestamp(now)
		exemplar.SetTraceID(d.trace)
		exemplar.SetSpanID(pcommon.SpanID{1})
	}
}

// send gives the metrics to the Collector.
func send(t *testing.T, metrics pmetric.Metrics) {
	t.Helper()
	connection, err := grpc.NewClient(loopback+":4317", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	if _, err := pmetricotlp.NewGRPCClient(connection).Export(t.Context(), pmetricotlp.NewExportRequestFromMetrics(metrics)); err != nil {
		t.Fatal(err)
	}
}

// totals are values that have to come out of panels of the overview exactly, once healthy has become troubled. The name
// of a value is the query's, and its labels.
var totals = map[string]map[string]float64{
	"Open":                 {"A{}": 12},
	"Opened":               {"A{}": 60},
	"Failed":               {"A{}": 5},
	"Attempts that failed": {"A{}": 5. / 25},
	"Payload":              {`A{network_io_direction="transmit"}`: 402_000, `A{network_io_direction="receive"}`: 108_000},
	"Segments sent again":  {"A{}": 7},
	"Open, by service":     {`A{job="nginx"}`: 7, `A{job="curl"}`: 5},
	"Failed to open, by error": {
		`A{error_type="connection_refused"}`: 4, `A{error_type="timed_out"}`: 1,
	},
	"Ended in disorder, by error": {`A{error_type="connection_reset"}`: 3},
	"Closed, by reason and by who began": {
		`A{tcp_connection_close_initiator="peer", tcp_connection_close_reason="fin"}`:         30,
		`A{tcp_connection_close_initiator="local", tcp_connection_close_reason="fin"}`:        15,
		`A{tcp_connection_close_initiator="local", tcp_connection_close_reason="reset_sent"}`: 3,
	},
	"Where to, that failed": {
		`A{error_type="connection_refused", job="curl", server_port="443"}`: 4,
		`A{error_type="timed_out", job="curl", server_port="443"}`:          1,
	},
	"Top services": {
		`A{job="nginx"}`: 40, `A{job="curl"}`: 20, `B{job="curl"}`: 5, `C{job="nginx"}`: 7, `C{job="curl"}`: 5,
		`D{job="nginx"}`: 400_000, `D{job="curl"}`: 2_000, `E{job="nginx"}`: 8_000, `E{job="curl"}`: 100_000, `F{job="nginx"}`: 7,
	},
	"Payload per second":                         {`A{network_io_direction="transmit"}`: 402_000. / 300, `A{network_io_direction="receive"}`: 108_000. / 300},
	"Segments sent again per second, by service": {`A{job="nginx"}`: 7. / 300},
	"Opened, closed and failed per second":       {"A{}": 60. / 300, "B{}": 48. / 300, "C{}": 5. / 300},
	"Handshake, quantiles":                       {"A{}": 0.015, "B{}": 0.0195, "C{}": 0.0199},
	"Round trip, quantiles":                      {"A{}": 0.035, "B{}": 0.0485, "C{}": 0.0497},
}

// TestOverview: each panel shows something of metrics as connspan sends them, after a way through the Collector and
// Prometheus; what is marked as good when it is zero shows zero while nothing goes wrong, and the known totals come out
// exactly when something does.
func TestOverview(t *testing.T) {
	startCollector(t)
	p := startPrometheus(t)
	board := dashboards(t)["connspan-overview"]
	began := time.Now()

	send(t, metricsOf(nothing(), began))
	p.awaitValue("sum(tcp_connection_active)", 0)
	send(t, metricsOf(healthy(), began))
	checkBoard(t, p, board, p.awaitValue("sum(tcp_connection_active)", 15), true)

	send(t, metricsOf(troubled(), began))
	at := p.awaitValue("sum(tcp_connection_active)", 12)
	checkBoard(t, p, board, at, false)
	for _, panel := range board.Panels {
		want, known := totals[panel.Title]
		if !known {
			continue
		}
		got := p.show(&panel, board.Templating.List, at)
		maps.DeleteFunc(got, func(_ string, v float64) bool { return v == 0 })
		if d := cmp.Diff(want, got, cmpopts.EquateApprox(1e-9, 0)); d != "" {
			t.Errorf("%s:\n%s", panel.Title, d)
		}
	}
	checkHeat(t, p, board, at)
	checkExemplars(t, p, board)
	checkVariables(t, p, board, map[string][]string{"service": {"curl", "nginx"}, "role": {"client", "server"}, "port": {"443"}})
	checkTraceLinks(t, p, at)
}

// checkBoard: every query of Prometheus shows values. While all is well, those of panels that say so show nothing or 0.
func checkBoard(t *testing.T, p *prometheus, board *dashboard, at time.Time, well bool) {
	t.Helper()
	for _, panel := range board.Panels {
		if panel.Datasource.Type != "prometheus" {
			continue
		}
		zero := well && panel.zeroIsGood()
		values := p.show(&panel, board.Templating.List, at)
		shown := make(map[string]bool)
		for labels, v := range values {
			shown[labels[:1]] = true
			if math.IsNaN(v) || zero && v != 0 {
				t.Errorf("%s shows %v for %s", panel.Title, v, labels)
			}
		}
		for _, q := range panel.Targets {
			if !shown[q.RefID] && !zero {
				t.Errorf("%s: query %s shows nothing", panel.Title, q.RefID)
			}
		}
	}
}

// checkHeat: the cells of the heat maps that are not empty are those of the durations that were sent.
func checkHeat(t *testing.T, p *prometheus, board *dashboard, at time.Time) {
	t.Helper()
	for title, want := range map[string]map[string]float64{
		"Duration":  {"0.5": 45, "5": 3},
		"Handshake": {"0.02": 60},
	} {
		i := slices.IndexFunc(board.Panels, func(p panel) bool { return p.Title == title })
		values := p.show(&board.Panels[i], board.Templating.List, at)
		got := make(map[string]float64)
		below := 0.0
		for _, bound := range []string{"0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1", "2", "5", "10", "30", "60", "120", "300", "+Inf"} {
			total, ok := values[`A{le="`+bound+`"}`]
			if !ok {
				total = values[`A{le="`+bound+`.0"}`] // of Prometheus 3
			}
			if total != below {
				got[bound] = total - below
			}
			below = total
		}
		if d := cmp.Diff(want, got, cmpopts.EquateApprox(1e-9, 0)); d != "" {
			t.Errorf("%s:\n%s", title, d)
		}
	}
}

// checkExemplars: the points on a heat map name the trace, by the label that the data source knows.
func checkExemplars(t *testing.T, p *prometheus, board *dashboard) {
	t.Helper()
	for _, panel := range board.Panels {
		if panel.Title != "Duration" {
			continue
		}
		found, err := p.api.QueryExemplars(t.Context(), substitute(panel.Targets[0].Expr, board.Templating.List), time.Now().Add(-time.Minute), time.Now().Add(time.Minute))
		if err != nil || len(found) == 0 || !panel.Targets[0].Exemplar {
			t.Fatalf("%d exemplars, %v", len(found), err)
		}
		if got := string(found[0].Exemplars[0].Labels["trace_id"]); got != trace.String() {
			t.Errorf("the exemplar's trace_id is %q, want %v", got, trace)
		}
	}
}

// checkVariables: what there is to choose from.
func checkVariables(t *testing.T, p *prometheus, board *dashboard, want map[string][]string) {
	t.Helper()
	for _, v := range board.Templating.List {
		metric, label, _ := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(v.Definition, "label_values("), ")"), ", ")
		got, _, _, err := p.api.LabelValues(t.Context(), label, []string{metric}, time.Now().Add(-time.Hour), time.Now().Add(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, value := range got {
			names = append(names, string(model.LabelValue(value)))
		}
		if d := cmp.Diff(want[v.Name], names); d != "" {
			t.Errorf("variable %s:\n%s", v.Name, d)
		}
	}
}

// checkTraceLinks: the queries that lead from a span to metrics.
func checkTraceLinks(t *testing.T, p *prometheus, at time.Time) {
	t.Helper()
	var all datasources
	readYAML(t, datasourcesFile, &all)
	for _, d := range all.Datasources {
		for _, q := range d.JSONData.TracesToMetrics.Queries {
			values, err := p.query(strings.ReplaceAll(q.Query, "$$__tags", `job="curl"`), at)
			if err != nil || len(values) == 0 {
				t.Errorf("%s: %v, %v", q.Name, values, err)
			}
		}
	}
}
