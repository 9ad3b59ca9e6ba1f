package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"google.golang.org/grpc"

	"github.com/connspan/connspan/internal/telemetry"
)

// startTelemetry gives the telemetry of a program that serves none.
func startTelemetry(t *testing.T) *telemetry.Telemetry {
	t.Helper()
	own, err := telemetry.Start(telemetry.Config{}, "", false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = own.Close() })
	return own
}

// otlpServer takes log records and keeps the bodies of those that the program tells of itself.
type otlpServer struct {
	plogotlp.UnimplementedGRPCServer
	mu       sync.Mutex
	messages []string
	records  int // of others
}

func (s *otlpServer) Export(_ context.Context, request plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rl := range request.Logs().ResourceLogs().All() {
		version, own := rl.Resource().Attributes().Get("service.version")
		for _, lr := range rl.ScopeLogs().At(0).LogRecords().All() {
			if own && version.Str() == "1.2.3" {
				s.messages = append(s.messages, lr.Body().Str())
			} else {
				s.records++
			}
		}
	}
	return plogotlp.NewExportResponse(), nil
}

func (s *otlpServer) told() (messages []string, records int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages), s.records
}

// serveOTLP begins to listen, and serves when told to.
func serveOTLP(t *testing.T) (s *otlpServer, address string, serve func()) {
	t.Helper()
	// Connections do not start from this address, so that none takes the port meanwhile.
	listener, err := net.Listen("tcp", "127.0.0.3:0")
	if err != nil {
		t.Fatal(err)
	}
	address = listener.Addr().String()
	listener.Close()
	s = &otlpServer{}
	return s, address, func() {
		t.Helper()
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		plogotlp.RegisterGRPCServer(server, s)
		var serving sync.WaitGroup
		serving.Go(func() { _ = server.Serve(listener) })
		t.Cleanup(func() {
			server.Stop()
			serving.Wait()
		})
	}
}

// telemetryAddress is where the program says that it serves.
func (r *running) telemetryAddress(t *testing.T) string {
	t.Helper()
	found := regexp.MustCompile(`"telemetry": "([0-9.:]+)"`).FindStringSubmatch(r.stderr.String())
	if found == nil {
		t.Fatalf("no address in %s", r.stderr.String())
	}
	return found[1]
}

type health struct {
	Status  string
	Reasons []string
}

func (r *running) health(t *testing.T) (h health) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + r.telemetryAddress(t) + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&h); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h health) tells(reason string) bool {
	return slices.ContainsFunc(h.Reasons, func(r string) bool { return strings.HasPrefix(r, reason) })
}

func TestRunWithATelemetryAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := mainWith("run", "--config", write(t, "telemetry: {address: '"+l.Addr().String()+"'}"))
	wantResult(t, result{1, "", "connspan: telemetry::address: listen tcp " + l.Addr().String() +
		": bind: address already in use; want one that is free, or \"\" for none\n"}, got)
}

// TestWithoutConfiguration: a second program, started to have a look, minds no telemetry of the first.
func TestWithoutConfiguration(t *testing.T) {
	cfg, err := load("", io.Discard)
	if err != nil || cfg.Telemetry.Address != "" {
		t.Errorf("got %q, %v; want no address", cfg.Telemetry.Address, err)
	}
	if cfg := mustLoad(t, ""); cfg.Telemetry.Address == "" {
		t.Error("an empty configuration has no address")
	}
}

// TestOwnMessages: what the program says goes to the server as well, once, but not what its exporters
// say, however long the server is away.
func TestOwnMessages(t *testing.T) {
	server, address, serve := serveOTLP(t)
	r := start(t, "--config", write(t, `
logs: {events: []}
metrics: {interval: 0s}
traces: {sample_ratio: 0}
exporters: {otlp: {endpoint: '`+address+`', tls: {insecure: true}, retry_on_failure: {initial_interval: 20ms, max_interval: 20ms}}}
telemetry: {address: '127.0.0.1:0', logs: {otlp: true}}
`))
	eventually(t, func() bool { return r.health(t).tells("exporter otlp (logs): ") })
	time.Sleep(2 * time.Second) // some hundred attempts
	if !strings.Contains(r.stderr.String(), "Exporting failed. Will retry") {
		t.Errorf("no word of the server that is away in:\n%s", r.stderr.String())
	}
	serve()
	eventually(t, func() bool { messages, _ := server.told(); return len(messages) > 0 })
	eventually(t, func() bool { return r.health(t).Status == "ok" })
	if code := r.stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	messages, records := server.told()
	if records != 0 {
		t.Errorf("%d records of connections, want none", records)
	}
	if d := cmp.Diff([]string{"tracing TCP connections", "stopped"}, messages); d != "" {
		t.Errorf("messages (-want +taken):\n%s", d)
	}
	for _, message := range messages {
		if n := strings.Count(r.stderr.String(), "\t"+message+"\t"); n != 1 {
			t.Errorf("%q is on stderr %d times:\n%s", message, n, r.stderr.String())
		}
	}
}

// TestFullQueue: what an exporter cannot take is told, and that it takes again. The messages about it,
// which find no room either, are no reason for more of them.
func TestFullQueue(t *testing.T) {
	server, address, serve := serveOTLP(t)
	r := start(t, "--config", write(t, `
metrics: {interval: 0s}
traces: {sample_ratio: 0}
exporters: {otlp: {endpoint: '`+address+`', tls: {insecure: true}, sending_queue: {sizer: requests, queue_size: 3}}}
telemetry: {address: '127.0.0.1:0', logs: {otlp: true}}
`))
	reasons := []string{"records refused by an exporter: ", "exporter otlp (logs): rpc error: ", "exporter otlp (logs): queue "}
	eventually(t, func() bool {
		connect(t)
		h := r.health(t)
		return !slices.ContainsFunc(reasons, func(reason string) bool { return !h.tells(reason) })
	})
	serve()
	eventually(t, func() bool { return !r.health(t).tells("exporter otlp") })
	if h := r.health(t); !h.tells(reasons[0]) { // for a minute
		t.Errorf("got %+v", h)
	}
	names := scraped(t, r.telemetryAddress(t))
	for _, name := range []string{"sent_log_records_total", "enqueue_failed_log_records_total", "queue_size", "queue_capacity"} {
		if !slices.Contains(names, "otelcol_exporter_"+name) {
			t.Errorf("no %s in %v", name, names)
		}
	}
	if code := r.stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, records := server.told(); records == 0 {
		t.Error("nothing was taken")
	}
	// What was refused is said once in 10 s, and so is that a message about it was.
	if n := strings.Count(r.stderr.String(), "refused"); n == 0 || n > 10 {
		t.Errorf("%d messages of what was refused:\n%s", n, r.stderr.String())
	}
}

// TestAccounts: what the tracer tells is, of each signal and in one scrape, what the server has taken,
// what was refused, by cause, and what waits.
func TestAccounts(t *testing.T) {
	_, address, _ := serveOTLP(t)
	r := start(t, "--config", write(t, `
metrics: {interval: 1s}
exporters: {otlp: {endpoint: '`+address+`', tls: {insecure: true}, sending_queue: {sizer: requests, queue_size: 3}}}
telemetry: {address: '127.0.0.1:0'}
`))
	for _, signal := range []string{"logs", "metrics", "traces"} {
		var sums map[string]float64
		settled := func() bool {
			connect(t)
			scrape := scrapeText(t, r.telemetryAddress(t))
			of := func(name string, labels ...string) float64 {
				return sum(scrape, name, append(labels, `otelcol_signal="`+signal+`"`)...)
			}
			sums = map[string]float64{
				"told": of("record_told_total"), "refused to the tracer": of("record_refused_total"),
				"offered": of("exporter_offered_total"), "recovered": of("exporter_recovered_total"),
				"refused": of("exporter_refused_total"), "for a full queue": of("exporter_refused_total", `cause="queue_full"`),
				"taken": of("exporter_sent_total"), "rejected": of("exporter_rejected_total"), "dropped": of("exporter_dropped_total"),
				"given up": of("exporter_given_up_total"), "queued": of("exporter_queued"),
			}
			return sums["for a full queue"] > 0 && sums["queued"] > 0 && sums["told"] == sums["offered"] &&
				sums["refused to the tracer"] == sums["refused"] && sums["refused"] == sums["for a full queue"] &&
				sums["offered"]+sums["recovered"] == sums["refused"]+sums["taken"]+sums["rejected"]+sums["dropped"]+sums["given up"]+sums["queued"]
		}
		// The tracer and the exporters do not count at one moment, so it may need more than one scrape.
		for deadline := time.Now().Add(20 * time.Second); !settled(); {
			if time.Now().After(deadline) {
				t.Errorf("%s do not add up: %v", signal, sums)
				break
			}
		}
	}
	if code := r.stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// sum adds up the series of connspan_NAME that have the labels.
func sum(scrape, name string, labels ...string) (n float64) {
	for line := range strings.Lines(scrape) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		if !strings.HasPrefix(series, "connspan_"+name+"{") || slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(series, l) }) {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return math.NaN()
		}
		n += v
	}
	return n
}

// scraped are the names of the metrics of the exporter otlp.
func scraped(t *testing.T, address string) (names []string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(fmt.Sprintf("http://%s/metrics", address))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if name, labels, _ := strings.Cut(lines.Text(), "{"); strings.Contains(labels, `exporter="otlp"`) {
			names = append(names, name)
		}
	}
	return names
}

func TestMessagesNeedAServer(t *testing.T) {
	file := write(t, "telemetry: {logs: {otlp: true}}")
	wantResult(t, result{2, "", "connspan: " + file + ": telemetry::logs::otlp: true, want an exporter that is otlp or otlphttp\n"},
		mainWith("validate", "--config", file))
}
