package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip" // what the Collector compresses with
	"google.golang.org/grpc/status"
)

// otelcol builds the real Collector, once, and gives its path.
var otelcol = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("CONNSPAN_TEST_COLLECTOR"); path != "" {
		return path, nil
	}
	out, err := exec.Command("otelcol-config/build.sh").Output()
	if err != nil {
		return "", fmt.Errorf("building the Collector: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
})

func mustOtelcol(t *testing.T) string {
	t.Helper()
	path, err := otelcol()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// configuration is a Collector's, as far as it is the same for all components.
type configuration struct {
	Receivers  map[string]map[string]any `yaml:"receivers"`
	Processors map[string]map[string]any `yaml:"processors,omitempty"`
	Connectors map[string]map[string]any `yaml:"connectors,omitempty"`
	Exporters  map[string]map[string]any `yaml:"exporters"`
	Extensions map[string]map[string]any `yaml:"extensions,omitempty"`
	Service    struct {
		Extensions []string             `yaml:"extensions,omitempty"`
		Telemetry  map[string]any       `yaml:"telemetry,omitempty"`
		Pipelines  map[string]*pipeline `yaml:"pipelines"`
	} `yaml:"service"`
}

type pipeline struct {
	Receivers  []string `yaml:"receivers"`
	Processors []string `yaml:"processors,omitempty"`
	Exporters  []string `yaml:"exporters"`
}

// defined gives the components of the configuration by kind, as `otelcol components` names the kinds.
func (c *configuration) defined() map[string]map[string]map[string]any {
	return map[string]map[string]map[string]any{
		"receivers": c.Receivers, "processors": c.Processors, "connectors": c.Connectors,
		"exporters": c.Exporters, "extensions": c.Extensions,
	}
}

// lacking has the components that the test Collector is built without, and the keys that each has at
// its top level, as its published schema has them.
var lacking = map[string][]string{
	"connectors/service_graph": {
		"cache_loop", "database_name_attributes", "dimensions", "exponential_histogram_max_size", "latency_histogram_buckets",
		"metrics_flush_interval", "metrics_timestamp_offset", "store", "store_expiration_loop",
		"virtual_node_extra_label", "virtual_node_peer_attributes",
	},
	"exporters/load_balancing": {"protocol", "resolver", "retry_on_failure", "routing_attributes", "routing_key", "sending_queue", "timeout"},
	"processors/k8s_attributes": {
		"auth_type", "context", "exclude", "extract", "filter", "passthrough", "pod_association",
		"wait_for_metadata", "wait_for_metadata_timeout",
	},
	"processors/resource_detection": {"detectors", "fail_on_missing_metadata", "override", "refresh_interval", "retry", "timeout"},
	"receivers/connspan":            {"filter", "logs", "metrics", "queue_size", "resource", "traces", "tracer"},
}

// TestCollectorConfigurations: the real Collector accepts each configuration that users are given, as
// it stands; where it lacks a component, all but that one. What a file says of its environment is so.
func TestCollectorConfigurations(t *testing.T) {
	has := components(t)
	err := filepath.WalkDir("otelcol-config", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".yaml" {
			return err
		}
		t.Run(strings.TrimPrefix(path, "otelcol-config/"), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if manifest := (map[string]any{}); yaml.Unmarshal(text, manifest) == nil && manifest["dist"] != nil {
				checkManifest(t, manifest)
				return
			}
			checkConfiguration(t, path, text, has)
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// components tells what the Collector is made of: the names of the components by kind.
func components(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.Command(mustOtelcol(t), "components").Output()
	if err != nil {
		t.Fatal(err)
	}
	var parts struct {
		Receivers, Processors, Connectors, Exporters, Extensions []struct{ Name string }
	}
	if err := yaml.Unmarshal(out, &parts); err != nil {
		t.Fatalf("what the Collector is made of: %v", err)
	}
	has := map[string][]string{}
	for kind, list := range map[string][]struct{ Name string }{
		"receivers": parts.Receivers, "processors": parts.Processors, "connectors": parts.Connectors,
		"exporters": parts.Exporters, "extensions": parts.Extensions,
	} {
		for _, component := range list {
			has[kind] = append(has[kind], component.Name)
		}
	}
	return has
}

// checkManifest: each component has a module and its version.
func checkManifest(t *testing.T, manifest map[string]any) {
	t.Helper()
	for _, kind := range []string{"receivers", "exporters", "providers"} {
		list, _ := manifest[kind].([]any)
		if len(list) == 0 {
			t.Errorf("no %s", kind)
		}
		for _, entry := range list {
			component, _ := entry.(map[string]any)
			module, _ := component["gomod"].(string)
			if !regexp.MustCompile(`^\S+ v\d+\.\d+\.\d+$`).MatchString(module) {
				t.Errorf("%s: %v, want a module and a version", kind, entry)
			}
		}
	}
}

func checkConfiguration(t *testing.T, path string, text []byte, has map[string][]string) {
	t.Helper()
	var c configuration
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&c); err != nil {
		t.Fatal(err)
	}
	checkEnvironment(t, string(text))
	checkReferences(t, &c)
	if absent := checkAbsent(t, &c, has); len(absent) > 0 {
		t.Logf("not in the test Collector, and checked by their keys alone: %s; the rest is validated without", strings.Join(absent, ", "))
		c.cut(absent)
		path = writeWithout(t, &c)
	}
	cmd := exec.Command(mustOtelcol(t), "validate", "--config", path)
	cmd.Dir = "." // of the repository, as in the comments and the README
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("the Collector refuses it: %v\n%s", err, out)
	}
}

var (
	documented = regexp.MustCompile(`(?m)^#   ([A-Z][A-Z0-9_]+) +\S.*$`)
	expanded   = regexp.MustCompile(`\$\{env:([A-Z][A-Z0-9_]+):-(.*)\}`)
	named      = regexp.MustCompile(`node_from_env_var: (\S+)`)
)

// checkEnvironment: the comment on top tells each variable that is used, and its default, and no other.
func checkEnvironment(t *testing.T, text string) {
	t.Helper()
	said, used := map[string]string{}, map[string]bool{}
	for _, m := range documented.FindAllStringSubmatch(text, -1) {
		said[m[1]] = m[0]
	}
	for _, m := range expanded.FindAllStringSubmatch(text, -1) {
		used[m[1]] = true
		if !strings.Contains(said[m[1]], m[2]) {
			t.Errorf("%s is %q by default; the comment says %q", m[1], m[2], said[m[1]])
		}
	}
	for _, m := range named.FindAllStringSubmatch(text, -1) {
		used[m[1]] = true
	}
	if d := cmp.Diff(slices.Sorted(maps.Keys(used)), slices.Sorted(maps.Keys(said))); d != "" {
		t.Errorf("variables used (-) and documented (+):\n%s", d)
	}
}

// checkReferences: what the pipelines name is defined, and what is defined they name.
func checkReferences(t *testing.T, c *configuration) {
	t.Helper()
	named := map[string]map[string]bool{"receivers": {}, "processors": {}, "exporters": {}, "extensions": {}}
	for _, p := range c.Service.Pipelines {
		mark(named["receivers"], p.Receivers)
		mark(named["processors"], p.Processors)
		mark(named["exporters"], p.Exporters)
	}
	mark(named["extensions"], c.Service.Extensions)
	for kind, names := range named {
		defined := slices.Collect(maps.Keys(c.defined()[kind]))
		if kind == "receivers" || kind == "exporters" { // a connector is both
			defined = slices.AppendSeq(defined, maps.Keys(c.Connectors))
		}
		slices.Sort(defined)
		if d := cmp.Diff(defined, slices.Sorted(maps.Keys(names)), emptyIsNil); d != "" {
			t.Errorf("%s defined (-) and named by the service (+):\n%s", kind, d)
		}
	}
	for name, exporter := range c.Exporters {
		queue, _ := exporter["sending_queue"].(map[string]any)
		if storage, ok := queue["storage"].(string); ok && !slices.Contains(c.Service.Extensions, storage) {
			t.Errorf("%s stores its queue in %s, which the service does not start", name, storage)
		}
	}
}

var emptyIsNil = cmp.Transformer("emptyIsNil", func(s []string) string { return strings.Join(s, "\n") })

func mark(set map[string]bool, names []string) {
	for _, name := range names {
		set[name] = true
	}
}

// checkAbsent gives the components that the Collector lacks, and checks their keys.
func checkAbsent(t *testing.T, c *configuration, has map[string][]string) (absent []string) {
	t.Helper()
	for kind, list := range c.defined() {
		for name, keys := range list {
			typ, _, _ := strings.Cut(name, "/")
			if slices.Contains(has[kind], typ) {
				continue
			}
			absent = append(absent, name)
			known, ok := lacking[kind+"/"+typ]
			if !ok {
				t.Errorf("%s: %s is neither in the Collector nor known to be lacking", kind, typ)
			}
			for key := range keys {
				if !slices.Contains(known, key) {
					t.Errorf("%s: no key %q, want one of %q", name, key, known)
				}
			}
		}
	}
	slices.Sort(absent)
	return absent
}

// cut takes components out. A pipeline left without a receiver or an exporter gets another one.
func (c *configuration) cut(absent []string) {
	gone := func(name string) bool { return slices.Contains(absent, name) }
	for _, list := range c.defined() {
		maps.DeleteFunc(list, func(name string, _ map[string]any) bool { return gone(name) })
	}
	for _, p := range c.Service.Pipelines {
		p.Processors = slices.DeleteFunc(p.Processors, gone)
		if p.Receivers = slices.DeleteFunc(p.Receivers, gone); len(p.Receivers) == 0 {
			p.Receivers = []string{"otlp/instead"}
			c.Receivers["otlp/instead"] = map[string]any{"protocols": map[string]any{"grpc": nil}}
		}
		if p.Exporters = slices.DeleteFunc(p.Exporters, gone); len(p.Exporters) == 0 {
			p.Exporters = []string{"debug/instead"}
			c.Exporters["debug/instead"] = nil
		}
	}
}

func writeWithout(t *testing.T, c *configuration) string {
	t.Helper()
	b, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "without.yaml")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// backend takes OTLP over gRPC and over HTTP and keeps it, or says that it can't now.
type backend struct {
	grpc, http string // addresses
	away       atomic.Bool

	mu      sync.Mutex
	logs    plog.Logs
	metrics pmetric.Metrics
	traces  ptrace.Traces
}

func startBackend(t *testing.T) *backend {
	t.Helper()
	b := &backend{logs: plog.NewLogs(), metrics: pmetric.NewMetrics(), traces: ptrace.NewTraces()}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	plogotlp.RegisterGRPCServer(server, &logsServer{backend: b})
	pmetricotlp.RegisterGRPCServer(server, &metricsServer{backend: b})
	ptraceotlp.RegisterGRPCServer(server, &tracesServer{backend: b})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	web := httptest.NewServer(b)
	t.Cleanup(web.Close)
	b.grpc, b.http = listener.Addr().String(), web.URL
	return b
}

// keep appends a request to what came before, unless the backend is away.
func (b *backend) keep(request func()) error {
	if b.away.Load() {
		return status.Error(codes.Unavailable, "away")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	request()
	return nil
}

func (b *backend) keepLogs(r plogotlp.ExportRequest) error {
	return b.keep(func() { r.Logs().ResourceLogs().MoveAndAppendTo(b.logs.ResourceLogs()) })
}

func (b *backend) keepMetrics(r pmetricotlp.ExportRequest) error {
	return b.keep(func() { r.Metrics().ResourceMetrics().MoveAndAppendTo(b.metrics.ResourceMetrics()) })
}

func (b *backend) keepTraces(r ptraceotlp.ExportRequest) error {
	return b.keep(func() { r.Traces().ResourceSpans().MoveAndAppendTo(b.traces.ResourceSpans()) })
}

type logsServer struct {
	plogotlp.UnimplementedGRPCServer
	*backend
}

func (s *logsServer) Export(_ context.Context, r plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	return plogotlp.NewExportResponse(), s.keepLogs(r)
}

type metricsServer struct {
	pmetricotlp.UnimplementedGRPCServer
	*backend
}

func (s *metricsServer) Export(_ context.Context, r pmetricotlp.ExportRequest) (pmetricotlp.ExportResponse, error) {
	return pmetricotlp.NewExportResponse(), s.keepMetrics(r)
}

type tracesServer struct {
	ptraceotlp.UnimplementedGRPCServer
	*backend
}

func (s *tracesServer) Export(_ context.Context, r ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	return ptraceotlp.NewExportResponse(), s.keepTraces(r)
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	err := b.serve(r)
	switch {
	case status.Code(err) == codes.Unavailable:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

func (b *backend) serve(r *http.Request) error {
	unzipped, err := gzip.NewReader(r.Body)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(unzipped)
	if err != nil {
		return err
	}
	logs, metrics := plogotlp.NewExportRequest(), pmetricotlp.NewExportRequest()
	switch r.URL.Path {
	case "/otlp/v1/logs": // Loki
		if err := logs.UnmarshalProto(body); err != nil {
			return err
		}
		return b.keepLogs(logs)
	case "/api/v1/otlp/v1/metrics": // Prometheus
		if err := metrics.UnmarshalProto(body); err != nil {
			return err
		}
		return b.keepMetrics(metrics)
	}
	return fmt.Errorf("no OTLP at %s", r.URL.Path)
}

// holds gives what has arrived, as lines in the order of arrival.
func (b *backend) holds() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return lines(b.logs, b.metrics, b.traces)
}

func (b *backend) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.logs.LogRecordCount() + b.metrics.MetricCount() + b.traces.SpanCount()
}

// await waits until all of it has arrived, in order and once.
func (b *backend) await(t *testing.T, want []string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); b.count() < len(want) && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	if d := cmp.Diff(want, b.holds()); d != "" {
		t.Fatalf("%d lines arrived, want %d (-want +got):\n%.2000s", b.count(), len(want), d)
	}
}

// lines tells all log records, metrics and spans, each with the process it is about.
func lines(ld plog.Logs, md pmetric.Metrics, td ptrace.Traces) (all []string) {
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				all = append(all, fmt.Sprintln(rl.Resource().Attributes().AsRaw(), lr.EventName(), lr.Body().Str(), lr.TraceID(), lr.SpanID(), lr.Attributes().AsRaw()))
			}
		}
	}
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				all = append(all, fmt.Sprintln(rm.Resource().Attributes().AsRaw(), m.Name(), m.Unit(), m.Type()))
			}
		}
	}
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				all = append(all, fmt.Sprintln(rs.Resource().Attributes().AsRaw(), s.Name(), s.Kind(), s.TraceID(), s.SpanID(), s.ParentSpanID(), s.Attributes().AsRaw()))
			}
		}
	}
	return all
}

// connections is what connspan tells of n connections, numbered from first, from two processes of one
// program, and of as many to another program: for each an event and a span, and metrics for each process.
func connections(first, n int) (plog.Logs, pmetric.Metrics, ptrace.Traces) {
	ld, md, td := plog.NewLogs(), pmetric.NewMetrics(), ptrace.NewTraces()
	for pid := range 3 {
		service, kind, name := "curl", ptrace.SpanKindClient, "TCP connect"
		if pid == 2 {
			service, kind, name = "postgres", ptrace.SpanKindServer, "TCP accept"
		}
		describe := func(r pcommon.Resource) {
			r.Attributes().PutStr("service.name", service)
			r.Attributes().PutStr("host.name", "node")
			r.Attributes().PutInt("process.pid", int64(pid))
		}
		rl, rm, rs := ld.ResourceLogs().AppendEmpty(), md.ResourceMetrics().AppendEmpty(), td.ResourceSpans().AppendEmpty()
		describe(rl.Resource())
		describe(rm.Resource())
		describe(rs.Resource())
		records, spans := rl.ScopeLogs().AppendEmpty().LogRecords(), rs.ScopeSpans().AppendEmpty().Spans()
		for i := first; i < first+n; i++ {
			trace := pcommon.TraceID{byte(pid % 2), byte(i >> 8), byte(i), 1}
			addRecord(records.AppendEmpty(), trace, fmt.Sprintf("tcp.connection.close %s[%d] %d", service, pid, i))
			addSpan(spans.AppendEmpty(), trace, kind, name)
		}
		addMetrics(rm.ScopeMetrics().AppendEmpty().Metrics())
	}
	return ld, md, td
}

func addRecord(lr plog.LogRecord, trace pcommon.TraceID, body string) {
	lr.SetEventName("tcp.connection.close")
	lr.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
	lr.Body().SetStr(body)
	lr.SetTraceID(trace)
	lr.Attributes().PutInt("tcp.connection.bytes_sent", 120)
}

func addSpan(s ptrace.Span, trace pcommon.TraceID, kind ptrace.SpanKind, name string) {
	now := time.Now()
	s.SetName(name)
	s.SetKind(kind)
	s.SetTraceID(trace)
	s.SetSpanID(pcommon.SpanID{1})
	if kind == ptrace.SpanKindServer {
		s.SetSpanID(pcommon.SpanID{2})
		s.SetParentSpanID(pcommon.SpanID{1})
	}
	s.SetStartTimestamp(pcommon.NewTimestampFromTime(now.Add(-1500 * time.Millisecond)))
	s.SetEndTimestamp(pcommon.NewTimestampFromTime(now))
	s.Attributes().PutInt("server.port", 5432)
}

func addMetrics(metrics pmetric.MetricSlice) {
	now := pcommon.NewTimestampFromTime(time.Now())
	duration := metrics.AppendEmpty()
	duration.SetName("tcp.connection.duration")
	duration.SetUnit("s")
	histogram := duration.SetEmptyHistogram()
	histogram.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	point := histogram.DataPoints().AppendEmpty()
	point.SetTimestamp(now)
	point.ExplicitBounds().FromRaw([]float64{1})
	point.BucketCounts().FromRaw([]uint64{0, 1})
	point.SetCount(1)
	active := metrics.AppendEmpty()
	active.SetName("tcp.connection.active")
	active.SetUnit("{connection}")
	sum := active.SetEmptySum()
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	sum.DataPoints().AppendEmpty().SetTimestamp(now)
}

// gateway is a Collector that runs one of the configurations.
type gateway struct {
	*program
	t                 *testing.T
	health, telemetry string // URLs
	conn              *grpc.ClientConn
}

func startGateway(t *testing.T, file, storage string, env ...string) *gateway {
	t.Helper()
	health, telemetry := freePort(t), freePort(t)
	env = append([]string{
		"CONNSPAN_OTLP_GRPC=127.0.0.1:0", "CONNSPAN_OTLP_HTTP=127.0.0.1:0", "CONNSPAN_INSECURE=true",
		"CONNSPAN_STORAGE=" + storage, "CONNSPAN_HEALTH=127.0.0.1:" + health, "CONNSPAN_TELEMETRY_PORT=" + telemetry,
	}, env...)
	g := &gateway{
		program: start(t, env, mustOtelcol(t), "--config", "otelcol-config/"+file), t: t,
		health: "http://127.0.0.1:" + health, telemetry: "http://127.0.0.1:" + telemetry + "/metrics",
	}
	g.await("Everything is ready")
	return g
}

// dial connects to the Collector's OTLP over gRPC.
func (g *gateway) dial() {
	g.t.Helper()
	endpoint := g.await(`Starting GRPC server.*"endpoint": "([^"]+)"`)[1]
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.Close() })
	g.conn = conn
}

func (g *gateway) sendLogs(ld plog.Logs) error {
	_, err := plogotlp.NewGRPCClient(g.conn).Export(g.t.Context(), plogotlp.NewExportRequestFromLogs(ld))
	return err
}

func (g *gateway) sendMetrics(md pmetric.Metrics) error {
	_, err := pmetricotlp.NewGRPCClient(g.conn).Export(g.t.Context(), pmetricotlp.NewExportRequestFromMetrics(md))
	return err
}

func (g *gateway) sendTraces(td ptrace.Traces) error {
	_, err := ptraceotlp.NewGRPCClient(g.conn).Export(g.t.Context(), ptraceotlp.NewExportRequestFromTraces(td))
	return err
}

// send sends all three signals and wants them accepted.
func (g *gateway) send(ld plog.Logs, md pmetric.Metrics, td ptrace.Traces) {
	g.t.Helper()
	for _, err := range []error{g.sendLogs(ld), g.sendMetrics(md), g.sendTraces(td)} {
		if err != nil {
			g.t.Fatal(err)
		}
	}
}

// checkSelf: the Collector says that it is well and how much it took.
func (g *gateway) checkSelf(counter string) {
	g.t.Helper()
	get(g.t, g.health)
	if metrics := get(g.t, g.telemetry); !strings.Contains(metrics, counter) {
		g.t.Errorf("the Collector's own metrics have no %s:\n%s", counter, metrics)
	}
}

func freePort(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
}

func get(t testing.TB, url string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v:\n%s", url, response.Status, err, body)
	}
	return string(body)
}

// TestCollectorForwards: what goes into a Collector comes out of it, all and in order.
func TestCollectorForwards(t *testing.T) {
	for file, env := range map[string]func(*backend) []string{
		"agent.yaml":   func(b *backend) []string { return []string{"CONNSPAN_GATEWAY=" + b.grpc} },
		"gateway.yaml": func(b *backend) []string { return []string{"CONNSPAN_BACKEND=" + b.grpc} },
		"spanmetrics.yaml": func(b *backend) []string {
			return []string{"CONNSPAN_BACKEND=" + b.grpc, "CONNSPAN_SCRAPE=127.0.0.1:0"}
		},
		"grafana.yaml": func(b *backend) []string {
			return []string{"CONNSPAN_LOKI=" + b.http + "/otlp", "CONNSPAN_PROMETHEUS=" + b.http + "/api/v1/otlp", "CONNSPAN_TEMPO=" + b.grpc}
		},
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			b := startBackend(t)
			g := startGateway(t, file, t.TempDir(), env(b)...)
			g.dial()
			ld, md, td := connections(0, 500)
			want := lines(ld, md, td)
			g.send(ld, md, td)
			b.await(t, want)
			g.checkSelf("otelcol_receiver_accepted_log_records")
		})
	}
}

// TestCollectorJaeger: spans go on; the rest is refused, for whoever sent it to count.
func TestCollectorJaeger(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	g := startGateway(t, "jaeger.yaml", t.TempDir(), "CONNSPAN_JAEGER="+b.grpc)
	g.dial()
	ld, md, td := connections(0, 10)
	want := lines(plog.NewLogs(), pmetric.NewMetrics(), td)
	for _, err := range []error{g.sendLogs(ld), g.sendMetrics(md)} {
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("logs and metrics: %v, want %v", err, codes.Unimplemented)
		}
	}
	if err := g.sendTraces(td); err != nil {
		t.Fatal(err)
	}
	b.await(t, want)
	g.checkSelf("otelcol_receiver_accepted_spans")
}

// TestCollectorQueue: what was accepted while the next one is away survives kill -9, and arrives.
func TestCollectorQueue(t *testing.T) {
	for file, next := range map[string]string{"agent.yaml": "CONNSPAN_GATEWAY", "gateway.yaml": "CONNSPAN_BACKEND"} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			b, storage := startBackend(t), t.TempDir()
			b.away.Store(true)
			g := startGateway(t, file, storage, next+"="+b.grpc)
			g.dial()
			ld, md, td := connections(0, 500)
			want := lines(ld, md, td)
			g.send(ld, md, td)
			if err := g.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			<-g.gone
			startGateway(t, file, storage, next+"="+b.grpc)
			if early := b.holds(); len(early) > 0 {
				t.Fatalf("the backend was away and has %d lines", len(early))
			}
			b.away.Store(false)
			b.await(t, want)
		})
	}
}

// TestCollectorOrder: requests leave the agent's Collector in the order in which they came, also those
// that had to wait.
func TestCollectorOrder(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	g := startGateway(t, "agent.yaml", t.TempDir(), "CONNSPAN_GATEWAY="+b.grpc)
	g.dial()
	b.away.Store(true)
	var want []string
	for i := range 20 {
		ld, _, _ := connections(50*i, 50)
		want = append(want, lines(ld, pmetric.NewMetrics(), ptrace.NewTraces())...)
		if err := g.sendLogs(ld); err != nil {
			t.Fatal(err)
		}
	}
	b.away.Store(false)
	b.await(t, want)
}

// TestCollectorSpanMetrics: the spans of both ends are counted and timed, those of two processes of
// one service together.
func TestCollectorSpanMetrics(t *testing.T) {
	t.Parallel()
	b, scrape := startBackend(t), "127.0.0.1:"+freePort(t)
	g := startGateway(t, "spanmetrics.yaml", t.TempDir(), "CONNSPAN_BACKEND="+b.grpc, "CONNSPAN_SCRAPE="+scrape, "CONNSPAN_INTERVAL=1s")
	g.dial()
	g.send(connections(0, 500))
	want := []string{
		`calls_total curl SPAN_KIND_CLIENT TCP connect 5432 1000`,
		`calls_total postgres SPAN_KIND_SERVER TCP accept 5432 500`,
		`duration_seconds_bucket 1.0 curl SPAN_KIND_CLIENT TCP connect 5432 0`,
		`duration_seconds_bucket 1.0 postgres SPAN_KIND_SERVER TCP accept 5432 0`,
		`duration_seconds_bucket 2.0 curl SPAN_KIND_CLIENT TCP connect 5432 1000`,
		`duration_seconds_bucket 2.0 postgres SPAN_KIND_SERVER TCP accept 5432 500`,
		`duration_seconds_count curl SPAN_KIND_CLIENT TCP connect 5432 1000`,
		`duration_seconds_count postgres SPAN_KIND_SERVER TCP accept 5432 500`,
	}
	var got []string
	for deadline := time.Now().Add(30 * time.Second); !slices.Equal(got, want) && time.Now().Before(deadline); {
		time.Sleep(200 * time.Millisecond)
		got = spanSeries(get(t, "http://"+scrape+"/metrics"))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("series (-want +got):\n%s", d)
	}
}

var (
	series = regexp.MustCompile(`(?m)^traces_span_metrics_(calls_total|duration_seconds_count|duration_seconds_bucket)\{(.*?)\} (\S+)`)
	label  = regexp.MustCompile(`(\w+)="([^"]*)"`)
)

// spanSeries gives the series of the spans with what they are to be told apart by, sorted.
func spanSeries(exposition string) (all []string) {
	for _, m := range series.FindAllStringSubmatch(exposition, -1) {
		labels := map[string]string{}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			labels[l[1]] = l[2]
		}
		words := []string{m[1]}
		if le, ok := labels["le"]; ok {
			if le != "1.0" && le != "2.0" && le != "1" && le != "2" {
				continue
			}
			words = append(words, strings.TrimSuffix(le, ".0")+".0")
		}
		words = append(words, labels["service_name"], labels["span_kind"], labels["span_name"], labels["server_port"], strings.TrimSuffix(m[3], ".0"))
		all = append(all, strings.Join(words, " "))
	}
	slices.Sort(all)
	return all
}

// TestCollectorFile: each request is a line of the file.
func TestCollectorFile(t *testing.T) {
	t.Parallel()
	file := path.Join(t.TempDir(), "otlp.jsonl")
	g := startGateway(t, "debug-file.yaml", t.TempDir(), "CONNSPAN_FILE="+file)
	g.dial()
	g.send(connections(0, 10))
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"resourceLogs", "resourceMetrics", "resourceSpans"} {
		if n := bytes.Count(text, []byte(`{"`+kind+`":`)); n != 1 {
			t.Errorf("%d lines of %s, want 1:\n%.1000s", n, kind, text)
		}
	}
}

// TestCollectorKafka: both sides start while no broker is there, and the node's takes what comes.
func TestCollectorKafka(t *testing.T) {
	nobody := "CONNSPAN_KAFKA=[127.0.0.1:1]"
	t.Run("node", func(t *testing.T) {
		t.Parallel()
		g := startGateway(t, "kafka-node.yaml", t.TempDir(), nobody)
		g.dial()
		g.send(connections(0, 10))
		g.checkSelf("otelcol_exporter_queue_size")
	})
	t.Run("gateway", func(t *testing.T) {
		t.Parallel()
		g := startGateway(t, "kafka-gateway.yaml", t.TempDir(), nobody, "CONNSPAN_KAFKA_INSECURE=true", "CONNSPAN_BACKEND=127.0.0.1:1")
		g.checkSelf("otelcol_process_uptime")
	})
}
