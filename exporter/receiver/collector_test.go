package receiver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

const manifest = "../../otelcol-config/receiver"

// collector is a real Collector with the receiver in it, and the configuration that users are given.
type collector struct {
	t         *testing.T
	cmd       *exec.Cmd
	ended     chan error // how, once; then closed
	log       string     // file
	telemetry string     // address
	file      string
	read      int // octets of file
	told      map[int64]map[string]int
}

func startCollector(t *testing.T) *collector {
	t.Helper()
	path := os.Getenv("CONNSPAN_TEST_RECEIVER")
	if path == "" {
		build := exec.CommandContext(t.Context(), manifest+"/build.sh")
		build.Stderr = t.Output()
		out, err := build.Output()
		if err != nil {
			t.Fatalf("building the Collector: %v", err)
		}
		path = strings.TrimSpace(string(out))
	}
	dir := t.TempDir()
	c := &collector{
		t: t, ended: make(chan error, 1), telemetry: freeAddress(t),
		log: filepath.Join(dir, "log"), file: filepath.Join(dir, "otlp.jsonl"), told: map[int64]map[string]int{},
	}
	log, err := os.Create(c.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	_, port, _ := net.SplitHostPort(c.telemetry)
	c.cmd = exec.Command(path, "--config", manifest+"/config.yaml")
	c.cmd.Env = append(os.Environ(), "CONNSPAN_FILE="+c.file, "CONNSPAN_TELEMETRY_PORT="+port)
	c.cmd.Stderr = log
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		c.ended <- c.cmd.Wait()
		close(c.ended)
	}()
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		for range c.ended {
		}
	})
	c.await("the start", func() bool { return strings.Contains(c.said(), "Everything is ready") })
	return c
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (c *collector) await(what string, done func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if done() {
			return
		}
	}
	c.t.Fatalf("waiting for %s: not after 30 s:\n%s", what, c.said())
}

// said is what the Collector has to say itself, without what its debug exporter shows, which may be a lot.
func (c *collector) said() string {
	c.t.Helper()
	b, err := os.ReadFile(c.log)
	if err != nil {
		c.t.Fatal(err)
	}
	var said strings.Builder
	for line := range bytes.Lines(b) {
		if bytes.Contains(line, []byte("\tinfo\t")) && !bytes.Contains(line, []byte(`"otelcol.component.id": "debug"`)) ||
			bytes.Contains(line, []byte("\twarn\t")) || bytes.Contains(line, []byte("\terror\t")) {
			said.Write(line)
		}
	}
	return said.String()
}

// metrics are the Collector's own.
func (c *collector) metrics() string {
	c.t.Helper()
	r, err := http.Get("http://" + c.telemetry + "/metrics")
	if err != nil {
		c.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	return string(b)
}

func (c *collector) stop() {
	c.t.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		c.t.Fatal(err)
	}
	select {
	case err := <-c.ended:
		if err != nil {
			c.t.Fatalf("the Collector ended with %v:\n%s", err, c.said())
		}
	case <-time.After(40 * time.Second):
		c.t.Fatalf("the Collector is still there:\n%s", c.said())
	}
}

// look reads what has come to the Collector's file, and counts it by process: log records and spans by their
// names; metrics, which are told again and again, once. What is neither of these processes nor of the
// Collector may be left out: decoding all that other programs on this host do may take long.
func (c *collector) look(pids ...int) {
	c.t.Helper()
	wanted := func(line []byte) bool {
		return slices.ContainsFunc(append(pids, c.cmd.Process.Pid), func(pid int) bool {
			return bytes.Contains(line, fmt.Appendf(nil, `"intValue":"%d"`, pid))
		})
	}
	b, err := os.ReadFile(c.file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // the exporter makes it when it has something
		c.t.Fatal(err)
	}
	for line := range bytes.Lines(b[c.read:]) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			return
		}
		c.read += len(line)
		if !wanted(line) {
			continue
		}
		// A line is of one signal; to the others it is empty.
		ld, logsErr := (&plog.JSONUnmarshaler{}).UnmarshalLogs(line)
		md, metricsErr := (&pmetric.JSONUnmarshaler{}).UnmarshalMetrics(line)
		td, tracesErr := (&ptrace.JSONUnmarshaler{}).UnmarshalTraces(line)
		if err := errors.Join(logsErr, metricsErr, tracesErr); err != nil {
			c.t.Fatalf("reading %s: %v", c.file, err)
		}
		for _, rl := range ld.ResourceLogs().All() {
			for _, lr := range rl.ScopeLogs().At(0).LogRecords().All() {
				c.of(rl.Resource())[lr.EventName()]++
			}
		}
		for _, rs := range td.ResourceSpans().All() {
			for _, s := range rs.ScopeSpans().At(0).Spans().All() {
				c.of(rs.Resource())["span of a "+strings.ToLower(s.Kind().String())]++
			}
		}
		for _, rm := range md.ResourceMetrics().All() {
			for _, m := range rm.ScopeMetrics().At(0).Metrics().All() {
				c.of(rm.Resource())["metric "+m.Name()] = 1
			}
		}
	}
}

// of is what has been told of a process.
func (c *collector) of(r pcommon.Resource) map[string]int {
	var pid int64
	if v, ok := r.Attributes().Get("process.pid"); ok {
		pid = v.Int()
	}
	if c.told[pid] == nil {
		c.told[pid] = map[string]int{}
	}
	return c.told[pid]
}

// TestCollector: connections come out of all pipelines of a real Collector, the last of them from right
// before its end; it tells of the tracer in its own metrics, and not of its own connections.
func TestCollector(t *testing.T) {
	c := startCollector(t)
	first := pair(t)
	want := map[string]int{
		"tcp.connection.open": 2, "tcp.connection.close": 2, "span of a client": 1, "span of a server": 1,
		"metric tcp.connection.opened": 1, "metric tcp.connection.closed": 1, "metric tcp.connection.duration": 1,
		"metric tcp.connection.handshake.duration": 1, "metric tcp.connection.io": 1, "metric tcp.connection.rtt": 1,
	}
	c.await("what is told of a pair", func() bool {
		c.look(first)
		return c.told[int64(first)]["tcp.connection.close"] == 2 && c.told[int64(first)]["span of a server"] == 1
	})
	c.await("the own metrics", func() bool {
		said := c.metrics()
		for _, name := range []string{"otelcol_receiver_accepted_log_records", "otelcol_receiver_accepted_spans", "connspan_event_read", "connspan_receiver_queue_size"} {
			if !strings.Contains(said, "\n"+name) {
				return false
			}
		}
		return true
	})
	last := pair(t)
	c.stop()
	c.look(first, last)
	for _, pid := range []int{first, last} {
		if d := cmp.Diff(want, c.told[int64(pid)]); d != "" {
			t.Errorf("of process %d:\n%s", pid, d)
		}
	}
	if own := c.told[int64(c.cmd.Process.Pid)]; own != nil {
		t.Errorf("told of its own connections: %v", own)
	}
	if said := c.said(); strings.Contains(said, "\terror\t") {
		t.Errorf("errors in the log:\n%s", said)
	}
}
