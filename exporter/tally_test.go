package exporter

import (
	"context"
	"log/slog"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/connspan/connspan/internal/actor"
)

// TestUnseenByFilter: what a filter leaves out in user space was seen; what the programs leave out was not.
func TestUnseenByFilter(t *testing.T) {
	const crowd, warm = 50, 1
	for _, tt := range []struct {
		name   string
		match  FilterMatch
		unseen int64
	}{
		{"by executable", FilterMatch{Executable: []string{program}, Port: Ports{8080}}, 0},
		{"by port", FilterMatch{Port: Ports{8080}}, crowd},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := actor.NewNetNS(t)
			cfg := NewDefaultConfig()
			cfg.Filter = []FilterRule{{Exclude: &tt.match}}
			x, err := New(cfg, Consumers{}, slog.New(slog.NewTextHandler(t.Output(), nil)))
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
			defer func() {
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
				if err := x.Close(); err != nil {
					t.Error(err)
				}
			}()
			blind := actor.Blind(t)
			ns.Start("hold", actor.Plan{Listen: anyPort, Connections: warm}).Report()
			awaitOf(t, blind, reader, ns.Inode(), map[string]int64{"connspan.kernel.tcp.curr_estab": 2 * warm, "connspan.unseen.tcp.curr_estab": 0})
			p := ns.Start("crowd", actor.Plan{Listen: "127.0.0.1:8080", How: actor.ClientCloses, Connections: crowd, Workers: 2})
			p.Report()
			p.Wait()
			awaitOf(t, blind, reader, ns.Inode(), map[string]int64{
				"connspan.kernel.tcp.active_opens": crowd, "connspan.unseen.tcp.active_opens": tt.unseen,
				"connspan.kernel.tcp.passive_opens": crowd, "connspan.unseen.tcp.passive_opens": tt.unseen,
				"connspan.kernel.tcp.curr_estab": 2 * warm, "connspan.unseen.tcp.curr_estab": 0,
			})
		})
	}
}

// awaitOf wants these metrics of a network namespace, soon.
func awaitOf(t *testing.T, blind func() int, reader *sdkmetric.ManualReader, netns int64, want map[string]int64) {
	t.Helper()
	var got map[string]int64
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		got = collectOf(t, reader, netns, want)
		if gocmp.Equal(want, got) {
			return
		}
	}
	if n := blind(); n > 0 {
		t.Skipf("the kernel has run no program for %d state changes", n)
	}
	t.Fatalf("metrics of network namespace %d (-want +got):\n%s", netns, gocmp.Diff(want, got))
}

// collectOf gives the metrics that are asked for, of a network namespace.
func collectOf(t *testing.T, reader *sdkmetric.ManualReader, netns int64, names map[string]int64) map[string]int64 {
	t.Helper()
	var metrics metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &metrics); err != nil {
		t.Fatal(err)
	}
	all := map[string]int64{}
	for _, m := range metrics.ScopeMetrics[0].Metrics {
		sum, ok := m.Data.(metricdata.Sum[int64])
		if _, asked := names[m.Name]; !ok || !asked {
			continue
		}
		for _, p := range sum.DataPoints {
			if inode, _ := p.Attributes.Value(attrNetNS); inode.AsInt64() == netns {
				all[m.Name] = p.Value
			}
		}
	}
	return all
}
