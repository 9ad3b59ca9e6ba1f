package exporter

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/connspan/connspan/internal/actor"
	"github.com/connspan/connspan/internal/conn"
	"github.com/connspan/connspan/internal/coverage"
	"github.com/connspan/connspan/internal/event"
	"github.com/connspan/connspan/internal/merge"
)

// TestSampleIsComplete: nothing is told of a sample before the stream has come to its end: what is behind
// a CPU that sleeps belongs to it too. With max_hold the stream does not wait for that CPU, nor does the
// sample.
func TestSampleIsComplete(t *testing.T) {
	for _, tt := range []struct {
		name    string
		maxHold time.Duration
		now     uint64 // while one CPU sleeps since before the sample
		told    int
	}{
		{"no bound", 0, 1000 * second, 0},
		{"held for less than max_hold", 10 * time.Second, 29 * second, 0},
		{"held for max_hold", 10 * time.Second, 31 * second, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &sinks{}
			x := withoutTracer(t, Consumers{Metrics: []consumer.Metrics{s}}, tt.maxHold)
			const awake, asleep = 0, 1
			release := func(now uint64) {
				x.merge.Release(now, func(e *event.Event) { x.apply(t.Context(), e) })
				x.report(t.Context())
			}
			x.merge.Push(life(1, 1, 5*second, 0, 0)[0])
			x.merge.Push(life(2, 2, 15*second, 0, 0)[0])
			x.merge.Watermark(awake, 10*second)
			x.merge.Watermark(asleep, 10*second)
			x.samples.metrics.due, x.samples.to = true, 20*second
			release(10 * second)
			x.merge.Watermark(awake, tt.now)
			release(tt.now)
			if len(s.metrics) != tt.told {
				t.Errorf("told %d times while a CPU sleeps, want %d", len(s.metrics), tt.told)
			}
			x.merge.Watermark(asleep, tt.now)
			release(tt.now)
			release(tt.now + second)
			if len(s.metrics) != 1 {
				t.Fatalf("told %d times in the end, want once", len(s.metrics))
			}
			if got := len(points(s.metrics[0], "tcp.connection.opened")); got != 2 {
				t.Errorf("%d series, want those of both processes: what they opened is older than the sample", got)
			}
		})
	}
}

// withoutTracer is an Exporter of two CPUs whose events the test pushes.
func withoutTracer(t *testing.T, to Consumers, maxHold time.Duration) *Exporter {
	t.Helper()
	m, err := merge.New(merge.Config{CPUs: 2, MaxHold: maxHold})
	if err != nil {
		t.Fatal(err)
	}
	tally, err := coverage.NewTally(func() uint64 { return 0 })
	if err != nil {
		t.Fatal(err)
	}
	cfg, logger := NewDefaultConfig(), slog.New(slog.NewTextHandler(t.Output(), nil))
	x := &Exporter{
		cfg: cfg, to: to, logger: logger, merge: m, table: conn.NewTable(), clock: fixedClock(t), tally: tally,
		processes: describe(cfg.Resource, hostOnly(), known), loss: newLoss(2, logger), refusals: newRefusals(logger),
	}
	x.signals = newSignals(cfg, to, x.processes, x.clock, epoch)
	return x
}

// TestTotalsAtTheEnd: what connections have carried that are still open when Run ends is told, although
// it has never been time for the metrics.
func TestTotalsAtTheEnd(t *testing.T) {
	const connections, request, reply = 10, 300, 7000
	s := &sinks{}
	cfg := NewDefaultConfig()
	cfg.Metrics.Interval, cfg.Metrics.ExpireAfter = time.Hour, time.Hour
	end := startSinks(t, cfg, s)
	holder := actor.Start(t, "hold", actor.Plan{Listen: "127.0.0.1:0", Connections: connections, Request: request, Reply: reply})
	holder.Report()
	end()
	for name, want := range map[string]int64{"opened": 2 * connections, "active": 2 * connections, "closed": 0} {
		if got := s.sum(holder.PID(), "tcp.connection."+name, "", ""); got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
	}
	for _, direction := range []string{"transmit", "receive"} {
		if got := s.sum(holder.PID(), "tcp.connection.io", attrDirection, direction); got != connections*(request+reply) {
			t.Errorf("%s: %d octets, want %d", direction, got, connections*(request+reply))
		}
	}
	if len(s.metrics) != 1 {
		t.Errorf("metrics told %d times, want once, at the end", len(s.metrics))
	}
}

// startSinks runs an Exporter that gives all three signals to s until its end is called, at the latest with
// its test.
func startSinks(t *testing.T, cfg Config, s *sinks) (end func()) {
	t.Helper()
	to := Consumers{Logs: []consumer.Logs{s}, Metrics: []consumer.Metrics{s}, Traces: []consumer.Traces{s}}
	x, err := New(cfg, to, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- x.Run(ctx) }()
	end = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-ended, x.Close()); err != nil {
			t.Errorf("running: %v", err)
		}
	})
	t.Cleanup(end)
	return end
}

// batches are what the consumers are given, by size.
type batches struct {
	trace   *trace // takes the log records
	mu      sync.Mutex
	largest int
	full    int // as large as they may be
	beats   int
}

func (b *batches) see(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.largest = max(b.largest, n)
	if n == MaxBatch {
		b.full++
	}
}

func (b *batches) consumeLogs(ctx context.Context, ld plog.Logs) error {
	b.see(ld.LogRecordCount())
	for _, rl := range ld.ResourceLogs().All() {
		for _, lr := range rl.ScopeLogs().At(0).LogRecords().All() {
			if lr.EventName() == nameHeartbeat {
				b.beats++ // the reader's goroutine alone comes here, until it has ended
			}
		}
	}
	return b.trace.consume(ctx, ld)
}

func (b *batches) consumeTraces(_ context.Context, td ptrace.Traces) error {
	b.see(td.SpanCount())
	return nil
}

// TestBatches: however many there are to tell of at once, heartbeats of what is open or ends that are
// found when the sockets are looked at, no consumer is given more than MaxBatch of them in a call.
func TestBatches(t *testing.T) {
	const connections = 2500
	b := &batches{}
	traces, err := consumer.NewTraces(b.consumeTraces)
	if err != nil {
		t.Fatal(err)
	}
	tr := startTraceTo(t, allowedCPUs(t), func(cfg *Config, to *Consumers, tr *trace) {
		overflowing(cfg)
		cfg.Logs.Heartbeat = time.Second
		b.trace = tr
		logs, err := consumer.NewLogs(b.consumeLogs)
		if err != nil {
			t.Fatal(err)
		}
		to.Logs, to.Traces = []consumer.Logs{logs}, []consumer.Traces{traces}
	})
	holder := actor.Start(t, "hold", actor.Plan{Listen: "127.0.0.1:0", Connections: connections})
	holder.Report()
	tr.within(20*time.Second, "all beat", func() bool { return tr.now().Heartbeats >= 2*connections })

	goOn := tr.stand()
	holder.Kill()
	goOn()
	tr.within(20*time.Second, "all are closed", func() bool { return len(openEnds(tr.of(holder.PID()))) == 0 })
	tr.stop()
	if tr.stats.Synthesized <= MaxBatch || b.beats < 2*connections {
		t.Fatalf("%d ends were found at once and %d heartbeats told: this test shows nothing; %+v", tr.stats.Synthesized, b.beats, tr.stats)
	}
	if b.largest > MaxBatch || b.full == 0 {
		t.Errorf("the largest batch has %d records, and %d have %d; want none with more, and some with as many", b.largest, b.full, MaxBatch)
	}
}
