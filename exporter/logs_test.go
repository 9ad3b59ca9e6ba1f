package exporter

import (
	"bytes"
	"encoding/json"
	"flag"
	"log/slog"
	"math"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/connspan/connspan/internal/clock"
	"github.com/connspan/connspan/internal/conn"
	"github.com/connspan/connspan/internal/event"
	"github.com/connspan/connspan/internal/merge"
)

var update = flag.Bool("update", false, "write the golden files")

// epoch is what kernel time 0 stands for in these tests.
var epoch = time.Unix(1_700_000_000, 0)

func fixedClock(t testing.TB) *clock.Clock {
	t.Helper()
	c := &clock.Clock{Kernel: func() (uint64, error) { return 0, nil }, Wall: func() time.Time { return epoch }}
	if err := c.Calibrate(); err != nil {
		t.Fatal(err)
	}
	return c
}

// newTestSignals makes all three, without anybody to consume them.
func newTestSignals(t testing.TB, change func(*Config)) *signals {
	t.Helper()
	cfg := NewDefaultConfig()
	if change != nil {
		change(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	all := Consumers{Logs: make([]consumer.Logs, 1), Metrics: make([]consumer.Metrics, 1), Traces: make([]consumer.Traces, 1)}
	s := newSignals(cfg, all, describe(cfg.Resource, hostOnly(), known), fixedClock(t), epoch)
	s.observe(epoch.Add(10 * time.Second))
	return &s
}

func hostOnly() pcommon.Map {
	m := pcommon.NewMap()
	m.PutStr("host.name", "node-1")
	return m
}

// examples are one event for each thing that can be told, of three processes.
func examples() []*event.Event {
	curl := event.Event{
		Time: 1_500_000, Cookie: 1, Ordinal: 1, Began: 1_000_000, Established: 1_500_000, OwnerStarted: 5,
		NetNS: 4026531840, PID: 1234, UID: 1000, LocalISN: 0xfeed0001, PeerISN: 0xbeef0002, MinRTT: event.UnknownMinRTT,
		Local: netip.MustParseAddrPort("10.0.0.1:4242"), Peer: netip.MustParseAddrPort("10.1.0.1:5432"),
		Comm: event.Comm([]byte("curl\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")), Kind: event.Opened, Role: event.Client,
		OldState: event.SynSent, OwnerSource: event.OwnerConnect, Flags: event.HasISN,
	}
	curlClosed := curl
	curlClosed.Kind, curlClosed.Ordinal, curlClosed.Time = event.Closed, 2, 1_501_000_000
	curlClosed.BytesSent, curlClosed.BytesReceived, curlClosed.SegsOut, curlClosed.SegsIn = 120, 5300, 7, 6
	curlClosed.Retransmits, curlClosed.SRTT, curlClosed.MinRTT = 1, 480, 350
	curlClosed.FirstFIN = 1_400_000_000
	curlClosed.Closer, curlClosed.OldState, curlClosed.Flags = event.CloserLocal, event.FinWait2, event.HasISN|event.Dead|event.Shut

	postgres := event.Event{
		Time: 1_600_000, Cookie: 2, Ordinal: 1, Began: 1_400_000, Established: 1_600_000, OwnerStarted: 4,
		NetNS: 4026531840, PID: 77, UID: 26, LocalISN: 0xbeef0002, PeerISN: 0xfeed0001, MinRTT: 200,
		Local: netip.MustParseAddrPort("[2001:db8::2]:5432"), Peer: netip.MustParseAddrPort("[2001:db8::1]:4242"),
		Comm: event.Comm([]byte("post\xffgres\n\x00\x00\x00\x00\x00\x00")), Kind: event.Opened, Role: event.Server,
		OldState: event.SynRecv, OwnerSource: event.OwnerListen, Flags: event.HasISN,
	}
	postgresReset := postgres
	postgresReset.Kind, postgresReset.Ordinal, postgresReset.Time, postgresReset.Late = event.Closed, 2, 9_000_000, true
	postgresReset.OldState, postgresReset.Errno = event.Established, uint32(syscall.ECONNRESET)

	refused := curl
	refused.Kind, refused.Cookie, refused.Time, refused.Established, refused.Flags = event.Failed, 3, 1_250_000, 0, 0
	refused.OldState, refused.Errno = event.SynSent, uint32(syscall.ECONNREFUSED)

	old := event.Event{
		Time: 2_000_000, Cookie: 4, Ordinal: 1, NetNS: 4026531840, MinRTT: event.UnknownMinRTT,
		Local: netip.MustParseAddrPort("10.0.0.1:22"), Peer: netip.MustParseAddrPort("10.0.0.9:50000"),
		Kind: event.Closed, OldState: event.LastAck, Flags: event.Preexisting | event.Dead | event.Shut | event.FINReceived,
	}
	busy := postgres
	busy.Cookie, busy.PeerISN, busy.Comm = 5, 0xfeed0003, event.Comm{'p', 'o', 's', 't', 'g', 'r', 'e', 's'}
	busySampled := busy
	busySampled.Kind, busySampled.Time, busySampled.OldState = event.Sampled, 5_000_000_000, event.Established
	busySampled.BytesSent, busySampled.BytesReceived, busySampled.Retransmits, busySampled.SRTT = 1000, 2000, 3, 700
	return []*event.Event{&curl, &postgres, &refused, &postgresReset, &curlClosed, &old, &busy, &busySampled}
}

func fill(s *signals, events []*event.Event) *conn.Table {
	table := conn.NewTable()
	for _, e := range events {
		table.Apply(e, s.add)
	}
	return table
}

// TestGolden: the same records give the same OTLP, octet for octet.
func TestGolden(t *testing.T) {
	s := newTestSignals(t, func(c *Config) { c.Logs.Heartbeat, c.Metrics.Interval = time.Second, time.Second })
	table := fill(s, examples())
	table.Heartbeat(12e9, 1e9, s.heartbeat)
	metrics := collected(s.metrics, uint64(15*time.Second), table.Each)
	logs, err := (&plog.JSONMarshaler{}).MarshalLogs(s.logs.take())
	golden(t, "testdata/logs.json", logs, err)
	spans, err := (&ptrace.JSONMarshaler{}).MarshalTraces(s.spans.take())
	golden(t, "testdata/traces.json", spans, err)
	points, err := (&pmetric.JSONMarshaler{}).MarshalMetrics(metrics)
	golden(t, "testdata/metrics.json", points, err)
}

func golden(t *testing.T, file string, raw []byte, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := json.Indent(&got, raw, "", "  "); err != nil {
		t.Fatal(err)
	}
	got.WriteByte('\n')
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := gocmp.Diff(string(want), got.String()); d != "" {
		t.Errorf("OTLP/JSON (-%s +made); go test -update writes it anew:\n%s", file, d)
	}
}

func TestLines(t *testing.T) {
	want := []string{
		"tcp.connection.open curl[1234] 10.0.0.1:4242 -> 10.1.0.1:5432 500µs",
		"tcp.connection.open post\ufffdgres\ufffd[77] [2001:db8::2]:5432 <- [2001:db8::1]:4242 200µs",
		"tcp.connection.failed curl[1234] 10.0.0.1:4242 -> 10.1.0.1:5432 250µs connection_refused",
		"tcp.connection.close post\ufffdgres\ufffd[77] [2001:db8::2]:5432 <- [2001:db8::1]:4242 7.6ms sent=0 received=0 reset_received peer",
		"tcp.connection.close curl[1234] 10.0.0.1:4242 -> 10.1.0.1:5432 1.5s sent=120 received=5300 fin local",
		"tcp.connection.close 10.0.0.1:22 - 10.0.0.9:50000 sent=0 received=0 fin peer",
		"tcp.connection.open postgres[77] [2001:db8::2]:5432 <- [2001:db8::1]:4242 200µs",
		"tcp.connection.heartbeat postgres[77] [2001:db8::2]:5432 <- [2001:db8::1]:4242 5s sent=1000 received=2000",
	}
	var got []string
	table := conn.NewTable()
	for _, e := range examples() {
		table.Apply(e, func(r *conn.Record) { got = append(got, line(r)) })
	}
	if d := gocmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestEventsAreChosen(t *testing.T) {
	tests := []struct {
		events []string
		want   int
	}{
		{[]string{EventOpened, EventClosed, EventFailed}, 7},
		{[]string{EventOpened}, 3},
		{[]string{EventFailed}, 1},
		{[]string{EventClosed}, 3},
		{nil, 0},
	}
	for _, tt := range tests {
		s := newTestSignals(t, func(c *Config) { c.Logs.Events, c.Traces.SampleRatio = tt.events, 0 })
		fill(s, examples())
		if s.pending() != tt.want || s.logs != nil && s.logs.take().LogRecordCount() != tt.want {
			t.Errorf("events %v: %d records, want %d", tt.events, s.pending(), tt.want)
		}
	}
}

// TestGroups: one Resource for each process, also when an id is used again.
func TestGroups(t *testing.T) {
	s := newTestSignals(t, nil)
	events := examples()
	again := *events[0]
	again.Cookie, again.OwnerStarted = 9, 6
	fill(s, append(events, &again))
	batch := s.logs.take()
	if n := batch.ResourceLogs().Len(); n != 5 {
		t.Errorf("%d resources, want 5: curl, postgres by two names, the unknown, the other process 1234", n)
	}
	if s.logs.pending() != 0 || s.logs.take().LogRecordCount() != 0 {
		t.Error("a batch that was taken is still there")
	}
}

func TestConfigValidate(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"default", func(*Config) {}, ""},
		{"ring", func(c *Config) { c.Tracer.RingSize = 5000 }, "tracer::ring_size: ring size 5000: want a power of two from 4096 (a page) to 1073741824 (1 GiB)"},
		{"interval", func(c *Config) { c.Tracer.Interval = 0 }, "tracer::interval: 0s, want 1ms to 10s"},
		{"guard", func(c *Config) { c.Tracer.Guard = -1 }, "tracer::guard: -1ns, want 0s to 1s"},
		{"hold", func(c *Config) { c.Tracer.MaxHold = -1 }, "tracer::max_hold: -1ns, want 0s (no bound) or more"},
		{"pending", func(c *Config) { c.Tracer.MaxPending = 0 }, "tracer::max_pending: 0, want 1000 to 100000000"},
		{"audit", func(c *Config) { c.Tracer.Audit = 0 }, "tracer::audit: 0s, want 1s or more"},
		{"event", func(c *Config) { c.Logs.Events = []string{"open"} }, `logs::events: "open", want opened, closed or failed`},
		{"heartbeat", func(c *Config) { c.Logs.Heartbeat = time.Millisecond }, "logs::heartbeat: 1ms, want 0s (never), or 1s or more"},
		{"metrics interval", func(c *Config) { c.Metrics.Interval = time.Millisecond }, "metrics::interval: 1ms, want 0s (never), or 1s or more"},
		{"temporality", func(c *Config) { c.Metrics.Temporality = "lowmemory" }, `metrics::temporality: "lowmemory", want cumulative or delta`},
		{"histogram", func(c *Config) { c.Metrics.Histogram = "summary" }, `metrics::histogram: "summary", want explicit or exponential`},
		{"metric attribute", func(c *Config) { c.Metrics.Attributes = []string{"process.pid"} }, `metrics::attributes: "process.pid", want some of network.tcp.handshake.role, network.type, server.port, process.executable.name, server.address`},
		{"series", func(c *Config) { c.Metrics.MaxSeries = 0 }, "metrics::max_series: 0, want 1 to 1000000"},
		{"expiry", func(c *Config) { c.Metrics.ExpireAfter = time.Second }, "metrics::expire_after: 1s, want metrics::interval (15s) or more"},
		{"sampling", func(c *Config) { c.Traces.SampleRatio = math.NaN() }, "traces::sample_ratio: NaN, want 0 to 1"},
		{"pairing", func(c *Config) { c.Traces.Pairing = "both" }, `traces::pairing: "both", want both_ends or none`},
		{"attribute", func(c *Config) { c.Resource.Attributes = map[string]string{"": "x"} }, "resource::attributes: an empty name, want one"},
		{"service name", func(c *Config) { c.Resource.Services = []ServiceRule{{Match: ServiceMatch{Unit: "x"}}} }, "resource::services::0::name: empty, want the name of a service"},
		{"service match", func(c *Config) {
			c.Resource.Services = []ServiceRule{{Name: "x", Match: ServiceMatch{Unit: "x"}}, {Name: "x"}}
		}, "resource::services::1::match: empty, want executable, container, unit, cgroup or command"},
		{"redact", func(c *Config) { c.Resource.Redact = []string{""} }, `resource::redact: "", want a glob such as *password*`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := NewDefaultConfig()
			tt.change(&cfg)
			got := ""
			if err := cfg.Validate(); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestSize(t *testing.T) {
	tests := []struct {
		text string
		want Size
		back string
	}{
		{"auto", 0, "auto"}, {"4096", 4096, "4KiB"}, {"64KiB", 64 << 10, "64KiB"}, {"1MiB", 1 << 20, "1MiB"}, {"2GiB", 2 << 30, "2GiB"}, {"100", 100, "100"},
	}
	for _, tt := range tests {
		var s Size
		if err := s.UnmarshalText([]byte(tt.text)); err != nil || s != tt.want {
			t.Errorf("%q is %d, %v; want %d", tt.text, s, err, tt.want)
		}
		if b, err := s.MarshalText(); err != nil || string(b) != tt.back {
			t.Errorf("%d is %q, %v; want %q", s, b, err, tt.back)
		}
	}
	for _, bad := range []string{"", "1MB", "-1", "x", "99999999999GiB", "1.5MiB"} {
		var s Size
		if err := s.UnmarshalText([]byte(bad)); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%q is taken as %d, %v", bad, s, err)
		}
	}
}

// BenchmarkSignals is the mapping of six records, to each signal alone and to all.
func BenchmarkSignals(b *testing.B) {
	for _, bm := range []struct {
		name   string
		change func(*Config)
	}{
		{"logs", func(c *Config) { c.Metrics.Interval, c.Traces.SampleRatio = 0, 0 }},
		{"metrics", func(c *Config) { c.Logs.Events, c.Traces.SampleRatio = nil, 0 }},
		{"traces", func(c *Config) { c.Logs.Events, c.Metrics.Interval = nil, 0 }},
		{"all", nil},
	} {
		b.Run(bm.name, func(b *testing.B) {
			s := newTestSignals(b, bm.change)
			events := examples()
			table := conn.NewTable()
			b.ReportAllocs()
			for b.Loop() {
				for _, e := range events {
					table.Apply(e, s.add)
				}
				if s.pending() < MaxBatch {
					continue
				}
				if s.logs != nil {
					s.logs.take()
				}
				if s.spans != nil {
					s.spans.take()
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(events)), "ns/record")
		})
	}
}

// TestMalformedSamples: what cannot be a record is counted, and goes no further.
func TestMalformedSamples(t *testing.T) {
	m, err := merge.New(merge.Config{CPUs: 1})
	if err != nil {
		t.Fatal(err)
	}
	x := &Exporter{merge: m, loss: newLoss(1, slog.New(slog.DiscardHandler))}
	samples := [][]byte{nil, make([]byte, event.Size-1), make([]byte, event.Size+8), make([]byte, event.Size), bytes.Repeat([]byte{0xff}, event.Size)}
	for _, sample := range samples {
		x.take(0, sample)
	}
	if x.malformed != uint64(len(samples)) || m.Stats().Pushed != 0 {
		t.Errorf("%d malformed and %d pushed, want %d and none", x.malformed, m.Stats().Pushed, len(samples))
	}
}
