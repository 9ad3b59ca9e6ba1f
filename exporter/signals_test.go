package exporter

import (
	"context"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/connspan/connspan/internal/actor"
)

// sinks keep what they are given.
type sinks struct {
	mu      sync.Mutex
	logs    []plog.LogRecord
	spans   []ptrace.Span
	metrics []pmetric.Metrics
}

func (s *sinks) ConsumeLogs(_ context.Context, ld plog.Logs) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rl := range ld.ResourceLogs().All() {
		for _, lr := range rl.ScopeLogs().At(0).LogRecords().All() {
			s.logs = append(s.logs, lr)
		}
	}
	return nil
}

func (s *sinks) ConsumeTraces(_ context.Context, td ptrace.Traces) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range td.ResourceSpans().All() {
		for _, sp := range rs.ScopeSpans().At(0).Spans().All() {
			s.spans = append(s.spans, sp)
		}
	}
	return nil
}

func (s *sinks) ConsumeMetrics(_ context.Context, md pmetric.Metrics) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.metrics = append(s.metrics, md)
	return nil
}

func (*sinks) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

// sum adds up the newest points of a metric in the Resource of a process, with that attribute where
// one is given.
func (s *sinks) sum(pid int, name, attribute, value string) (total int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.metrics) == 0 {
		return 0
	}
	for _, rm := range s.metrics[len(s.metrics)-1].ResourceMetrics().All() {
		if owner, ok := rm.Resource().Attributes().Get(attrPID); !ok || owner.Int() != int64(pid) {
			continue
		}
		for _, m := range rm.ScopeMetrics().At(0).Metrics().All() {
			if m.Name() != name {
				continue
			}
			for _, d := range m.Sum().DataPoints().All() {
				if v, _ := d.Attributes().Get(attribute); attribute == "" || v.Str() == value {
					total += d.IntValue()
				}
			}
		}
	}
	return total
}

// TestSignals: log records, spans and metrics of the same real connections agree with each other and
// with what their process did; what an open connection carries is counted while it is open, and once.
func TestSignals(t *testing.T) {
	const connections, request, reply = 6, 700, 50_000
	s := &sinks{}
	cfg := NewDefaultConfig()
	cfg.Tracer.Interval = 5 * time.Millisecond
	cfg.Metrics.Interval = time.Second
	cfg.Logs.Heartbeat = time.Second
	end := startSinks(t, cfg, s)

	holder := actor.Start(t, "hold", actor.Plan{Listen: "127.0.0.1:0", Connections: connections, Request: request, Reply: reply})
	holder.Report()
	want := map[string]int64{"tcp.connection.active": 2 * connections, "tcp.connection.opened": 2 * connections}
	each := int64(connections * (request + reply))
	eventually(t, func() bool {
		return s.sum(holder.PID(), "tcp.connection.active", "", "") == want["tcp.connection.active"] &&
			s.sum(holder.PID(), "tcp.connection.opened", "", "") == want["tcp.connection.opened"] &&
			s.sum(holder.PID(), "tcp.connection.io", attrDirection, "transmit") == each &&
			s.sum(holder.PID(), "tcp.connection.io", attrDirection, "receive") == each
	}, func() any { return s.sum(holder.PID(), "tcp.connection.io", attrDirection, "receive") })

	holder.Cue() // half of them are closed, and as many opened
	holder.Report()
	eventually(t, func() bool {
		return s.sum(holder.PID(), "tcp.connection.active", "", "") == 2*connections &&
			s.sum(holder.PID(), "tcp.connection.opened", "", "") == 3*connections &&
			s.sum(holder.PID(), "tcp.connection.closed", "", "") == connections &&
			s.sum(holder.PID(), "tcp.connection.io", attrDirection, "receive") == 2*each
	}, func() any { return s.sum(holder.PID(), "tcp.connection.io", attrDirection, "receive") })
	time.Sleep(1100 * time.Millisecond) // some of them beat
	holder.Kill()
	eventually(t, func() bool { return s.sum(holder.PID(), "tcp.connection.closed", "", "") == 3*connections }, nil)

	end()
	for _, direction := range []string{"transmit", "receive"} {
		if got := s.sum(holder.PID(), "tcp.connection.io", attrDirection, direction); got != 2*each {
			t.Errorf("%s: %d octets in the end, want %d: each once", direction, got, 2*each)
		}
	}
	if got := s.sum(holder.PID(), "tcp.connection.active", "", ""); got != 0 {
		t.Errorf("%d connections active in the end", got)
	}
	checkSpans(t, s, holder.PID(), 3*connections)
	checkTraceLinks(t, s, holder.PID())
}

func eventually(t *testing.T, ok func() bool, got func() any) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			if got != nil {
				t.Errorf("got %v", got())
			}
			t.Fatal("not within 10 s")
		}
	}
}

// checkSpans: each connection is one trace of two spans, the server's below the client's and within
// what the handshake allows.
func checkSpans(t *testing.T, s *sinks, pid, ends int) {
	t.Helper()
	clients, servers := map[string]ptrace.Span{}, map[string]ptrace.Span{}
	for _, sp := range s.spans {
		if owner, ok := sp.Attributes().Get(attrPID); !ok || owner.Int() != int64(pid) {
			continue
		}
		trace := sp.TraceID().String()
		if sp.Kind() == ptrace.SpanKindClient {
			clients[trace] = sp
		} else {
			servers[trace] = sp
		}
	}
	if len(clients) != ends/2 || len(servers) != ends/2 {
		t.Errorf("%d traces with a client's span and %d with a server's, want %d", len(clients), len(servers), ends/2)
	}
	for trace, c := range clients {
		sv, ok := servers[trace]
		if !ok {
			t.Errorf("trace %s has no server's span", trace)
			continue
		}
		if sv.ParentSpanID() != c.SpanID() || !c.ParentSpanID().IsEmpty() {
			t.Errorf("trace %s: client %s below %s, server below %s", trace, c.SpanID(), c.ParentSpanID(), sv.ParentSpanID())
		}
		if sv.StartTimestamp() < c.StartTimestamp()-1000 { // the kernel's round-trip time is in whole µs
			t.Errorf("trace %s: the server's end begins %v before the client's", trace, c.StartTimestamp()-sv.StartTimestamp())
		}
		if c.Events().Len() != 2 || sv.Events().Len() != 2 {
			t.Errorf("trace %s: %d and %d events, want established and fin", trace, c.Events().Len(), sv.Events().Len())
		}
	}
}

// checkTraceLinks: the log records of a connection name its span, and those that were open for long
// have beaten.
func checkTraceLinks(t *testing.T, s *sinks, pid int) {
	t.Helper()
	spans := map[string]bool{}
	for _, sp := range s.spans {
		spans[sp.TraceID().String()+sp.SpanID().String()] = true
	}
	events := map[string]int{}
	for _, lr := range s.logs {
		if owner, ok := lr.Attributes().Get(attrPID); !ok || owner.Int() != int64(pid) {
			continue
		}
		events[lr.EventName()]++
		if ahead := lr.Timestamp().AsTime().Sub(lr.ObservedTimestamp().AsTime()); ahead > 0 {
			t.Errorf("%s: has the time of %v after it was observed", lr.Body().Str(), ahead)
		}
		if !spans[lr.TraceID().String()+lr.SpanID().String()] || !lr.Flags().IsSampled() {
			t.Errorf("%s names a span that is not there", lr.Body().Str())
		}
	}
	if events[nameHeartbeat] == 0 || events[nameOpen] != events[nameClose] {
		t.Errorf("log records %v, want heartbeats, and as many ends as beginnings", events)
	}
}
