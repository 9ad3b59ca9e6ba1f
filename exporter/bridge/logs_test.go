package bridge

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory keeps what a provider exports.
type memory []sdklog.Record

func (m *memory) Export(_ context.Context, records []sdklog.Record) error {
	for _, r := range records {
		*m = append(*m, r.Clone())
	}
	return nil
}

func (*memory) Shutdown(context.Context) error   { return nil }
func (*memory) ForceFlush(context.Context) error { return nil }

// emit sends ld through a real provider.
func emit(t *testing.T, ld plog.Logs) memory {
	t.Helper()
	var m memory
	provider := sdklog.NewLoggerProvider(sdklog.WithProcessor(sdklog.NewSimpleProcessor(&m)))
	defer func() { _ = provider.Shutdown(context.WithoutCancel(t.Context())) }()
	c, err := NewLogs(provider)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ConsumeLogs(t.Context(), ld); err != nil {
		t.Fatal(err)
	}
	return m
}

func attributesOf(r *sdklog.Record) map[string]string {
	m := map[string]string{}
	r.WalkAttributes(func(kv attribute.KeyValue) bool {
		m[string(kv.Key)] = fmt.Sprint(kv.Value.Type(), " ", kv.Value.String())
		return true
	})
	return m
}

// TestLogs: all of a record arrives, and of its Resource what tells the process.
func TestLogs(t *testing.T) {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", "curl")
	rl.Resource().Attributes().PutInt("process.pid", 12)
	rl.Resource().Attributes().PutStr("process.executable.name", "curl")
	sl := rl.ScopeLogs().AppendEmpty()
	sl.SetSchemaUrl("https://opentelemetry.io/schemas/1.43.0")
	sl.Scope().SetName("scope")
	sl.Scope().SetVersion("1.2.3")
	sl.Scope().Attributes().PutBool("scoped", true)
	lr := sl.LogRecords().AppendEmpty()
	lr.SetEventName("tcp.connection.close")
	at, observed := time.Unix(1795345194, 886913934).UTC(), time.Unix(1795345195, 1).UTC()
	lr.SetTimestamp(pcommon.NewTimestampFromTime(at))
	lr.SetObservedTimestamp(pcommon.NewTimestampFromTime(observed))
	lr.SetSeverityNumber(plog.SeverityNumberWarn)
	lr.SetSeverityText("WARN")
	lr.SetTraceID(pcommon.TraceID{1, 2})
	lr.SetSpanID(pcommon.SpanID{3, 4})
	lr.SetFlags(plog.DefaultLogRecordFlags.WithIsSampled(true))
	lr.Body().SetStr("tcp.connection.close curl[12]")
	m := lr.Attributes()
	m.PutStr("process.executable.name", "its own")
	m.PutStr("string", "s")
	m.PutBool("bool", true)
	m.PutInt("int", -1)
	m.PutDouble("double", 0.5)
	m.PutEmpty("empty")
	m.PutEmptyBytes("bytes").FromRaw([]byte{1, 2})
	slice := m.PutEmptySlice("slice")
	slice.AppendEmpty().SetInt(1)
	slice.AppendEmpty().SetStr("two")
	m.PutEmptyMap("map").PutEmptyMap("inner").PutInt("n", 7)

	records := emit(t, ld)
	if len(records) != 1 {
		t.Fatalf("%d records, want 1", len(records))
	}
	r := &records[0]
	type rest struct {
		Event, Body, SeverityText, Scope string
		At, Observed                     time.Time
		Severity                         log.Severity
		TraceID, SpanID, Flags           string
	}
	scope := r.InstrumentationScope()
	got := rest{
		r.EventName(), r.Body().AsString(), r.SeverityText(),
		fmt.Sprint(scope.Name, " ", scope.Version, " ", scope.SchemaURL, " ", scope.Attributes.ToSlice()),
		r.Timestamp(), r.ObservedTimestamp(), r.Severity(),
		r.TraceID().String(), r.SpanID().String(), r.TraceFlags().String(),
	}
	want := rest{
		"tcp.connection.close", "tcp.connection.close curl[12]", "WARN",
		"scope 1.2.3 https://opentelemetry.io/schemas/1.43.0 [{\"scoped\":true}]",
		at, observed, log.SeverityWarn,
		"01020000000000000000000000000000", "0304000000000000", "01",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	wantAttributes := map[string]string{
		"process.pid": "INT64 12", "process.executable.name": "STRING its own",
		"string": "STRING s", "bool": "BOOL true", "int": "INT64 -1", "double": "FLOAT64 0.5", "empty": "EMPTY ",
		"bytes": "BYTESLICE AQI=", "slice": `SLICE [1,"two"]`, "map": `MAP {"inner":{"n":7}}`,
	}
	if d := cmp.Diff(wantAttributes, attributesOf(r)); d != "" {
		t.Error(d)
	}
}

// TestEmptyLog: what a record does not have is not made up, but for the time at which the SDK saw it.
func TestEmptyLog(t *testing.T) {
	ld := plog.NewLogs()
	ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	before := time.Now()
	r := &emit(t, ld)[0]
	if !r.Timestamp().IsZero() || r.ObservedTimestamp().Before(before) {
		t.Errorf("times %v and %v, want none, and now", r.Timestamp(), r.ObservedTimestamp())
	}
	if r.TraceID().IsValid() || r.SpanID().IsValid() || r.AttributesLen() != 0 || r.Body().Type() != attribute.EMPTY {
		t.Errorf("%+v, want it empty", r)
	}
}
