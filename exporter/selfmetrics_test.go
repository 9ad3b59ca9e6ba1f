package exporter

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/connspan/connspan/internal/actor"
)

// TestSelfMetricsOfManyCPUs: the CPUs that are possible and never there have no series.
func TestSelfMetricsOfManyCPUs(t *testing.T) {
	s := &Stats{CPUs: make([]CPUStats, 4096)}
	s.CPUs[2] = CPUStats{Numbered: 9, Submitted: 4, RingFull: 3, NoRing: 2}
	s.CPUs[4095] = CPUStats{NoStorage: 1}
	got := map[string]uint64{}
	for i := range selfMetrics {
		m := &selfMetrics[i]
		m.read(s, func(n uint64, of ...attribute.KeyValue) {
			set := attribute.NewSet(of...)
			if _, ok := set.Value("cpu"); ok {
				got[fmt.Sprint(m.name, " ", set.Encoded(attribute.DefaultEncoder()))] = n
			}
		})
	}
	want := map[string]uint64{
		"connspan.event.numbered cpu=2":                 9,
		"connspan.event.numbered cpu=4095":              0,
		"connspan.event.submitted cpu=2":                4,
		"connspan.event.submitted cpu=4095":             0,
		"connspan.event.lost cause=ring_full,cpu=2":     3,
		"connspan.event.lost cause=no_ring,cpu=2":       2,
		"connspan.event.lost cause=no_storage,cpu=2":    0,
		"connspan.event.lost cause=ring_full,cpu=4095":  0,
		"connspan.event.lost cause=no_ring,cpu=4095":    0,
		"connspan.event.lost cause=no_storage,cpu=4095": 1,
	}
	if d := gocmp.Diff(want, got); d != "" {
		t.Errorf("series of CPUs (-want +got):\n%s", d)
	}
}

// TestObserve: the meter tells what Stats has, also while Run runs, and nothing after Close.
func TestObserve(t *testing.T) {
	x, err := New(NewDefaultConfig(), Consumers{}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	if err := x.Observe(provider.Meter("test")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- x.Run(ctx) }()
	crowd := actor.Start(t, "crowd", actor.Plan{Listen: "127.0.0.1:0", How: actor.ClientCloses, Connections: 100, Workers: 2})
	for range 50 {
		collect(t, reader)
	}
	crowd.Report()
	crowd.Wait()
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	s, err := x.Stats()
	if err != nil {
		t.Fatal(err)
	}
	got := collect(t, reader)
	want := map[string]int64{
		"connspan.event.read": int64(s.Read), "connspan.event.released": int64(s.Released), "connspan.event.pending": int64(s.Pending),
		"connspan.connection.opened": int64(s.Opened), "connspan.connection.closed": int64(s.Closed), "connspan.connection.open": int64(s.Open),
		"connspan.event.submitted": int64(s.Read),
	}
	for name, n := range want {
		if got[name] != n {
			t.Errorf("%s: %d, want %d", name, got[name], n)
		}
	}
	own := len(selfMetrics) + 1
	maps.DeleteFunc(got, func(name string, _ int64) bool {
		return strings.Contains(name, "seen.") || strings.HasPrefix(name, "connspan.kernel.")
	})
	if len(got) != own || got["connspan.connection.closed"] < 200 {
		t.Errorf("%d metrics, want %d and 200 connections or more: %v", len(got), own, got)
	}
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
	if got := collect(t, reader); len(got) != 0 {
		t.Errorf("told after Close: %v", got)
	}
	if err := x.Close(); err != nil {
		t.Error(err)
	}
}

// collect sums up the series of each metric.
func collect(t *testing.T, reader *sdkmetric.ManualReader) map[string]int64 {
	t.Helper()
	var metrics metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &metrics); err != nil {
		t.Fatal(err)
	}
	all := map[string]int64{}
	for _, scope := range metrics.ScopeMetrics {
		for _, m := range scope.Metrics {
			all[m.Name] = 0
			if sum, ok := m.Data.(metricdata.Sum[int64]); ok {
				for _, p := range sum.DataPoints {
					all[m.Name] += p.Value
				}
			}
		}
	}
	return all
}
