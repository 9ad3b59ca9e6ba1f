package telemetry

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer"
	collector "go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/connspan/connspan/exporter"
	"github.com/connspan/connspan/exporter/otlp"
	"github.com/connspan/connspan/internal/actor"
)

var update = flag.Bool("update", false, "write the golden files")

// traced is a tracer that sends to a server, and what is told of both.
type traced struct {
	t     *testing.T
	own   *Telemetry
	mu    sync.Mutex
	block chan struct{} // while it is there and open, the reader blocks
	end   func()        // detaches the programs and reads all that they have submitted
	stop  func()
	sink  *otlpServer
}

func startTraced(t *testing.T, cfg exporter.Config) *traced {
	t.Helper()
	tr := &traced{t: t, own: mustStart(t, Config{Address: "127.0.0.1:0", Logs: LogsConfig{Level: "info"}})}
	tr.want(http.StatusServiceUnavailable, answer{statusStarting, []string{}})
	tr.sink = serveOTLP(t, "127.0.0.1:0")
	logs := startOTLP(t, tr.own, tr.sink.address)
	blocking, err := consumer.NewLogs(func(context.Context, plog.Logs) error {
		tr.mu.Lock()
		block := tr.block
		tr.mu.Unlock()
		if block != nil {
			<-block
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	x, err := exporter.New(cfg, exporter.Consumers{Logs: []consumer.Logs{logs, blocking}}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Observe(tr.own.MeterProvider().Meter("test")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	unwatch := tr.own.Watch(ctx, x.Stats)
	ended := make(chan error, 1)
	go func() { ended <- x.Run(ctx) }()
	tr.end = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	tr.stop = sync.OnceFunc(func() {
		tr.end()
		unwatch()
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(tr.stop)
	return tr
}

func mustStart(t *testing.T, cfg Config) *Telemetry {
	t.Helper()
	own, err := Start(cfg, "1.2.3", false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := own.Close(); err != nil {
			t.Error(err)
		}
	})
	return own
}

// otlpServer takes log records, or does not.
type otlpServer struct {
	plogotlp.UnimplementedGRPCServer
	address  string
	mu       sync.Mutex
	calls    int
	downs    int  // calls that found it down
	troubled bool // from then on: it is down for some calls, later rejects a record now and then, and a call
	taken    []plog.Logs
	tally
}

// tally is what became of log records.
type tally struct{ sent, rejected, dropped int }

func (s *otlpServer) Export(_ context.Context, request plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	response, n := plogotlp.NewExportResponse(), request.Logs().LogRecordCount()
	switch {
	case s.troubled && s.downs < 5:
		s.downs++
		return response, status.Error(codes.Unavailable, "down")
	case s.troubled && s.calls%3 == 0:
		s.dropped += n
		return response, status.Error(codes.InvalidArgument, "not these")
	case s.troubled && s.calls%3 == 1:
		s.rejected++
		s.sent += n - 1
		response.PartialSuccess().SetRejectedLogRecords(1)
	default:
		s.sent += n
		s.taken = append(s.taken, request.Logs())
	}
	return response, nil
}

func (s *otlpServer) told() tally {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tally
}

func serveOTLP(t *testing.T, address string) *otlpServer {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &otlpServer{address: listener.Addr().String()}
	server := grpc.NewServer()
	plogotlp.RegisterGRPCServer(server, s)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	return s
}

// host passes on what an exporter reports.
type host struct{ own *Telemetry }

func (host) GetExtensions() map[component.ID]component.Component { return nil }

func (h host) Report(event *componentstatus.Event) { h.own.Report("otlp (logs)", event) }

func startOTLP(t *testing.T, own *Telemetry, endpoint string) *otlp.Logs {
	t.Helper()
	cfg := otlp.NewDefaultGRPCConfig()
	cfg.ClientConfig.Endpoint = endpoint
	cfg.ClientConfig.TLS.Insecure = true
	logs, err := otlp.NewGRPCLogs(t.Context(), collector.Settings{
		ID: component.MustNewID("otlp"),
		TelemetrySettings: component.TelemetrySettings{
			Logger: zap.NewNop(), TracerProvider: tracenoop.NewTracerProvider(), MeterProvider: own.MeterProvider(),
		},
	}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := logs.Start(t.Context(), host{own}); err != nil {
		t.Fatal(err)
	}
	items := func() Items {
		stats := logs.Stats()
		return Items{Offered: stats.Offered, Refused: map[string]int64{"queue_full": stats.Refused}, Outcome: &stats}
	}
	if err := own.ObserveExporter("otlp", "logs", items); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Second)
		defer cancel()
		_ = logs.Shutdown(ctx)
	})
	return logs
}

func (tr *traced) get(path string) (status int, body []byte) {
	tr.t.Helper()
	return get(tr.t, "http://"+tr.own.Address()+path)
}

func get(t *testing.T, url string) (status int, body []byte) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err = io.ReadAll(response.Body); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, body
}

func (tr *traced) health() (status int, a answer) {
	tr.t.Helper()
	status, body := tr.get("/healthz")
	if err := json.Unmarshal(body, &a); err != nil {
		tr.t.Fatalf("%s: %v", body, err)
	}
	return status, a
}

func (tr *traced) want(status int, want answer) {
	tr.t.Helper()
	gotStatus, got := tr.health()
	if d := cmp.Diff(want, got); d != "" || gotStatus != status {
		tr.t.Errorf("status %d, want %d; (-want +got):\n%s", gotStatus, status, d)
	}
}

// eventually waits for an answer.
func (tr *traced) eventually(condition func(status int, a answer) bool) {
	tr.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		status, a := tr.health()
		if condition(status, a) {
			return
		}
		if time.Now().After(deadline) {
			tr.t.Fatalf("after 20s: %d %+v", status, a)
		}
	}
}

func tells(reason string) func(int, answer) bool {
	return func(status int, a answer) bool {
		return status == http.StatusOK && a.Status == statusDegraded &&
			slices.ContainsFunc(a.Reasons, func(r string) bool { return strings.HasPrefix(r, reason) })
	}
}

// scrape is the families of /metrics.
func (tr *traced) scrape() map[string]*dto.MetricFamily {
	tr.t.Helper()
	status, body := tr.get("/metrics")
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(body)))
	if err != nil || status != http.StatusOK {
		tr.t.Fatalf("status %d, %v:\n%s", status, err, body)
	}
	return families
}

// awaitMetric waits until it is told.
func (tr *traced) awaitMetric(name string) {
	tr.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); tr.scrape()[name] == nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			tr.t.Fatalf("no %s after 20s", name)
		}
	}
}

// sum adds up the series of connspan_NAME that have the labels.
func sum(families map[string]*dto.MetricFamily, name string, labels ...string) (n int) {
	for _, m := range families["connspan_"+name].GetMetric() {
		has := 0
		for _, l := range m.GetLabel() {
			if slices.Contains(labels, l.GetName()+"="+l.GetValue()) {
				has++
			}
		}
		if has == len(labels) {
			n += int(m.GetCounter().GetValue() + m.GetGauge().GetValue())
		}
	}
	return n
}

// residuals are how far the two sides are apart of each identity that holds in every scrape, and of each
// that holds once nothing moves.
func residuals(f map[string]*dto.MetricFamily) (always, quiet []int) {
	always = []int{
		sum(f, "event_read_total") - sum(f, "event_released_total") - sum(f, "event_pending") - sum(f, "event_malformed_total"),
		sum(f, "event_released_total") - sum(f, "connection_opened_total") - sum(f, "connection_closed_total") - sum(f, "connection_failed_total") -
			sum(f, "connection_adopted_total") - sum(f, "connection_repeated_total") - sum(f, "event_sampled_total") -
			sum(f, "event_filtered_total"),
		sum(f, "exporter_offered_total") + sum(f, "exporter_recovered_total") - sum(f, "exporter_refused_total") - sum(f, "exporter_sent_total") -
			sum(f, "exporter_rejected_total") - sum(f, "exporter_dropped_total") - sum(f, "exporter_given_up_total") - sum(f, "exporter_queued"),
	}
	quiet = []int{sum(f, "event_submitted_total") - sum(f, "event_read_total")}
	for _, m := range f["connspan_event_numbered_total"].GetMetric() {
		cpu := "cpu=" + m.GetLabel()[0].GetValue()
		quiet = append(quiet, sum(f, "event_numbered_total", cpu)-sum(f, "event_submitted_total", cpu)-
			sum(f, "event_lost_total", cpu, "cause=ring_full")-sum(f, "event_lost_total", cpu, "cause=no_ring"))
	}
	return always, quiet
}

// zero says whether both sides of each identity are the same.
func zero(residuals []int) bool {
	return !slices.ContainsFunc(residuals, func(n int) bool { return n != 0 })
}

// delivered waits until the server has answered for everything, and compares what it says with /metrics.
func (tr *traced) delivered() {
	tr.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); sum(tr.scrape(), "exporter_queued") > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			tr.t.Fatalf("%d not delivered after 20s: %+v", sum(tr.scrape(), "exporter_queued"), tr.sink.told())
		}
	}
	f := tr.scrape()
	got := tally{sum(f, "exporter_sent_total"), sum(f, "exporter_rejected_total"), sum(f, "exporter_dropped_total")}
	if d := cmp.Diff(tr.sink.told(), got, cmp.AllowUnexported(tally{})); d != "" || got.sent == 0 || got.rejected == 0 || got.dropped == 0 {
		tr.t.Errorf("got %+v, want some of each; (-server +scraped):\n%s", got, d)
	}
	if told := sum(f, "record_told_total", "otelcol_signal=logs"); told != sum(f, "exporter_offered_total") {
		tr.t.Errorf("%d records told, %d offered to the exporter", told, sum(f, "exporter_offered_total"))
	}
}

// TestIdentities: whoever scrapes can see that nothing is lost without being counted, up to what a server
// says that makes trouble.
func TestIdentities(t *testing.T) {
	tr := startTraced(t, exporter.NewDefaultConfig())
	tr.eventually(func(status int, a answer) bool { return status == http.StatusOK && a.Status == statusOK })
	tr.sink.mu.Lock()
	tr.sink.troubled = true
	tr.sink.mu.Unlock()
	crowd := actor.Start(t, "crowd", actor.Plan{Listen: "127.0.0.1:0", How: actor.ClientCloses, Connections: 1000, Workers: 4})
	for range 10 {
		if always, _ := residuals(tr.scrape()); !zero(always) {
			t.Errorf("residuals %v, want 0 in every scrape", always)
		}
	}
	crowd.Report()
	crowd.Wait()
	tr.awaitMetric("otelcol_exporter_sent_log_records_total")
	tr.eventually(tells("records given up by an exporter: "))
	tr.end()
	tr.delivered()
	families := tr.scrape()
	if always, quiet := residuals(families); !zero(always) || !zero(quiet) {
		t.Errorf("residuals %v and %v, want 0", always, quiet)
	}
	if n := sum(families, "connection_closed_total"); n < 2000 && sum(families, "event_lost_total") == 0 {
		t.Errorf("%d connections closed, want 2000 or more", n)
	}
	if len(families["connspan_event_numbered_total"].GetMetric()) == 0 {
		t.Error("no CPU is told of")
	}
	for _, name := range []string{"event_violations_total", "event_late_total", "event_malformed_total"} {
		if n := sum(families, name); n != 0 {
			t.Errorf("%s: %d, want 0", name, n)
		}
	}
	if left := sum(families, "connection_opened_total") + sum(families, "connection_adopted_total") - sum(families, "connection_open") -
		sum(families, "connection_closed_total") + sum(families, "connection_strays_total") - sum(families, "connection_synthesized_total"); left != 0 &&
		sum(families, "event_gaps_total") == 0 { // a kernel that ran no program for a state change
		t.Errorf("%d connections are neither open nor closed", left)
	}
	wantNames(t, families)
	lint(tr)
	tr.stop()
	tr.want(http.StatusServiceUnavailable, answer{statusStopping, []string{}})
	if families := tr.scrape(); families["connspan_event_read_total"] != nil || families["go_goroutines"] == nil {
		t.Error("the tracer is told of after it was closed, or nothing is")
	}
}

// wantNames compares name, type and labels of each metric with the golden file, but for those of the Go
// runtime and of the process.
func wantNames(t *testing.T, families map[string]*dto.MetricFamily) {
	t.Helper()
	var got strings.Builder
	for _, name := range slices.Sorted(maps.Keys(families)) {
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") || strings.HasPrefix(name, "promhttp_") {
			continue
		}
		var labels []string
		for _, l := range families[name].GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		fmt.Fprintf(&got, "%s{%s} %s\n", name, strings.Join(labels, ","), strings.ToLower(families[name].GetType().String()))
	}
	for _, name := range []string{"go_goroutines", "process_open_fds"} {
		if families[name] == nil {
			t.Errorf("no %s", name)
		}
	}
	const golden = "testdata/metrics.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got.String()); d != "" {
		t.Errorf("metrics (-golden +scraped); go test -update writes it anew:\n%s", d)
	}
}

// lint has promtool, where there is one, say whether the names are what Prometheus users expect.
func lint(tr *traced) {
	tr.t.Helper()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		tr.t.Log(err)
		return
	}
	_, body := tr.get("/metrics")
	cmd := exec.CommandContext(tr.t.Context(), promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(string(body))
	if out, err := cmd.CombinedOutput(); err != nil {
		tr.t.Errorf("%v: %s", err, out)
	}
}

// TestDegraded: a reader that stands still is seen, and so is what is lost meanwhile, which the
// identities account for.
func TestDegraded(t *testing.T) {
	cfg := exporter.NewDefaultConfig()
	cfg.Tracer.RingSize = exporter.Size(os.Getpagesize())
	tr := startTraced(t, cfg)
	tr.eventually(func(status int, _ answer) bool { return status == http.StatusOK }) // what else this host does may be lost
	block := make(chan struct{})
	tr.mu.Lock()
	tr.block = block
	tr.mu.Unlock()
	crowd := actor.Start(t, "crowd", actor.Plan{Listen: "127.0.0.1:0", How: actor.ClientCloses, Connections: 300, Workers: 2})
	crowd.Report()
	crowd.Wait()
	tr.eventually(tells("events lost: "))
	tr.eventually(tells("rings not read for "))
	close(block)
	tr.eventually(func(status int, a answer) bool { return !tells("rings not read for ")(status, a) })
	tr.eventually(tells("events lost: "))
	tr.end()
	families := tr.scrape()
	if always, quiet := residuals(families); !zero(always) || !zero(quiet) || sum(families, "event_lost_total", "cause=ring_full") == 0 {
		t.Errorf("residuals %v and %v, want 0; %d lost, want some", always, quiet, sum(families, "event_lost_total"))
	}
}

func TestAddressInUse(t *testing.T) {
	own := mustStart(t, Config{Address: "127.0.0.1:0"})
	_, err := Start(Config{Address: own.Address()}, "", false)
	want := "telemetry::address: listen tcp " + own.Address() + `: bind: address already in use; want one that is free, or "" for none`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestNoAddress(t *testing.T) {
	if own := mustStart(t, Config{}); own.Address() != "" {
		t.Errorf("serves at %s", own.Address())
	}
}

// TestSlowRequest: who sends no request is sent away.
func TestSlowRequest(t *testing.T) {
	own := mustStart(t, Config{Address: "127.0.0.1:0"})
	conn, err := net.Dial("tcp", own.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /metrics HTTP/1.1\r\n"); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); err != nil {
		t.Errorf("got %v, want the end of the connection", err)
	}
	for _, path := range []string{"/", "/debug/pprof/"} {
		if status, _ := get(t, "http://"+own.Address()+path); status != http.StatusNotFound {
			t.Errorf("%s: got %d, want nothing else to be there", path, status)
		}
	}
}

// TestMessages: each message arrives once, as this program's, also those from just before the end. What
// is not wanted, or not taken, is left out, and the latter counted.
func TestMessages(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
	own := mustStart(t, Config{Address: "127.0.0.1:0", Logs: LogsConfig{Level: "info"}})
	server := serveOTLP(t, "127.0.0.1:0")
	logs := startOTLP(t, own, server.address)
	handler, err := own.Handler([]consumer.Logs{logs})
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(handler)
	logger.Debug("below the level")
	logger.With("cpu", 1).Warn("lost\xff", "missing", uint64(7), "exporters", []string{"otlp", "console"}, "error", io.ErrUnexpectedEOF)
	for n := range 100 {
		logger.Info("numbered", "n", n, "half", 0.5, "even", n%2 == 0)
	}
	if err := logs.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	logger.Error("too late")

	var got []map[string]any
	for _, ld := range server.taken {
		rl := ld.ResourceLogs().At(0)
		resource := rl.Resource().Attributes().AsRaw()
		if resource["service.name"] != "connspan" || resource["service.version"] != "1.2.3" || resource["service.instance.id"] == "" ||
			resource["host.name"] == "" || resource["deployment.environment.name"] != "test" {
			t.Fatalf("resource %v", resource)
		}
		for _, lr := range rl.ScopeLogs().At(0).LogRecords().All() {
			record := lr.Attributes().AsRaw()
			record["body"], record["severity"] = lr.Body().Str(), lr.SeverityText()
			got = append(got, record)
			if lr.Timestamp() == 0 || lr.ObservedTimestamp() == 0 {
				t.Error("a record without a time")
			}
		}
	}
	want := []map[string]any{{
		"body": "lost\ufffd", "severity": "WARN", "cpu": int64(1), "missing": int64(7), "exporters": []any{"otlp", "console"},
		"exception.message": "unexpected EOF", "exception.type": "*errors.errorString",
	}}
	for n := range 100 {
		want = append(want, map[string]any{"body": "numbered", "severity": "INFO", "n": int64(n), "half": 0.5, "even": n%2 == 0})
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("records (-want +taken):\n%s", d)
	}
	if _, body := get(t, "http://"+own.Address()+"/metrics"); !strings.Contains(string(body), "\nconnspan_message_refused_total 1\n") {
		t.Error("the message that was not taken is not counted")
	}
}
