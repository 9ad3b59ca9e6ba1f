package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // what the program sends

	"github.com/connspan/connspan/internal/actor"
)

// sink is an OTLP server that counts items and forgets them.
type sink struct{ logs, points, spans atomic.Int64 }

type (
	logsSink struct {
		plogotlp.UnimplementedGRPCServer
		*sink
	}
	metricsSink struct {
		pmetricotlp.UnimplementedGRPCServer
		*sink
	}
	tracesSink struct {
		ptraceotlp.UnimplementedGRPCServer
		*sink
	}
)

func (s logsSink) Export(_ context.Context, r plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	s.logs.Add(int64(r.Logs().LogRecordCount()))
	return plogotlp.NewExportResponse(), nil
}

func (s metricsSink) Export(_ context.Context, r pmetricotlp.ExportRequest) (pmetricotlp.ExportResponse, error) {
	s.points.Add(int64(r.Metrics().DataPointCount()))
	return pmetricotlp.NewExportResponse(), nil
}

func (s tracesSink) Export(_ context.Context, r ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	s.spans.Add(int64(r.Traces().SpanCount()))
	return ptraceotlp.NewExportResponse(), nil
}

func startSink(b *testing.B) (*sink, string) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s, server := &sink{}, grpc.NewServer()
	plogotlp.RegisterGRPCServer(server, &logsSink{sink: s})
	pmetricotlp.RegisterGRPCServer(server, &metricsSink{sink: s})
	ptraceotlp.RegisterGRPCServer(server, &tracesSink{sink: s})
	go func() { _ = server.Serve(l) }()
	b.Cleanup(server.Stop)
	return s, l.Addr().String()
}

// BenchmarkAgent reports what the program costs while it ships, over gRPC, what twenty thousand
// connections give, both ends: processor time for each connection, in user space and in all, allocations,
// memory before and after, and the size of the binary. A connection is two sockets, so half of it is what
// a socket's whole life costs.
func BenchmarkAgent(b *testing.B) {
	const n = 20_000
	const off = "logs: {events: []}\nmetrics: {interval: 0s}\ntraces: {sample_ratio: 0}\n"
	const closedOnly = "logs: {events: [closed]}\nmetrics: {interval: 0s}\ntraces: {sample_ratio: 0}\n"
	const logs = "metrics: {interval: 0s}\ntraces: {sample_ratio: 0}\n"
	const metrics = "logs: {events: []}\nmetrics: {interval: 1s}\ntraces: {sample_ratio: 0}\n"
	const traces = "logs: {events: []}\nmetrics: {interval: 0s}\n"
	s, addr := startSink(b)
	for _, bm := range []struct {
		name, config, compression string
		logs, spans               int64 // of each connection
		stored                    bool
	}{
		{name: "no signal", config: off, compression: "none"},
		{name: "closed logs", config: closedOnly, compression: "none", logs: 2},
		{name: "logs", config: logs, compression: "none", logs: 4},
		{name: "logs, gzip", config: logs, compression: "gzip", logs: 4},
		{name: "logs, zstd", config: logs, compression: "zstd", logs: 4},
		{name: "logs, in files", config: logs, compression: "none", logs: 4, stored: true},
		{name: "metrics", config: metrics, compression: "none"},
		{name: "traces", config: traces, compression: "none", spans: 2},
		{name: "metrics, in files", config: metrics, compression: "none", stored: true},
		{name: "traces, in files", config: traces, compression: "none", spans: 2, stored: true},
		{name: "all", compression: "none", logs: 4, spans: 2},
		{name: "all, gzip", compression: "gzip", logs: 4, spans: 2},
		{name: "all, in files", compression: "none", logs: 4, spans: 2, stored: true},
	} {
		b.Run(bm.name, func(b *testing.B) {
			own := "127.0.0.1:" + freePort(b)
			config := fmt.Sprintf("%stelemetry: {address: %q}\nexporters: {otlp: {endpoint: %q, tls: {insecure: true}, compression: %s}}\n",
				bm.config, own, addr, bm.compression)
			if bm.stored {
				config += fmt.Sprintf("storage: {directory: %q}\n", b.TempDir())
			}
			p := start(b, nil, mustBinary(b), "--config", writeConfig(b, config))
			p.await(tracing)
			time.Sleep(time.Second) // until it has settled: memory is read below, not time
			pid := p.cmd.Process.Pid
			idle := memory(b, pid)
			allocated := allocations(b, own)
			user, system := processorTime(b, pid)
			for b.Loop() {
				before, beforeSpans := s.logs.Load(), s.spans.Load()
				crowd := actor.Start(b, "crowd", actor.Plan{
					Listen: "127.0.0.1:0", Request: 1, Reply: 1, How: actor.ClientCloses, Connections: n, Workers: 4,
				})
				crowd.Report()
				crowd.Wait()
				for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
					logs, spans := s.logs.Load()-before, s.spans.Load()-beforeSpans
					if logs >= bm.logs*n && spans >= bm.spans*n {
						break
					}
					if time.Now().After(deadline) {
						b.Fatalf("%d log records and %d spans have come, want %d and %d", logs, spans, bm.logs*n, bm.spans*n)
					}
				}
			}
			userEnd, systemEnd := processorTime(b, pid)
			connections := float64(b.N * n)
			b.ReportMetric((allocations(b, own)-allocated)/connections, "allocs/connection")
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64((userEnd-user).Microseconds())/connections, "user-µs/connection")
			b.ReportMetric(float64((userEnd-user+systemEnd-system).Microseconds())/connections, "cpu-µs/connection")
			b.ReportMetric(idle, "idle-MB")
			b.ReportMetric(memory(b, pid), "loaded-MB")
			if info, err := os.Stat(mustBinary(b)); err == nil {
				b.ReportMetric(float64(info.Size())/1e6, "binary-MB")
			}
			p.stop(syscall.SIGTERM)
		})
	}
}

// processorTime reads utime and stime (proc(5)), in ticks of 10 ms.
func processorTime(b *testing.B, pid int) (user, system time.Duration) {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	ticks := func(i int) time.Duration {
		n, err := strconv.Atoi(fields[i])
		if err != nil {
			b.Fatal(err)
		}
		return time.Duration(n) * 10 * time.Millisecond
	}
	return ticks(11), ticks(12)
}

// allocations are all that the program has made, by its own count.
func allocations(b *testing.B, telemetry string) float64 {
	b.Helper()
	const name = "go_memstats_mallocs_total "
	for line := range strings.Lines(get(b, "http://"+telemetry+"/metrics")) {
		if value, ok := strings.CutPrefix(line, name); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatalf("no %sin the program's metrics", name)
	return 0
}

// memory is the resident set, MB.
func memory(b *testing.B, pid int) float64 {
	b.Helper()
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	if err != nil {
		b.Fatal(err)
	}
	return float64(pages*os.Getpagesize()) / 1e6
}
