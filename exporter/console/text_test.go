package console

import (
	"bytes"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestGolden(t *testing.T) {
	for name, encode := range map[string]func(*bytes.Buffer, plog.Logs) error{
		"text.golden":      (&text{location: time.FixedZone("test", 3600)}).encode,
		"otlp_json.golden": asJSON(plogotlp.NewExportRequestFromLogs),
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			for _, ld := range []plog.Logs{twoProcesses(), awkward()} {
				ld.MarkReadOnly()
				if err := encode(&b, ld); err != nil {
					t.Fatal(err)
				}
			}
			golden(t, name, b.Bytes())
		})
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// twoProcesses has the records of two processes, which alternate in time.
func twoProcesses() plog.Logs {
	ld := plog.NewLogs()
	curl, nginx := process(ld, "curl", 1234), process(ld, "nginx", 77)

	ends := map[string]any{
		"network.local.address": "10.0.0.1", "network.local.port": 42424,
		"network.peer.address": "10.1.0.1", "network.peer.port": 443,
	}
	owner := map[string]any{"process.executable.name": "curl", "process.pid": 1234, "network.tcp.handshake.role": "client"}
	add(curl, 0, "tcp.connection.open", owner, ends, map[string]any{"tcp.connection.handshake.duration": 0.00034})
	add(curl, 30*time.Millisecond, "tcp.connection.close", owner, ends, map[string]any{
		"tcp.connection.duration": 1.5, "tcp.connection.bytes_sent": 120, "tcp.connection.bytes_received": 5_300_000,
		"tcp.connection.rtt": 0.0123, "tcp.connection.close.reason": "fin", "tcp.connection.close.initiator": "local",
	})

	ends = map[string]any{
		"network.local.address": "192.168.100.200", "network.local.port": 443,
		"network.peer.address": "192.168.100.201", "network.peer.port": 65535,
	}
	owner = map[string]any{"process.executable.name": "nginx", "process.pid": 77, "network.tcp.handshake.role": "server"}
	add(nginx, 10*time.Millisecond, "tcp.connection.close", owner, ends, map[string]any{
		"tcp.connection.bytes_sent": 1, "tcp.connection.bytes_received": 0, "tcp.connection.preexisting": true,
		"tcp.connection.close.reason": "reset_received", "tcp.connection.close.initiator": "peer", "error.type": "connection_reset",
	})
	// The same time as curl's close: the order of the request stands.
	add(nginx, 30*time.Millisecond, "tcp.connection.failed", map[string]any{
		"network.local.address": "2001:db8::1", "network.local.port": 5,
		"network.peer.address": "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "network.peer.port": 5432,
		"network.tcp.handshake.role": "unknown", "tcp.connection.duration": 127.4, "error.type": "timed_out", "tcp.connection.late": true,
	})
	return ld
}

// awkward has nothing where something is expected, and the wrong thing.
func awkward() plog.Logs {
	ld := plog.NewLogs()
	ld.ResourceLogs().AppendEmpty()
	slice := process(ld, "", 0)
	slice.AppendEmpty()
	add(slice, time.Second, "something.else", map[string]any{
		"network.local.address": 5, "network.local.port": "http", "network.peer.address": "10.0.0.1",
		"process.pid": 9, "process.executable.name": true, "network.tcp.handshake.role": []any{"client"},
		"tcp.connection.duration": "long", "tcp.connection.handshake.duration": math.Inf(1), "tcp.connection.rtt": 3,
		"tcp.connection.bytes_sent": -1, "tcp.connection.bytes_received": 1.5, "tcp.connection.close.reason": map[string]any{},
		"tcp.connection.late": "yes", "error.type": "a\x1b[31m\nb",
	})
	return ld
}

func process(ld plog.Logs, name string, pid int64) plog.LogRecordSlice {
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", name)
	rl.Resource().Attributes().PutInt("process.pid", pid)
	return rl.ScopeLogs().AppendEmpty().LogRecords()
}

var began = time.Date(2026, time.March, 4, 22, 59, 59, 999_000_000, time.UTC)

func add(to plog.LogRecordSlice, after time.Duration, name string, attributes ...map[string]any) {
	record := to.AppendEmpty()
	record.SetEventName(name)
	record.SetTimestamp(pcommon.NewTimestampFromTime(began.Add(after)))
	record.Body().SetStr(name)
	for _, m := range attributes {
		for _, key := range []string{
			"process.executable.name", "process.pid", "network.tcp.handshake.role",
			"network.local.address", "network.local.port", "network.peer.address", "network.peer.port",
			"tcp.connection.handshake.duration", "tcp.connection.duration", "tcp.connection.rtt",
			"tcp.connection.bytes_sent", "tcp.connection.bytes_received", "tcp.connection.preexisting", "tcp.connection.late",
			"tcp.connection.close.reason", "tcp.connection.close.initiator", "error.type",
		} {
			if value, ok := m[key]; ok {
				if err := record.Attributes().PutEmpty(key).FromRaw(value); err != nil {
					panic(err)
				}
			}
		}
	}
}

func TestEachMissingAttributeIsADash(t *testing.T) {
	whole := twoProcesses().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(1)
	for key := range whole.Attributes().All() {
		ld := plog.NewLogs()
		record := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
		whole.CopyTo(record)
		record.Attributes().Remove(key)

		var b bytes.Buffer
		f := text{location: time.UTC, headed: true}
		if err := f.encode(&b, ld); err != nil {
			t.Fatal(err)
		}
		fields := len(strings.Fields(b.String()))
		dash := strings.Contains(b.String(), "-")
		switch key {
		case "network.local.port", "network.peer.port", "process.pid": // part of a column
			dash = !dash
			fallthrough
		case "process.executable.name", "network.local.address", "network.peer.address", "network.tcp.handshake.role",
			"tcp.connection.duration", "tcp.connection.rtt", "tcp.connection.bytes_sent", "tcp.connection.bytes_received":
			if fields != 12 || !dash {
				t.Errorf("without %s: %s", key, b.String())
			}
		default: // one of the words at the end
			if fields != 11 || dash {
				t.Errorf("without %s: %s", key, b.String())
			}
		}
	}
}

func TestSeconds(t *testing.T) {
	for s, want := range map[float64]string{
		0: "0s", 1e-9: "1ns", 3.4e-4: "340µs", 0.00123456: "1.23ms", 0.9999: "1s", 1.5: "1.5s", 12.345: "12.3s",
		59.99: "1m0s", 125.4: "2m5s", 3600: "1h0m", 111_840: "31h4m", 1e7: "2777h47m",
		-1: "-", math.NaN(): "-", math.Inf(1): "-", 1e300: "-",
	} {
		if got := seconds(s); got != want {
			t.Errorf("seconds(%v): got %s, want %s", s, got, want)
		}
	}
}

func TestOctets(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0B", 999: "999B", 1000: "0.98KiB", 1024: "1.00KiB", 1500: "1.46KiB", 10_234: "9.99KiB", 10_240: "10.0KiB",
		102_350: "100KiB", 102_400: "100KiB", 1_023_000: "999KiB", 1 << 20: "1.00MiB", 5_300_000: "5.05MiB",
		1 << 40: "1.00TiB", math.MaxInt64: "8.00EiB",
	} {
		if got := octets(n); got != want {
			t.Errorf("octets(%d): got %s, want %s", n, got, want)
		}
	}
}

func TestColumnsFitATerminal(t *testing.T) {
	var b bytes.Buffer
	f := text{location: time.UTC}
	if err := f.encode(&b, twoProcesses()); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if strings.Contains(line, "fin local") && len([]rune(line)) > 140 {
			t.Errorf("%d characters, want at most 140: %s", len([]rune(line)), line)
		}
	}
}
