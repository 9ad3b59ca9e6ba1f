package main

import (
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// TestSink: a client of OTLP is content, and what it has sent is counted, by port.
func TestSink(t *testing.T) {
	sink, err := newChild("sink", false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sink.end(); err != nil {
			t.Error(err)
		}
	})
	var got taken
	if err := sink.ask(looking{Port: 80}, &got); err != nil {
		t.Fatal(err)
	}
	client, err := grpc.NewClient(got.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	records := plog.NewLogs()
	scope := records.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty()
	for _, port := range []int64{80, 80, 80, 81} {
		r := scope.LogRecords().AppendEmpty()
		r.SetEventName("tcp.connection.close")
		r.SetTimestamp(pcommon.NewTimestampFromTime(time.Now().Add(-time.Minute)))
		r.Attributes().PutInt("server.port", port)
	}
	scope.LogRecords().At(0).SetEventName("tcp.connection.open")
	if _, err := plogotlp.NewGRPCClient(client).Export(t.Context(), plogotlp.NewExportRequestFromLogs(records)); err != nil {
		t.Fatal(err)
	}
	if _, err := ptraceotlp.NewGRPCClient(client).Export(t.Context(), ptraceotlp.NewExportRequest()); err != nil {
		t.Fatal(err)
	}
	if err := sink.ask(looking{}, &got); err != nil {
		t.Fatal(err)
	}
	if got.Requests != 2 || got.Octets == 0 || got.Records != 3 || got.Ends != 2 {
		t.Errorf("taken %+v, want 2 requests, 3 records of port 80, two of them ends", got)
	}
	if got.P50 < time.Minute || got.P99 > 2*time.Minute {
		t.Errorf("on their way for %v (p50) and %v (p99), want a minute", got.P50, got.P99)
	}
}
