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
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // what the program sends

	"github.com/connspan/connspan/internal/actor"
)

// sink is an OTLP server that counts records and forgets them.
type sink struct {
	plogotlp.UnimplementedGRPCServer
	records atomic.Int64
}

func (s *sink) Export(_ context.Context, r plogotlp.ExportRequest) (plogotlp.ExportResponse, error) {
	s.records.Add(int64(r.Logs().LogRecordCount()))
	return plogotlp.NewExportResponse(), nil
}

func startSink(b *testing.B) (*sink, string) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s, server := &sink{}, grpc.NewServer()
	plogotlp.RegisterGRPCServer(server, s)
	go func() { _ = server.Serve(l) }()
	b.Cleanup(server.Stop)
	return s, l.Addr().String()
}

// BenchmarkAgent reports what the program costs while it ships two log records for each end of
// twenty thousand connections over gRPC: processor time for each connection, in user space and in
// all, memory before and after, and the size of the binary.
func BenchmarkAgent(b *testing.B) {
	const n = 20_000
	s, addr := startSink(b)
	for _, compression := range []string{"gzip", "none"} {
		b.Run(compression, func(b *testing.B) {
			config := fmt.Sprintf("exporters: {otlp: {endpoint: %q, tls: {insecure: true}, compression: %s}}", addr, compression)
			p := start(b, nil, mustBinary(b), "--config", writeConfig(b, config))
			p.await(tracing)
			time.Sleep(time.Second) // until it has settled: memory is read below, not time
			pid := p.cmd.Process.Pid
			idle := memory(b, pid)
			user, system := processorTime(b, pid)
			for b.Loop() {
				before := s.records.Load()
				crowd := actor.Start(b, "crowd", actor.Plan{
					Listen: "127.0.0.1:0", Request: 1, Reply: 1, How: actor.ClientCloses, Connections: n, Workers: 4,
				})
				crowd.Report()
				crowd.Wait()
				for deadline := time.Now().Add(30 * time.Second); s.records.Load() < before+4*n && time.Now().Before(deadline); {
					time.Sleep(10 * time.Millisecond)
				}
			}
			userEnd, systemEnd := processorTime(b, pid)
			connections := float64(b.N * n)
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
