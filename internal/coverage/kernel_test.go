package coverage_test

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/goleak"

	"github.com/connspan/connspan/exporter"
	"github.com/connspan/connspan/internal/actor"
	"github.com/connspan/connspan/internal/coverage"
)

func TestMain(m *testing.M) {
	actor.Main()
	goleak.VerifyTestMain(m)
}

// sides are what is told of one network namespace.
type sides struct{ Kernel, Seen, Unseen coverage.Counters }

// TestUnseen: in a network namespace of its own the kernel counts what the tracer tells, to the last
// connection: openings on both sides, failures, resets, and those that are open; what is older than the
// first look is on neither side. It goes on when the process has gone through which it was looked at.
func TestUnseen(t *testing.T) {
	ns := actor.NewNetNS(t)
	reader := trace(t)
	blind := actor.Blind(t)
	const old, crowd, resets, refusals, held = 3, 300, 5, 7, 20
	holder := func(n int) *actor.Process {
		p := ns.Start("hold", actor.Plan{Listen: "127.0.0.1:0", Connections: n})
		p.Report()
		return p
	}
	first := holder(old)
	await(t, reader, ns.Inode(), blind, sides{
		Kernel: coverage.Counters{CurrEstab: 2 * old}, Seen: coverage.Counters{CurrEstab: 2 * old},
	})
	second := holder(held)
	plan := actor.Plan{Listen: "127.0.0.1:0", Request: 100, Reply: 5000, How: actor.ClientCloses, Connections: crowd, Workers: 4}
	finish(ns.Start("crowd", plan))
	finish(ns.Start("refused", actor.Plan{Connect: netip.AddrPortFrom(netip.IPv6Loopback(), 1).String(), Connections: refusals}))
	plan.How = actor.ClientResets
	for range resets {
		pair := ns.Start("pair", plan)
		pair.Report()
		pair.Cue()
		finish(pair)
	}
	made := coverage.Counters{
		ActiveOpens: held + crowd + refusals + resets, PassiveOpens: held + crowd + resets,
		AttemptFails: refusals, EstabResets: 2 * resets, CurrEstab: 2 * (old + held),
	}
	await(t, reader, ns.Inode(), blind, sides{Kernel: made, Seen: made})
	first.Kill()
	made.CurrEstab -= 2 * old
	await(t, reader, ns.Inode(), blind, sides{Kernel: made, Seen: made})
	second.Kill()
}

func finish(p *actor.Process) {
	p.Report()
	p.Wait()
}

// trace runs a tracer until the test ends, and gives what reads its metrics.
func trace(t *testing.T) *sdkmetric.ManualReader {
	t.Helper()
	x, err := exporter.New(exporter.NewDefaultConfig(), exporter.Consumers{}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	reader := sdkmetric.NewManualReader()
	if err := x.Observe(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- x.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	return reader
}

// await wants this of a namespace, soon.
func await(t *testing.T, reader *sdkmetric.ManualReader, netns int64, blind func() int, want sides) {
	t.Helper()
	var got sides
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if got = collect(t, reader, netns); got == want {
			return
		}
	}
	if n := blind(); n > 0 {
		t.Skipf("the kernel has run no program for %d state changes:\n%s", n, cmp.Diff(want, got))
	}
	t.Fatalf("network namespace %d (-want +got):\n%s", netns, cmp.Diff(want, got))
}

func collect(t *testing.T, reader *sdkmetric.ManualReader, netns int64) (all sides) {
	t.Helper()
	var metrics metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &metrics); err != nil {
		t.Fatal(err)
	}
	for _, m := range metrics.ScopeMetrics[0].Metrics {
		for prefix, c := range map[string]*coverage.Counters{"connspan.kernel.tcp.": &all.Kernel, "connspan.seen.tcp.": &all.Seen, "connspan.unseen.tcp.": &all.Unseen} {
			if name, ok := strings.CutPrefix(m.Name, prefix); ok {
				set(t, c, name, m, netns)
			}
		}
	}
	return all
}

// set takes a counter over from its metric.
func set(t *testing.T, c *coverage.Counters, name string, m metricdata.Metrics, netns int64) {
	t.Helper()
	sum, isSum := m.Data.(metricdata.Sum[int64])
	to := map[string]*int64{
		"active_opens": &c.ActiveOpens, "passive_opens": &c.PassiveOpens, "attempt_fails": &c.AttemptFails,
		"estab_resets": &c.EstabResets, "curr_estab": &c.CurrEstab,
	}[name]
	if to == nil || !isSum || sum.IsMonotonic == (name == "curr_estab" || strings.HasPrefix(m.Name, "connspan.unseen.")) {
		t.Fatalf("%s: %+v, want a total, monotonic but for curr_estab and differences", m.Name, m.Data)
	}
	for _, p := range sum.DataPoints {
		if inode, _ := p.Attributes.Value("connspan.netns.inode"); inode.AsInt64() == netns {
			*to = p.Value
		}
	}
}
