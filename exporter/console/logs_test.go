package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConfigValidate(t *testing.T) {
	for format, want := range map[string]string{
		FormatText:     "",
		FormatOTLPJSON: "",
		"":             `configuring console: format: "", want text or otlp_json`,
		"json":         `configuring console: format: "json", want text or otlp_json`,
	} {
		var got string
		if _, err := NewLogs(t.Context(), settings(), &Config{Format: format}, io.Discard); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("format %q: got error %q, want %q", format, got, want)
		}
	}
}

func TestWritesInTheOrderOfTheCalls(t *testing.T) {
	var out strings.Builder
	l := mustNew(t, &out)
	l.encode = names
	mustStart(t, l, nil)
	var want strings.Builder
	for i := range 1000 {
		name := fmt.Sprint(i)
		mustConsume(t, l, records(name))
		want.WriteString(name + "\n")
	}
	if err := l.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), out.String()); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

func TestOneWritePerRequest(t *testing.T) {
	w := &writes{}
	l := mustNew(t, w)
	mustStart(t, l, nil)
	mustConsume(t, l, records("a", "b"))
	if err := l.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(w.all) != 1 || strings.Count(w.all[0], "\n") != 3 {
		t.Errorf("got writes %q, want one of a header and two lines", w.all)
	}
}

func TestBlockedWriterBlocksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		l := mustNew(t, w)
		l.encode = names
		mustStart(t, l, nil)

		name := strings.Repeat("x", 10)
		batch := make([]string, 1000)
		for i := range batch {
			batch[i] = name
		}
		var taken int
		var err error
		for range 2 * queueSize / len(batch) {
			if err = l.ConsumeLogs(t.Context(), records(batch...)); err != nil {
				break
			}
			taken += len(batch)
		}
		if !errors.Is(err, exporterhelper.ErrQueueIsFull) || taken != queueSize {
			t.Fatalf("got %d records taken, then error %v; want %d, then %v", taken, err, queueSize, exporterhelper.ErrQueueIsFull)
		}

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		err = l.Shutdown(ctx)
		if want := fmt.Sprintf("%d log records not written", queueSize); err == nil || err.Error() != want {
			t.Errorf("Shutdown: got error %v, want %s", err, want)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("Shutdown took %v, want the deadline's second", took)
		}

		// What Shutdown left behind ends with the call that blocks.
		b := make([]byte, 64<<10)
		n, err := r.Read(b)
		if want := strings.Repeat(name+"\n", len(batch)); err != nil || string(b[:n]) != want {
			t.Errorf("first read: got %d octets, error %v; want %d", n, err, len(want))
		}
		synctest.Wait()
		w.Close()
		if rest, err := io.ReadAll(r); err != nil || len(rest) != 0 {
			t.Errorf("after Shutdown: got %d octets, error %v; want none", len(rest), err)
		}
	})
}

func TestClosedPipeIsOnePermanentError(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r.Close()
	h := &host{reported: make(chan *componentstatus.Event, 10)}
	l := mustNew(t, w)
	mustStart(t, l, h)
	mustConsume(t, l, records("a"))

	var event *componentstatus.Event
	select {
	case event = <-h.reported:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing reported")
	}
	if event.Status() != componentstatus.StatusPermanentError || !errors.Is(event.Err(), syscall.EPIPE) {
		t.Errorf("got status %v, error %v; want a permanent error of EPIPE", event.Status(), event.Err())
	}
	for range 3 {
		if err := l.ConsumeLogs(t.Context(), records("b")); !consumererror.IsPermanent(err) || !errors.Is(err, syscall.EPIPE) {
			t.Errorf("ConsumeLogs after the failure: got error %v, want EPIPE, permanent", err)
		}
	}
	err = l.Shutdown(t.Context())
	if want := "1 log records not written"; err == nil || err.Error() != want {
		t.Errorf("Shutdown: got error %v, want %s", err, want)
	}
	if n := len(h.reported); n != 0 {
		t.Errorf("%d more errors reported, want none", n)
	}
}

func TestNotRunning(t *testing.T) {
	l := mustNew(t, io.Discard)
	if err := l.ConsumeLogs(t.Context(), records("a")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("before Start: got error %v, want %v", err, os.ErrClosed)
	}
	mustStart(t, l, nil)
	for range 2 {
		if err := l.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if err := l.ConsumeLogs(t.Context(), records("a")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Shutdown: got error %v, want %v", err, os.ErrClosed)
	}

	never := mustNew(t, io.Discard)
	if err := never.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown without Start: %v", err)
	}
}

func TestConsumeLogsConcurrentSafe(t *testing.T) {
	w := &writes{}
	l := mustNew(t, w)
	mustStart(t, l, nil)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 100 {
				if err := l.ConsumeLogs(t.Context(), records("a")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if err := l.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(strings.Join(w.all, ""), "\n"); n != 801 {
		t.Errorf("got %d lines, want 801", n)
	}
}

// names writes each record's name.
func names(b *bytes.Buffer, ld plog.Logs) error {
	for _, record := range inOrder(ld) {
		b.WriteString(record.EventName() + "\n")
	}
	return nil
}

// writes keeps what each call wrote.
type writes struct{ all []string }

func (w *writes) Write(p []byte) (int, error) {
	w.all = append(w.all, string(p))
	return len(p), nil
}

// host has no extensions.
type host struct{ reported chan *componentstatus.Event }

func (*host) GetExtensions() map[component.ID]component.Component { return nil }
func (h *host) Report(event *componentstatus.Event)               { h.reported <- event }

func settings() exporter.Settings {
	return exporter.Settings{
		ID: component.MustNewID("console"),
		TelemetrySettings: component.TelemetrySettings{
			Logger:         zap.NewNop(),
			TracerProvider: tracenoop.NewTracerProvider(),
			MeterProvider:  metricnoop.NewMeterProvider(),
			Resource:       pcommon.NewResource(),
		},
	}
}

func mustNew(t *testing.T, w io.Writer) *Logs {
	t.Helper()
	l, err := NewLogs(t.Context(), settings(), NewDefaultConfig(), w)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustStart(t *testing.T, l *Logs, h *host) {
	t.Helper()
	if err := l.Start(t.Context(), h); err != nil {
		t.Fatal(err)
	}
}

func mustConsume(t *testing.T, l *Logs, ld plog.Logs) {
	t.Helper()
	if err := l.ConsumeLogs(t.Context(), ld); err != nil {
		t.Fatal(err)
	}
}

// records returns a record for each event name.
func records(names ...string) plog.Logs {
	ld := plog.NewLogs()
	slice := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords()
	for _, name := range names {
		slice.AppendEmpty().SetEventName(name)
	}
	return ld
}

// What is written is what OTLP servers take, whatever the signal.
func TestJSONOfAllSignals(t *testing.T) {
	out := &writes{}
	cfg := &Config{Format: FormatOTLPJSON}
	metrics, err := NewMetrics(t.Context(), settings(), cfg, out)
	if err != nil {
		t.Fatal(err)
	}
	traces, err := NewTraces(t.Context(), settings(), cfg, out)
	if err != nil {
		t.Fatal(err)
	}
	md := pmetric.NewMetrics()
	md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty().SetEmptySum().DataPoints().AppendEmpty().SetIntValue(5)
	td := ptrace.NewTraces()
	td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty().SetName("tcp")

	for _, step := range []struct {
		component.Component
		consume func() error
	}{
		{metrics, func() error { return metrics.ConsumeMetrics(t.Context(), md) }},
		{traces, func() error { return traces.ConsumeTraces(t.Context(), td) }},
	} {
		if err := errors.Join(step.Start(t.Context(), nil), step.consume(), step.Shutdown(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	if len(out.all) != 2 || strings.Count(strings.Join(out.all, ""), "\n") != 2 {
		t.Fatalf("got %q, want two lines", out.all)
	}
	gotMetrics, gotTraces := pmetricotlp.NewExportRequest(), ptraceotlp.NewExportRequest()
	if err := errors.Join(gotMetrics.UnmarshalJSON([]byte(out.all[0])), gotTraces.UnmarshalJSON([]byte(out.all[1]))); err != nil {
		t.Fatal(err)
	}
	if gotMetrics.Metrics().DataPointCount() != 1 || gotTraces.Traces().SpanCount() != 1 {
		t.Errorf("got %q", out.all)
	}
}

func TestTextHasNoMetricsAndSpans(t *testing.T) {
	_, err := NewMetrics(t.Context(), settings(), NewDefaultConfig(), io.Discard)
	if want := `configuring console: format: "text", want otlp_json for metrics`; err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}
	_, err = NewTraces(t.Context(), settings(), NewDefaultConfig(), io.Discard)
	if want := `configuring console: format: "text", want otlp_json for spans`; err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}
}
