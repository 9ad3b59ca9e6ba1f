package compose_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// startAgent runs connspan with the capabilities that it has in the example, and no more.
func startAgent(t *testing.T, config string) (stop func()) {
	t.Helper()
	program, err := connspan()
	if err != nil {
		t.Fatal(err)
	}
	granted := "-all,+" + strings.ToLower(strings.Join(project(t).Services["connspan"].CapAdd, ",+"))
	stop = start(t, nil, "setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set="+granted, program, "run", "--config", config)
	awaitOK(t, "http://"+loopback+":9464/healthz")
	return stop
}

// faster has it send every second, listen where this process is alone, and keep up although the load, the Collector and
// Prometheus share its processors.
func faster(t *testing.T, config string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "connspan.yaml")
	config += fmt.Sprintf("metrics: {interval: 1s}\ntelemetry: {address: %q}\ntracer: {ring_size: 16MiB}\n", loopback+":9464")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const (
	own     = "compose.test" // what the kernel calls this process
	port    = "7777"         // of the connections that are meant, this process having others
	request = 10
	reply   = 1000
)

// talk makes n connections to a server in this process, each with a request and a reply, and leaves them open until the
// returned function is called.
func talk(t *testing.T, n int) (hangUp func()) {
	t.Helper()
	listener, err := net.Listen("tcp", loopback+":"+port)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, n)
	go func() {
		for range n {
			c, err := listener.Accept()
			if err != nil {
				served <- err
				return
			}
			go func() {
				defer c.Close()
				_, err := c.Write(make([]byte, reply))
				_, eof := io.Copy(io.Discard, c)
				served <- errors.Join(err, eof)
			}()
		}
	}()
	var open []net.Conn
	for range n {
		c, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(make([]byte, request)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, reply)); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	return func() {
		t.Helper()
		for _, c := range open {
			c.Close()
		}
		for range n {
			if err := <-served; err != nil {
				t.Error(err)
			}
		}
		listener.Close()
	}
}

// TestEndToEnd: connspan, the Collector and Prometheus as in the example; what this process does is on both dashboards.
func TestEndToEnd(t *testing.T) {
	file := startCollector(t)
	p := startPrometheus(t)
	config, err := os.ReadFile(install(t, "connspan.yaml", "127.0.0.1", loopback, "/var/lib/connspan", t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	stop := startAgent(t, faster(t, string(config)))
	mine := func(metric string) string {
		return fmt.Sprintf("sum(tcp_connection_%s{job=%q, server_port=%q})", metric, own, port)
	}

	talk(t, 3)() // a first value, for Prometheus to see the next ones grow out of
	p.awaitValue(mine("closed_total"), 6)
	talk(t, 20)()
	p.awaitValue(mine("closed_total"), 46)
	hangUp := talk(t, 4)
	for metric, want := range map[string]float64{
		"opened_total": 54, "closed_total": 46, "duration_seconds_count": 46, "io_bytes_total": 2 * 27 * (request + reply),
	} {
		p.awaitValue(mine(metric), want)
	}
	at := p.awaitValue(mine("active"), 8)

	boards := dashboards(t)
	overview, agent := boards["connspan-overview"], boards["connspan-agent"]
	for i := range overview.Templating.List { // other processes may have their troubles
		switch v := &overview.Templating.List[i]; v.Name {
		case "service":
			v.AllValue = own
		case "port":
			v.AllValue = port
		}
	}
	checkBoard(t, p, overview, at, true)
	checkBoard(t, p, agent, at, true)

	hangUp()
	if c, err := net.Dial("tcp", loopback+":"+port); err == nil {
		c.Close()
		t.Fatal("somebody else listens")
	}
	checkTotal(t, p, overview, p.awaitValue(mine("failed_total"), 1))
	stop()
	checkLinks(t, file)
}

// checkTotal: the one failure is where it is looked for.
func checkTotal(t *testing.T, p *prometheus, board *dashboard, at time.Time) {
	t.Helper()
	i := slices.IndexFunc(board.Panels, func(p panel) bool { return p.Title == "Failed to open, by error" })
	if values := p.show(&board.Panels[i], board.Templating.List, at); len(values) != 1 {
		t.Errorf("%s: %v, want connection_refused alone", board.Panels[i].Title, values)
	}
}

// checkLinks: the log record of the failure leads to its span, by the trace id. Both have come through the Collector.
func checkLinks(t *testing.T, file string) {
	t.Helper()
	await(t, func() error {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		spans := make(map[pcommon.TraceID]string)
		var failures []plog.LogRecord
		for line := range bytes.Lines(b) {
			if td, err := (&ptrace.JSONUnmarshaler{}).UnmarshalTraces(line); err == nil {
				addErrors(spans, td)
			}
			if ld, err := (&plog.JSONUnmarshaler{}).UnmarshalLogs(line); err == nil {
				failures = append(failures, failuresIn(ld)...)
			}
		}
		if len(failures) != 1 {
			return fmt.Errorf("%d log records of the failure, want 1", len(failures))
		}
		if got := spans[failures[0].TraceID()]; got != "connection_refused" {
			return fmt.Errorf("%s: the span of its trace has error.type %q", failures[0].Body().Str(), got)
		}
		return nil
	})
}

// addErrors notes the error.type of each span that has one.
func addErrors(spans map[pcommon.TraceID]string, td ptrace.Traces) {
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				if failure, ok := s.Attributes().Get("error.type"); ok {
					spans[s.TraceID()] = failure.Str()
				}
			}
		}
	}
}

// failuresIn gives the log records of this process's failures.
func failuresIn(ld plog.Logs) (all []plog.LogRecord) {
	for _, rl := range ld.ResourceLogs().All() {
		// A connection without a known owner has none.
		if name, ok := rl.Resource().Attributes().Get("service.name"); !ok || name.Str() != own {
			continue
		}
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				if strings.HasPrefix(lr.Body().Str(), "tcp.connection.failed") {
					all = append(all, lr)
				}
			}
		}
	}
	return all
}

// TestTrouble: what connspan could not deliver shows on its dashboard. One exporter has no room for more than one
// batch, the other does not try twice, and nobody is there to take anything.
func TestTrouble(t *testing.T) {
	p := startPrometheus(t)
	startAgent(t, faster(t, fmt.Sprintf(`
exporters:
  otlp/full: {endpoint: "%[1]s:1", tls: {insecure: true}, sending_queue: {sizer: requests, queue_size: 1}}
  otlp/once: {endpoint: "%[1]s:1", tls: {insecure: true}, retry_on_failure: {enabled: false}}
`, loopback)))
	talk(t, 20)()
	board := dashboards(t)["connspan-agent"]
	i := slices.IndexFunc(board.Panels, func(p panel) bool { return p.Title == "Not delivered, per second" })
	await(t, func() error {
		talk(t, 1)()
		values := p.show(&board.Panels[i], board.Templating.List, time.Now())
		for _, ref := range board.Panels[i].Targets {
			if !slices.ContainsFunc(keys(values), func(label string) bool { return strings.HasPrefix(label, ref.RefID) && values[label] > 0 }) {
				return fmt.Errorf("%s: query %s shows nothing: %v", board.Panels[i].Title, ref.RefID, values)
			}
		}
		return nil
	})
}

func keys(m map[string]float64) (all []string) {
	for k := range m {
		all = append(all, k)
	}
	return all
}
