package telemetry

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/collector/component/componentstatus"

	"github.com/connspan/connspan/exporter"
)

// TestHealth: each reason is told, and goes when what it tells of is over, but for a broken order.
func TestHealth(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	waiting := exporter.Stats{Running: true, Read: 7, CPUs: []exporter.CPUStats{{Submitted: 5}, {Submitted: 4}}}
	read := exporter.Stats{Running: true, Read: 9, CPUs: waiting.CPUs}
	corrupt := waiting
	corrupt.Corrupt = 1
	failed := componentstatus.NewRecoverableErrorEvent(errors.New("connection refused"))
	broken := componentstatus.NewPermanentErrorEvent(errors.New("broken pipe"))
	works := componentstatus.NewEvent(componentstatus.StatusOK)
	type step struct {
		after time.Duration // since the step before
		see   *exporter.Stats
		of    senders
		hear  *componentstatus.Event
		want  []string
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"well", []step{{see: &exporter.Stats{Running: true}, want: []string{}}}},
		{"lost", []step{
			{see: &exporter.Stats{Running: true, Lost: 1, Unseen: 2, Malformed: 4}, want: []string{"events lost: 7 in all, the last 0s ago"}},
			{after: 59 * time.Second, see: &exporter.Stats{Running: true, Lost: 1, Unseen: 2, Malformed: 4}, want: []string{"events lost: 7 in all, the last 59s ago"}},
			{after: time.Second, see: &exporter.Stats{Running: true, Lost: 1, Unseen: 2, Malformed: 4}, want: []string{}},
			{after: time.Second, see: &exporter.Stats{Running: true, Lost: 2, Unseen: 2, Malformed: 4}, want: []string{"events lost: 8 in all, the last 0s ago"}},
		}},
		{"corrupt", []step{
			{see: &corrupt, want: []string{"rings given up: 1 in all, the last 0s ago"}},
			{after: time.Minute, see: &corrupt, want: []string{}},
		}},
		{"refused", []step{
			{see: &exporter.Stats{Running: true}, of: senders{refused: 6}, want: []string{"records refused by an exporter: 6 in all, the last 0s ago"}},
			{after: time.Minute, see: &exporter.Stats{Running: true}, of: senders{refused: 6}, want: []string{}},
		}},
		{"given up", []step{
			{see: &exporter.Stats{Running: true}, of: senders{givenUp: 3}, want: []string{"records given up by an exporter: 3 in all, the last 0s ago"}},
			{after: time.Minute, see: &exporter.Stats{Running: true}, of: senders{givenUp: 3}, want: []string{}},
		}},
		{"order", []step{
			{see: &exporter.Stats{Running: true, Violations: 2}, want: []string{"order violated: 2 events"}},
			{after: time.Hour, see: &exporter.Stats{Running: true, Violations: 2}, want: []string{"order violated: 2 events"}},
		}},
		{"lag", []step{
			{see: &exporter.Stats{Running: true, WatermarkLag: time.Second}, want: []string{}},
			{see: &exporter.Stats{Running: true, WatermarkLag: 3217 * time.Millisecond}, want: []string{"events wait for a CPU that sleeps: watermark 3.22s behind"}},
			{see: &exporter.Stats{Running: true, WatermarkLag: 20 * time.Microsecond}, want: []string{}},
		}},
		{"not read", []step{
			{see: &waiting, want: []string{}},
			{after: 5 * time.Second, see: &waiting, want: []string{}},
			{after: 2 * time.Second, see: &waiting, want: []string{"rings not read for 7s"}},
			{after: time.Second, see: &read, want: []string{}},
			{after: 10 * time.Second, see: &read, want: []string{}},
		}},
		{"silent", []step{
			{see: &read, want: []string{}},
			{after: 6 * time.Second, want: []string{"rings not read for 6s"}},
		}},
		{"exporter", []step{
			{see: &exporter.Stats{Running: true}, hear: failed, want: []string{"exporter otlp (logs): connection refused"}},
			{after: time.Second, hear: works, want: []string{}},
			{after: time.Second, hear: broken, want: []string{"exporter otlp (logs): broken pipe"}},
		}},
		{"queue", []step{
			{see: &exporter.Stats{Running: true}, of: senders{queues: []queue{{"otlp", "logs", 0.8}}}, want: []string{}},
			{see: &exporter.Stats{Running: true}, of: senders{queues: []queue{{"otlp", "logs", 0.81}, {"console", "logs", 1}}}, want: []string{
				"exporter otlp (logs): queue 81% full", "exporter console (logs): queue 100% full",
			}},
			{see: &exporter.Stats{Running: true}, want: []string{}},
		}},
		{"storage", []step{
			{see: &exporter.Stats{Running: true}, of: senders{storage: 0.8}, want: []string{}},
			{see: &exporter.Stats{Running: true}, of: senders{storage: 0.81}, want: []string{"storage of the queues 81% full"}},
			{see: &exporter.Stats{Running: true}, want: []string{}},
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h, now := newHealth(), start
			for i, s := range test.steps {
				now = now.Add(s.after)
				if s.hear != nil {
					h.report("otlp (logs)", s.hear)
				}
				if s.see != nil {
					h.see(*s.see, s.of, now)
				}
				want := answer{Status: statusOK, Reasons: s.want}
				if len(s.want) > 0 {
					want.Status = statusDegraded
				}
				if d := cmp.Diff(want, h.answer(now)); d != "" {
					t.Errorf("step %d (-want +got):\n%s", i, d)
				}
			}
		})
	}
}

func TestValidate(t *testing.T) {
	for _, address := range []string{"", "127.0.0.1:9464", "[::1]:0", "localhost:9464", ":9464", "0.0.0.0:65535"} {
		cfg := NewDefaultConfig()
		cfg.Address = address
		if err := cfg.Validate(); err != nil {
			t.Error(err)
		}
	}
	for address, want := range map[string]string{
		"127.0.0.1":       `telemetry::address: "127.0.0.1", want host:port as in "127.0.0.1:9464", or "" for none`,
		"127.0.0.1:http":  `telemetry::address: "127.0.0.1:http", want host:port as in "127.0.0.1:9464", or "" for none`,
		"127.0.0.1:65536": `telemetry::address: "127.0.0.1:65536", want host:port as in "127.0.0.1:9464", or "" for none`,
	} {
		cfg := NewDefaultConfig()
		cfg.Address = address
		if err := cfg.Validate(); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", address, err, want)
		}
	}
	cfg := NewDefaultConfig()
	cfg.Logs.Level = "loud"
	if err, want := cfg.Validate(), `telemetry::logs::level: "loud", want debug, info, warn or error`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
