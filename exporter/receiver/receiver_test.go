package receiver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/connspan/connspan/exporter"
	"github.com/connspan/connspan/internal/actor"
)

// host hears of the receiver's status.
type host struct {
	mu       sync.Mutex
	statuses []string
}

func (*host) GetExtensions() map[component.ID]component.Component { return nil }

func (h *host) Report(e *componentstatus.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.statuses = append(h.statuses, fmt.Sprint(e.Status(), ": ", e.Err()))
}

func (h *host) heard() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.statuses)
}

// counter counts log records, data points or spans, by the process that they are of. It does not keep them:
// there may be many other connections on this host.
type counter struct {
	mu  sync.Mutex
	of  map[int64]int
	all int
}

func (c *counter) add(r pcommon.Resource, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all += n
	if v, ok := r.Attributes().Get("process.pid"); ok {
		if c.of == nil {
			c.of = map[int64]int{}
		}
		c.of[v.Int()] += n
	}
}

func (c *counter) total() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all
}

func (c *counter) ofProcess(pid int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of[int64(pid)]
}

func (c *counter) logs(_ context.Context, ld plog.Logs) error {
	for _, rl := range ld.ResourceLogs().All() {
		c.add(rl.Resource(), rl.ScopeLogs().At(0).LogRecords().Len())
	}
	return nil
}

func (c *counter) metrics(_ context.Context, md pmetric.Metrics) error {
	c.add(pcommon.NewResource(), md.DataPointCount())
	return nil
}

func (c *counter) traces(_ context.Context, td ptrace.Traces) error {
	for _, rs := range td.ResourceSpans().All() {
		c.add(rs.Resource(), rs.ScopeSpans().At(0).Spans().Len())
	}
	return nil
}

// pipelines are where a test's receivers give to.
type pipelines struct {
	t         *testing.T
	logs      counter
	metrics   counter
	traces    counter
	telemetry *componenttest.Telemetry
	host      host
	receivers []component.Component
}

// create makes a receiver for each signal, of one component ID. Log records pass the gate, if there is one.
func create(t *testing.T, cfg *Config, gate <-chan struct{}) *pipelines {
	t.Helper()
	p := &pipelines{t: t, telemetry: componenttest.NewTelemetry()}
	logs, err := consumer.NewLogs(func(ctx context.Context, ld plog.Logs) error {
		if gate != nil {
			<-gate
		}
		return p.logs.logs(ctx, ld)
	})
	metrics, metricsErr := consumer.NewMetrics(p.metrics.metrics)
	traces, tracesErr := consumer.NewTraces(p.traces.traces)
	if err := errors.Join(err, metricsErr, tracesErr); err != nil {
		t.Fatal(err)
	}
	set := receivertest.NewNopSettings(Type)
	set.TelemetrySettings = p.telemetry.NewTelemetrySettings()
	f := NewFactory()
	l, err := f.CreateLogs(t.Context(), set, cfg, logs)
	m, metricsErr := f.CreateMetrics(t.Context(), set, cfg, metrics)
	s, tracesErr := f.CreateTraces(t.Context(), set, cfg, traces)
	if err := errors.Join(err, metricsErr, tracesErr); err != nil {
		t.Fatal(err)
	}
	p.receivers = []component.Component{l, m, s}
	t.Cleanup(func() { _ = p.telemetry.Shutdown(context.WithoutCancel(t.Context())) })
	return p
}

func (p *pipelines) start() {
	p.t.Helper()
	for _, r := range p.receivers {
		if err := r.Start(p.t.Context(), &p.host); err != nil {
			p.t.Fatal(err)
		}
	}
	p.t.Cleanup(p.shutdown)
}

func (p *pipelines) shutdown() {
	p.t.Helper()
	for _, r := range p.receivers {
		if err := r.Shutdown(context.WithoutCancel(p.t.Context())); err != nil {
			p.t.Error(err)
		}
	}
}

// await waits until there are so many.
func (p *pipelines) await(what string, n int, count func() int) {
	p.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if count() >= n {
			return
		}
	}
	p.t.Fatalf("%d %s after 30 s, want %d; status %q", count(), what, n, p.host.heard())
}

// sum adds up the values of one of the receiver's own metrics that are of the signal; empty: of all.
func (p *pipelines) sum(name, signal string) (n int) {
	p.t.Helper()
	m, err := p.telemetry.GetMetric(name)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, point := range m.Data.(metricdata.Sum[int64]).DataPoints {
		if v, ok := point.Attributes.Value("otelcol.signal"); signal == "" || ok && v.AsString() == signal {
			n += int(point.Value)
		}
	}
	return n
}

func testConfig() *Config {
	cfg := newDefaultConfig().(*Config)
	cfg.Exporter.Tracer.Interval = 5 * time.Millisecond
	cfg.Exporter.Metrics.Interval = time.Second
	return cfg
}

func pair(t *testing.T) (pid int) {
	t.Helper()
	p := actor.Start(t, "pair", actor.Plan{Listen: "127.0.0.1:0", Request: 120, Reply: 5300, How: actor.ClientCloses})
	p.Report()
	p.Cue()
	p.Report()
	p.Wait()
	return p.PID()
}

// TestReceive: real connections come out of the pipelines of all signals, and what the receiver tells of
// itself adds up.
func TestReceive(t *testing.T) {
	p := create(t, testConfig(), nil)
	p.start()
	pid := pair(t)
	p.await("log records", 4, func() int { return p.logs.ofProcess(pid) })
	p.await("spans", 2, func() int { return p.traces.ofProcess(pid) })
	p.await("data points", 1, p.metrics.total)
	for name, want := range readMetadata(t).Telemetry.Metrics {
		m, err := p.telemetry.GetMetric(name)
		if err != nil {
			t.Error(err)
		} else if m.Description != want.Description || m.Unit != want.Unit {
			t.Errorf("%s: %q in %q, want %q in %q", name, m.Description, m.Unit, want.Description, want.Unit)
		}
	}
	if n := p.sum("connspan.record.told", "logs"); n < 4 {
		t.Errorf("told of %d log records, want 4 or more", n)
	}
	p.shutdown()
	for name, want := range map[string]int{
		"otelcol_receiver_accepted_log_records":   p.logs.total(),
		"otelcol_receiver_accepted_metric_points": p.metrics.total(),
		"otelcol_receiver_accepted_spans":         p.traces.total(),
	} {
		if n := p.sum(name, ""); n != want {
			t.Errorf("%s: %d, want %d", name, n, want)
		}
	}
	if heard := p.host.heard(); heard != nil {
		t.Errorf("status %q, want no news", heard)
	}
}

// TestBlocked: a pipeline that takes nothing holds up neither the kernel's rings nor the other pipelines;
// what it costs is counted and reported, and also that it is over.
func TestBlocked(t *testing.T) {
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	defer open()
	cfg := testConfig()
	cfg.QueueSize = 1000
	cfg.Exporter.Tracer.RingSize = 16 << 20
	p := create(t, cfg, gate)
	p.start()
	blind := actor.Blind(t)
	const n = 2000
	crowd := actor.Start(t, "crowd", actor.Plan{Listen: "127.0.0.1:0", Request: 1, Reply: 1, How: actor.ClientCloses, Connections: n, Workers: 4})
	crowd.Report()
	crowd.Wait()
	// The other pipelines get what they always do, but for what their own small queues refuse.
	p.await("spans", 2*n-blind(), func() int { return p.traces.ofProcess(crowd.PID()) + p.sum("connspan.record.refused", "traces") })
	p.await("statuses", 1, func() int { return len(p.host.heard()) })
	if s := p.host.heard()[0]; !strings.HasPrefix(s, "StatusRecoverableError: lost 0 events to full rings, 0 state changes") {
		t.Errorf("status %q", s)
	}
	if lost, refused := p.sum("connspan.event.lost", ""), p.sum("connspan.record.refused", "logs"); lost != 0 || refused < n {
		t.Errorf("%d events lost in the kernel, want none; %d log records refused, want most of %d", lost, refused, 4*n)
	}
	if waiting := p.sum("connspan.receiver.queue.size", "logs"); waiting == 0 || waiting > max(cfg.QueueSize, exporter.MaxBatch) {
		t.Errorf("%d log records wait, want some, and at most %d", waiting, cfg.QueueSize)
	}
	open()
	p.await("times that what was told has been taken or refused", 1, func() int {
		told := p.sum("connspan.record.told", "logs")
		if told == p.logs.total()+p.sum("connspan.record.refused", "logs") {
			return 1
		}
		return 0
	})
	const healthy = "StatusOK: <nil>"
	p.await("healthy statuses for each of three pipelines", 3, func() int {
		return strings.Count(strings.Join(p.host.heard(), "\n"), healthy)
	})
}

// TestLifecycle is what mdatagen would generate, and a restart with the same configuration.
func TestLifecycle(t *testing.T) {
	creators := map[string]func(receiver.Factory, receiver.Settings, *Config) (component.Component, error){
		"logs": func(f receiver.Factory, set receiver.Settings, cfg *Config) (component.Component, error) {
			return f.CreateLogs(t.Context(), set, cfg, consumertest.NewNop())
		},
		"metrics": func(f receiver.Factory, set receiver.Settings, cfg *Config) (component.Component, error) {
			return f.CreateMetrics(t.Context(), set, cfg, consumertest.NewNop())
		},
		"traces": func(f receiver.Factory, set receiver.Settings, cfg *Config) (component.Component, error) {
			return f.CreateTraces(t.Context(), set, cfg, consumertest.NewNop())
		},
	}
	for name, create := range creators {
		t.Run(name, func(t *testing.T) {
			f, cfg := NewFactory(), testConfig()
			unused, err := create(f, receivertest.NewNopSettings(Type), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := unused.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			var open []int // file descriptors, after each of the lives
			for range 2 {
				r, err := create(f, receivertest.NewNopSettings(Type), cfg)
				if err != nil {
					t.Fatal(err)
				}
				if err := r.Start(t.Context(), componenttest.NewNopHost()); err != nil {
					t.Fatal(err)
				}
				if err := r.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
				if err := r.Shutdown(t.Context()); err != nil {
					t.Error("the second time:", err)
				}
				fds, err := os.ReadDir("/proc/self/fd")
				if err != nil {
					t.Fatal(err)
				}
				open = append(open, len(fds))
			}
			if open[1] > open[0] {
				t.Errorf("%d file descriptors, then %d", open[0], open[1])
			}
		})
	}
}

// TestShared: the tracer of three pipelines is there from the last Start to the first Shutdown, and the
// next one with the same configuration is another.
func TestShared(t *testing.T) {
	cfg, set := testConfig(), receivertest.NewNopSettings(Type)
	f := NewFactory()
	create := func() []*tracer {
		l, err := f.CreateLogs(t.Context(), set, cfg, consumertest.NewNop())
		m, metricsErr := f.CreateMetrics(t.Context(), set, cfg, consumertest.NewNop())
		s, tracesErr := f.CreateTraces(t.Context(), set, cfg, consumertest.NewNop())
		if err := errors.Join(err, metricsErr, tracesErr); err != nil {
			t.Fatal(err)
		}
		return []*tracer{l.(*tracer), m.(*tracer), s.(*tracer)}
	}
	first := create()
	var running []bool
	for _, r := range first {
		if err := r.Start(t.Context(), componenttest.NewNopHost()); err != nil {
			t.Fatal(err)
		}
		running = append(running, r.run != nil)
	}
	var second []*tracer
	for _, r := range first {
		if err := r.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		running = append(running, r.run != nil)
		if second == nil {
			second = create()
		}
	}
	if d := cmp.Diff([]bool{false, false, true, false, false, false}, running); d != "" {
		t.Errorf("running after each call:\n%s", d)
	}
	if first[0] != first[1] || first[1] != first[2] || second[0] != second[2] || first[0] == second[0] {
		t.Errorf("tracers %p, then %p", first, second)
	}
	if third := create(); third[0] != second[0] {
		t.Error("a late Shutdown has parted those that share a tracer")
	}
	if err := second[0].Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestMutates: a pipeline that changes what it then refuses gets it again as it was.
func TestMutates(t *testing.T) {
	var got []string
	taken := make(chan struct{})
	next, err := consumer.NewLogs(func(_ context.Context, ld plog.Logs) error {
		body := ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Body()
		got = append(got, body.Str())
		body.SetStr("changed")
		if len(got) == 1 {
			return errors.New("not now")
		}
		close(taken)
		return nil
	}, consumer.WithCapabilities(consumer.Capabilities{MutatesData: true}))
	if err != nil {
		t.Fatal(err)
	}
	r, err := newTracer(receivertest.NewNopSettings(Type), testConfig(), func() {})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.addLogs(next); err != nil {
		t.Fatal(err)
	}
	go r.queues[0].run()
	ld := plog.NewLogs()
	ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty().Body().SetStr("whole")
	if err := r.to.Logs[0].ConsumeLogs(t.Context(), ld); err != nil {
		t.Fatal(err)
	}
	<-taken
	if err := r.queues[0].close(t.Context()); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff([]string{"whole", "whole"}, got); d != "" {
		t.Error(d)
	}
}

// TestEnds: a tracer that cannot go on is a permanent error, and ends the watch.
func TestEnds(t *testing.T) {
	var h host
	ctx, cancel := context.WithCancel(t.Context())
	r := &run{hosts: []component.Host{&h, &h}, logger: slog.New(slog.DiscardHandler), cancel: cancel}
	r.trace(ctx, func(context.Context) error { return errors.New("a ring is gone") })
	want := []string{"StatusPermanentError: a ring is gone", "StatusPermanentError: a ring is gone"}
	if d := cmp.Diff(want, h.heard()); d != "" {
		t.Error(d)
	}
	if ctx.Err() == nil {
		t.Error("the watch goes on")
	}
}
